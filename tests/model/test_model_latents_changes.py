"""Encoded shards stay those of their samples: after kills, new captions, takedowns, full disks."""

from __future__ import annotations

import json
import multiprocessing as mp
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from s2v.datapipe.base.shards import INDEX_FILE
from s2v.datapipe.write.latents import forget_latents
from s2v.model.config import Config
from s2v.model.data.features import Features, StoredFeatures
from s2v.model.data.quarantine import Quarantine
from s2v.model.errors import ModelError
from s2v.model.latents import estimate
from s2v.model.latents.container import DiskFullError
from s2v.model.latents.encode import encode
from s2v.model.latents.verify import verify
from s2v.model.run import Run

sys.path.append(str(Path(__file__).parent))  # what both latents tests share

from latents_kit import contents, encoded, encoding, own, samples

Tiny = Callable[..., Config]


def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(
    made: SimpleNamespace, tmp_path: Path
) -> None:
    """Killed before, while and after each file is written; nothing half is ever under its name."""
    out, fork = tmp_path / "latents", mp.get_context("fork")
    folder = out / made.result.fingerprint
    marks = ["encoder.json", ".cross-000000.tar.*.tmp", "cross-000000.tar", ".in-000000.tar.*.tmp"]
    for mark in marks:
        process = fork.Process(
            target=encoded, args=(made.config, made.shards, made.run), kwargs={"out": out}
        )
        process.start()
        until = time.monotonic() + 60
        while process.is_alive() and not list(folder.glob(mark)):
            assert time.monotonic() < until
            time.sleep(0.001)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        for path in folder.glob("*.tar"):
            assert path.read_bytes() == (Path(made.result.folder) / path.name).read_bytes()
    for path in folder.glob(".*.tmp"):
        os.utime(path, (1, 1))  # an hour later
    result = encoded(made.config, made.shards, made.run, out=out)
    assert result.open == 0
    assert contents(folder) == contents(made.result.folder), "and the killed ones' files are gone"


def _changed_caption(shards: Path, sample_id: str, caption: str) -> None:
    """Write a shard anew with another caption, as ``s2v-data`` does after a new captioner."""
    from s2v.datapipe.base.shards import SampleMeta
    from s2v.datapipe.write.tar import index_row, write_index, write_tar

    by_shard: dict[str, list[Any]] = {}
    for sample in samples(shards).values():
        members = {s: sample.read(s) for s in sample.suffixes}
        meta = sample.meta()
        if sample.id == sample_id:
            meta = SampleMeta.model_validate(meta.model_dump(by_alias=True) | {"caption": caption})
            members |= {"txt": caption.encode(), "json": meta.to_json()}
        by_shard.setdefault(sample.row["shard"], []).append((sample.id, members, meta))
    rows = []
    for shard, made in sorted(by_shard.items()):
        written = write_tar(shards / shard, [(key, members) for key, members, _ in made])
        rows += [index_row(shard, w, m[2]) for w, m in zip(written, made, strict=True)]
    write_index(shards, rows)


def test_a_new_caption_is_encoded_anew_and_nothing_else_is(
    made: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = own(made.shards, tmp_path)
    folder = shards / "latents" / made.result.fingerprint
    before = contents(folder)
    _changed_caption(shards, "in-00-001", "a shape moves and stays")
    store = Run(made.run, tmp_path / "cache").store(made.config)
    stale = store.get(samples(shards)["in-00-001"])
    assert isinstance(stale, Features), "the old entry must not be served"
    assert stale.text.shape[0] == 6
    share = encoding(made.config, shards, made.run)
    with pytest.raises(ModelError, match=r"in-000000\.tar: 1 entries are not of the shard as it"):
        verify(share)
    calls: list[str] = []
    for part in ("videos", "references", "words"):
        one = getattr(type(share.tools.encoders), part)
        monkeypatch.setattr(
            type(share.tools.encoders), part,
            lambda *a, one=one, part=part: calls.append(part) or one(*a),
        )  # fmt: skip
    result = encode(share)
    assert calls == ["words"], "its clip and references are what they were"
    assert (result.made, result.kept) == (1, 15)
    monkeypatch.undo()
    fresh = encoded(made.config, shards, made.run, out=tmp_path / "fresh")
    after = contents(folder)
    assert after == contents(fresh.folder), "as if all were encoded now"
    assert {name for name in after if after[name] != before[name]} == {"in-000000.tar"}
    again = Run(made.run, tmp_path / "cache").store(made.config).get(samples(shards)["in-00-001"])
    assert isinstance(again, StoredFeatures)
    assert torch.equal(again.text, stale.text)


def test_a_takedown_takes_the_latents_too(made: SimpleNamespace, tmp_path: Path) -> None:
    shards = own(made.shards, tmp_path)
    path = shards / INDEX_FILE
    table = pq.read_table(path)
    names, shard = table["sample_id"].to_pylist(), table["shard"].to_pylist()
    keep = [
        i not in ("in-00-002", "in-01-000") and s != "cross-000000.tar"
        for i, s in zip(names, shard, strict=True)
    ]
    pq.write_table(table.filter(np.array(keep)), path)
    result = encoded(made.config, shards, made.run)
    assert (result.made, result.removed, result.kept) == (0, 2, 10)
    assert not (Path(result.folder) / "cross-000000.tar").exists()
    raw = (Path(result.folder) / "in-000000.tar").read_bytes()
    assert b"in-00-002." not in raw
    assert b"in-00-001." in raw
    fresh = encoded(made.config, shards, made.run, out=tmp_path / "fresh")
    assert contents(result.folder) == contents(fresh.folder)


def test_taking_down_shards_takes_the_latents_that_show_it(
    made: SimpleNamespace, tmp_path: Path
) -> None:
    """Before anybody encodes again, and whatever the fingerprint."""
    shards = own(made.shards, tmp_path)
    folder = shards / "latents" / Path(made.result.folder).name  # copied along
    assert list(folder.glob("*.tar"))
    assert forget_latents(shards) == []  # all of them are there
    path = shards / INDEX_FILE
    table = pq.read_table(path)
    names, shard = table["sample_id"].to_pylist(), table["shard"].to_pylist()
    pq.write_table(table.filter(np.array([i != "in-00-002" for i in names])), path)
    gone = forget_latents(shards)
    assert gone == [f"latents/{folder.name}/in-000000.tar"]
    assert all(b"in-00-002." not in tar.read_bytes() for tar in folder.glob("*.tar"))
    again = encoded(made.config, shards, made.run, out=shards / "latents")
    assert again.open == 0
    assert again.kept == sum(s != "in-000000.tar" for s in shard)  # of the others nothing is lost


def _listed(path: Path, **keys: str) -> str:
    """An exclusion list as settings."""
    lines = [
        {"key_type": kind, "key": key, "reason": "asked", "by": "us", "when": "2026-11-23"}
        for kind, key in keys.items()
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return f'data.exclusions=["{path}"]'


def test_what_a_list_names_is_not_encoded_and_goes_where_it_was(
    made: SimpleNamespace, tiny: Tiny, tmp_path: Path
) -> None:
    """By what the index says, and by what only the sample says of its references."""
    shards = own(made.shards, tmp_path)
    listed = _listed(tmp_path / "l.jsonl", sample_id="in-00-002", subject_id="v1-0-s1")
    config = tiny("data.variants=2", listed)
    r = encoded(config, shards, made.run)
    assert (r.made, r.kept, r.removed, r.encoded) == (0, 14, 2, 14)
    assert r.excluded["excluded by sample_id"] == r.excluded["excluded by subject_id"] == 1
    assert r.samples == r.encoded + r.quarantined + sum(r.excluded.values()) + r.open
    raw = b"".join(contents(r.folder).values())
    assert b"in-00-002." not in raw
    assert b"cross-01-000." not in raw, "one of its two references shows the subject"
    assert b"in-00-001." in raw


def test_sizes_of_all_phases_share_a_folder_and_another_recipe_leaves_them(
    made: SimpleNamespace, tiny: Tiny, tmp_path: Path
) -> None:
    shards = own(made.shards, tmp_path)
    later = "data.phases=[{ from_step = 2, sizes = [[5, 32, 48]] }]"
    two = tiny("data.variants=2", later)
    r = encoded(two, shards, made.run)
    assert (r.fingerprint, r.made, r.kept) == (made.result.fingerprint, 12, 16)
    assert (r.encoded, r.open) == (16, 0), "counted in samples"
    store = Run(made.run, tmp_path / "cache").store(two)
    sample = samples(shards)["in-00-001"]
    for size, shape in (((9, 48, 80), (16, 3, 6, 10)), ((5, 32, 48), (16, 2, 4, 6))):
        features = store.get(sample, size)
        assert isinstance(features, StoredFeatures)
        video, references, _ = features.pick(0, torch.tensor([0]), torch.tensor([0]))
        assert tuple(video.shape) == shape
        assert tuple(references.shape) == (1, 16, *shape[2:])
    again = encoded(made.config, shards, made.run)
    assert (again.made, again.removed, again.bytes) == (0, 0, r.bytes)
    pruned = encoded(made.config, shards, made.run, prune=True)
    assert (pruned.made, pruned.removed) == (0, 12)
    assert contents(pruned.folder) == contents(made.result.folder)


def test_a_bad_sample_costs_itself_and_not_its_shard(made: SimpleNamespace, tmp_path: Path) -> None:
    shards = own(made.shards, tmp_path)
    bad = samples(shards)["in-00-003"]
    member = next(m for m in bad.row["members"] if m["suffix"] == "mp4")
    path = shards / bad.row["shard"]
    raw = bytearray(path.read_bytes())
    raw[member["offset"] + 100] ^= 0xFF
    path.write_bytes(bytes(raw))
    out = tmp_path / "fresh"
    result = encoded(made.config, shards, made.run, out=out)
    assert (result.encoded, result.quarantined, result.open) == (15, 1, 0)
    line = json.loads((Path(result.folder) / "quarantine.jsonl").read_text())
    assert line["sample_id"] == "in-00-003"
    assert "sha256 differs" in line["message"]
    assert str(tmp_path) not in line["message"], "the same bytes wherever the shards lie"
    again = encoded(made.config, shards, made.run, out=out)
    assert (again.made, again.quarantined) == (0, 1), "not tried again for nothing"
    # In training it is one sample that is set aside, not the end of the run.
    config = made.config.model_copy(
        update={
            "latents": made.config.latents.model_copy(update={"use": "require", "folder": str(out)})
        }
    )
    store = Run(made.run, tmp_path / "cache").store(config)
    quarantine = Quarantine(20)
    wanted = [s for i, s in samples(shards).items() if i.startswith("in-00-00")]
    assert len(store.prepare(wanted, quarantine)) == 3
    assert [f.sample_id for f in quarantine.faults] == ["in-00-003"]
    raw[member["offset"] + 100] ^= 0xFF
    path.write_bytes(bytes(raw))
    mended = encoded(made.config, shards, made.run, out=out, retry=True)
    assert (mended.made, mended.quarantined) == (1, 0)
    assert contents(mended.folder) == contents(made.result.folder)


def test_a_missing_shard_is_named_after_all_others_are_encoded(
    made: SimpleNamespace, tmp_path: Path
) -> None:
    shards = own(made.shards, tmp_path)
    (shards / "cross-000000.tar").unlink()
    out = tmp_path / "fresh"
    with pytest.raises(ModelError, match=r"12 samples are encoded, but 1 shards could not be") as e:
        encoded(made.config, shards, made.run, out=out)
    assert "cross-000000.tar" in str(e.value)
    assert "the shard is missing" in str(e.value)
    name = "in-000000.tar"
    done = out / made.result.fingerprint / name
    assert done.read_bytes() == (Path(made.result.folder) / name).read_bytes()


def test_too_small_a_disk_is_refused_before_anything_is_made(
    made: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    share = encoding(made.config, made.shards, made.run, out=tmp_path / "latents")
    needed = share.needed()
    assert made.result.bytes <= needed <= 2 * made.result.bytes
    monkeypatch.setattr(estimate.shutil, "disk_usage", lambda _: SimpleNamespace(free=needed - 1))
    with pytest.raises(ModelError, match=r"needs up to .* GB, .* GB are free; make room"):
        encode(share)
    assert not (tmp_path / "latents").exists()
    monkeypatch.setattr(estimate.shutil, "disk_usage", lambda _: SimpleNamespace(free=needed))
    assert encode(share).encoded == 16
    assert encoding(made.config, made.shards, made.run, out=tmp_path / "latents").needed() == 0


def test_a_disk_that_fills_leaves_whole_files_and_says_so(
    made: SimpleNamespace, tmp_path: Path
) -> None:
    """A real refusal by the system: files may grow to the size of the smaller shard only."""
    out, said = tmp_path / "latents", tmp_path / "said"
    limit = (Path(made.result.folder) / "cross-000000.tar").stat().st_size

    def run() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            encoded(made.config, made.shards, made.run, out=out)
        except DiskFullError as error:
            said.write_text(str(error))

    process = mp.get_context("fork").Process(target=run)
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert "in-000000.tar: the disk is full" in said.read_text()
    folder = out / made.result.fingerprint
    assert [p.name for p in folder.glob("*.tar")] == ["cross-000000.tar"]
    assert not list(folder.glob(".*.tmp"))
