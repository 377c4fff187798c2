"""Encoded shards: the same bytes however they were made, and never another sample's numbers."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tarfile
from copy import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from s2v.model.config import Config
from s2v.model.data.features import Features, FeatureStore, StoredFeatures
from s2v.model.errors import ModelError
from s2v.model.latents.encode import encode
from s2v.model.latents.entry import want
from s2v.model.latents.plan import Plan, Task, divide
from s2v.model.latents.verify import verify
from s2v.model.run import Run

sys.path.append(str(Path(__file__).parent))  # what both latents tests share

from latents_kit import contents, encoding, own, samples


def _store(made: SimpleNamespace, folder: Path, config: Config | None = None) -> FeatureStore:
    return Run(made.run, folder).store(config or made.config)


def test_every_sample_of_the_index_is_accounted_for(made: SimpleNamespace) -> None:
    r = made.result
    assert (r.samples, r.encoded, r.quarantined, r.open) == (18, 16, 0, 0)
    assert r.excluded == {"clip shorter than the window": 1, "split test": 1}
    assert r.samples == r.encoded + r.quarantined + sum(r.excluded.values()) + r.open
    assert r.made == 16
    assert r.bytes == sum(p.stat().st_size for p in Path(r.folder).glob("*.tar"))
    assert r.bound in r.seconds
    assert sorted(p.name for p in Path(r.folder).iterdir()) == [
        "cross-000000.tar", "empty.safetensors", "encoder.json", "in-000000.tar",
        "quarantine.jsonl",
    ]  # fmt: skip


def test_what_is_read_is_what_is_made_to_the_last_bit(
    made: SimpleNamespace, tmp_path: Path
) -> None:
    stored, fresh = _store(made, tmp_path / "a"), _store(made, tmp_path / "b")
    fresh.latents = fresh.latents.model_copy(update={"use": "off"})
    plan = Plan(made.config, made.shards, ["train"])
    for item in plan.shard(plan.tasks[0]).items:
        sample = item.sample
        one, other = stored.get(sample), fresh.get(sample)
        assert isinstance(one, StoredFeatures)
        assert isinstance(other, Features)
        loaded = vars(one.load())
        for name, tensor in vars(other).items():
            assert torch.equal(loaded[name], tensor), name
            assert loaded[name].dtype == tensor.dtype
        for variant in range(2):
            which = torch.arange(other.candidates).flip(0)
            form = torch.tensor([2, 0][: other.candidates])
            picked = one.pick(variant, which, form), other.pick(variant, which, form)
            assert all(torch.equal(a, b) for a, b in zip(*picked, strict=True))
    assert stored.taken["made"] == 0
    assert fresh.taken["latents"] == 0


def test_only_the_rows_of_a_step_are_read(
    made: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry holds every variant, candidate and form; a step sees one of each."""
    from s2v.model.latents.container import LatentsFile

    read: list[int] = []
    before = LatentsFile.pread_into

    def counted(self: LatentsFile, out: memoryview, offset: int) -> None:
        read.append(len(out))
        before(self, out, offset)

    store = _store(made, tmp_path)
    sample = samples(made.shards)["cross-01-000"]  # two candidates
    store.get(sample)  # the file's index is read once
    monkeypatch.setattr(LatentsFile, "pread_into", counted)
    features = store.get(sample)
    features.pick(1, torch.tensor([1]), torch.tensor([2]))
    # Linear latents of 48 x 80 pixels, 9 frames: 16 x 3 x 6 x 10; colours: 4 x 12.
    floats = 16 * 3 * 6 * 10 + 16 * 6 * 10 + 4 * 12
    small = 3200  # tar and safetensors headers, text, ids
    assert sum(read) <= 4 * floats + small
    whole = 2 * (16 * 3 * 6 * 10 + 2 * 3 * (16 * 6 * 10 + 4 * 12))
    assert 4 * whole > 2 * sum(read)


def test_the_file_is_a_tar_that_stock_tools_read(made: SimpleNamespace, tmp_path: Path) -> None:
    import webdataset as wds
    from safetensors.torch import load

    path = Path(made.result.folder) / "cross-000000.tar"
    with tarfile.open(path) as tar:
        infos = tar.getmembers()
    assert {(i.mtime, i.uid, i.gid, i.uname, i.mode) for i in infos} == {(0, 0, 0, "", 0o644)}
    keys = []
    for sample in wds.WebDataset([str(path)], shardshuffle=False, empty_check=False):
        keys.append(sample["__key__"])
        tensors = load(sample["9x48x80.safetensors"])
        assert tensors["video"].shape == (2, 16, 3, 6, 10)
    assert keys == ["cross-00-000", "cross-00-001", "cross-01-000", "cross-01-001"]


@pytest.mark.parametrize("readers", [0, 3])
def test_bytes_do_not_depend_on_readers_or_how_work_was_shared(
    made: SimpleNamespace, tmp_path: Path, readers: int
) -> None:
    out = tmp_path / "latents"
    for rank in (1, 0):
        share = encoding(made.config, made.shards, made.run, out=out, readers=readers)
        result = encode(share, rank=rank, world=2)
        assert result.made in (4, 12), "no shard twice"
        assert result.open == (16 - result.made if rank == 1 else 0)
    assert contents(result.folder) == contents(made.result.folder)


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_every_shard_is_one_processs_and_loads_are_even(world: int) -> None:
    counts = np.random.default_rng(0).integers(1, 40, 23).tolist()
    tasks = [Task(f"in-{n:06d}.tar", (), count) for n, count in enumerate(counts)]
    shares = [divide(tasks, rank, world) for rank in range(world)]
    assert sorted(t.shard for share in shares for t in share) == [t.shard for t in tasks]
    loads = [sum(t.count for t in share) for share in shares]
    assert max(loads) - min(loads) <= max(counts)


def test_torchrun_makes_the_same_bytes(made: SimpleNamespace, tmp_path: Path) -> None:
    out = tmp_path / "latents"
    (tmp_path / "run.toml").write_text(made.config.to_toml())
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "-m", "s2v.model.cli", "encode", "--shards", str(made.shards), "--out", str(out),
        "--recipe", str(tmp_path / "run.toml"), "--of-run", str(made.run), "--quiet",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert contents(out / made.result.fingerprint) == contents(made.result.folder)


def test_a_damaged_file_is_named_by_verify_and_never_trained_on(
    made: SimpleNamespace, tmp_path: Path
) -> None:
    shards = own(made.shards, tmp_path)
    share = encoding(made.config, shards, made.run)
    assert verify(share).entries == 16
    path = share.folder / "cross-000000.tar"
    whole = path.read_bytes()
    entry = _index(path)["entries"][1]
    broken = bytearray(whole)
    broken[entry["offset"] + entry["bytes"] - 1] ^= 1
    path.write_bytes(bytes(broken))
    with pytest.raises(ModelError, match=r"cross-000000\.tar: cross-00-001.* sha256 differs"):
        verify(share)
    wanted = samples(shards)["cross-00-001"]
    for cut in (len(whole) // 2, len(whole) - 1024, 100, 0):
        path.write_bytes(whole[:cut])
        store = Run(made.run, tmp_path / f"cache{cut}").store(made.config)
        assert isinstance(store.get(wanted), Features)
        with pytest.raises(ModelError, match=r"cross-000000\.tar: "):
            verify(share)
    assert encode(share).made == 4
    assert path.read_bytes() == whole


def _index(path: Path) -> Any:
    with tarfile.open(path) as tar:
        return json.loads(tar.extractfile("__index__").read())  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "change",
    [
        {"offset": -512}, {"offset": 1 << 50}, {"bytes": -1}, {"bytes": 1 << 50},
        {"sample_id": "in-00-001"}, {"size": [5, 48, 80]},
    ],
)  # fmt: skip
def test_a_strangers_index_reads_nothing_but_its_own_entries(
    made: SimpleNamespace, tmp_path: Path, change: dict[str, Any]
) -> None:
    shards = own(made.shards, tmp_path)
    path = shards / "latents" / made.result.fingerprint / "in-000000.tar"
    raw = path.read_bytes()
    with tarfile.open(path) as tar:
        at = tar.getmember("__index__")
        end = tar.getmember("__end__")
    index = json.loads(raw[at.offset_data : at.offset_data + at.size])
    index["entries"][0] |= change
    text = json.dumps(index, sort_keys=True, separators=(",", ":")).encode()
    said = {
        "bytes": len(text),
        "offset": at.offset_data,
        "sha256": hashlib.sha256(text).hexdigest(),
    }
    room = end.offset - at.offset_data
    path.write_bytes(
        raw[: at.offset_data]
        + text.ljust(max(room, -(-len(text) // 512) * 512), b"\0")
        + raw[end.offset : end.offset + 512]
        + json.dumps(said).encode().ljust(512)
        + bytes(1024)
    )
    truth = _store(made, tmp_path / "truth")
    store = Run(made.run, tmp_path / "cache").store(made.config)
    for name in ("in-00-000", "in-00-001"):
        got, right = store.get(samples(shards)[name]), truth.get(samples(made.shards)[name])
        none = torch.arange(0), torch.tensor(0)
        assert torch.equal(got.pick(1, *none)[0], right.pick(1, *none)[0])


def test_memory_does_not_grow_with_what_is_read(made: SimpleNamespace, tmp_path: Path) -> None:
    store = _store(made, tmp_path)
    for sample in samples(made.shards).values():
        row = sample.row
        if row["split"] == "train" and not row["heldout"] and row["frames"] > 8:
            store.get(sample)
    assert not store._memory
    (latents,) = store._roots.values()
    assert len(latents._files) <= 2
    for look in latents._lookups.values():
        assert look is not None
        arrays = [look.keys, look.offsets, look.sizes, look.contents, look.kind]
        assert sum(a.nbytes for a in arrays) <= 40 * len(look.keys)


def test_a_store_travels_to_worker_processes(made: SimpleNamespace, tmp_path: Path) -> None:
    """As spawned workers get it: its open files stay behind."""
    store = _store(made, tmp_path)
    sample = samples(made.shards)["in-00-000"]
    one = store.get(sample)
    twin = copy(next(iter(store._roots.values())))
    assert not twin._files
    other = twin.find(sample, want(sample, made.config.data))
    assert isinstance(one, StoredFeatures)
    assert isinstance(other, StoredFeatures)
    assert torch.equal(one.load().video, other.load().video)
