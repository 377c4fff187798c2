"""What a checkpoint's files are: read whole by anybody, never a pickle, checked when read."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file
from torch.distributed.checkpoint import HuggingFaceStorageReader

from s2v.model import checkpoint
from s2v.model.checkpoint import Checkpoint, Saver, Watch
from s2v.model.checkpointing import layout
from s2v.model.checkpointing.parts import SHARDING, Part
from s2v.model.checkpoints.safetensors_file import Entry
from s2v.model.checkpoints.weights import open_weights
from s2v.model.checkpoints.writing import Stored, write_file
from s2v.model.errors import ModelError

ABOUT = {"network": {"width": 5}, "widths": {"latent": 1, "text": 2, "image": 3}, "features": "f"}


def state(step: int) -> Checkpoint:
    weights = {"w": torch.arange(12.0).reshape(3, 4) * step, "n": torch.tensor([1, 2])}
    moments = {"w/exp_avg": torch.full((3, 4), 0.1), "w/step": torch.tensor(float(step))}
    return Checkpoint(step, weights, {"w": weights["w"] / 3}, moments, {"plan": {}}, ABOUT)


def test_no_pickle_is_written_or_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = checkpoint.save(tmp_path, state(1), 1)
    assert {p.suffix for p in path.rglob("*") if p.is_file()} == {".safetensors", ".json"}

    def opened(*_: Any, **__: Any) -> None:
        raise AssertionError("a pickle was opened")

    for module, name in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler")):
        monkeypatch.setattr(module, name, opened)
    monkeypatch.setattr(torch, "load", opened)
    assert torch.equal(checkpoint.load(path).model["w"], state(1).model["w"])
    into = {part: {n: torch.zeros_like(t) for n, t in tensors.items()}
            for part, tensors in state(1).parts().items()}  # fmt: skip
    assert torch.equal(checkpoint.load(path, into).ema["w"], state(1).ema["w"])


def test_torchs_own_reader_takes_a_part_as_it_is(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, state(2), 1)
    mine = {n: torch.zeros_like(t) for n, t in state(2).model.items()}
    dcp.load(mine, storage_reader=HuggingFaceStorageReader(str(path / "model")), no_dist=True)
    assert all(torch.equal(mine[n], t) for n, t in state(2).model.items())


def test_what_is_saved_is_what_was_there_when_asked(tmp_path: Path) -> None:
    """Training goes on at once: the next step changes every tensor in place."""
    now = state(3)
    with Saver(tmp_path / "behind", 1) as saver:
        saver.save(now)
        for tensors in now.parts().values():
            for tensor in tensors.values():
                tensor.zero_()
    checkpoint.save(tmp_path / "waited", state(3), 1)
    for path in sorted((tmp_path / "waited").rglob("*")):
        if path.is_file():  # the same bytes, also from copies
            other = tmp_path / "behind" / path.relative_to(tmp_path / "waited")
            assert other.read_bytes() == path.read_bytes()


def test_weights_are_read_without_the_optimiser(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, state(2), 1)
    shutil.rmtree(path / "optim")
    weights, about, digest = checkpoint.load_weights(path, "ema")
    assert torch.equal(weights["w"], state(2).ema["w"])
    assert about == ABOUT
    assert digest == hashlib.sha256((path / "ema/rank-00000.safetensors").read_bytes()).hexdigest()
    with pytest.raises(ModelError, match=r"optim/rank-00000.safetensors: missing .*remove "):
        checkpoint.load(path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t: t.replace('"step": 2', '"step": 3'), "changed since it was written"),
        (lambda t: t[:40], "broken"),
        (lambda t: "[1]", "no JSON object"),
        (lambda t: t.replace("s2v-train-2", "s2v-train-9"), "written by another version"),
    ],
)
def test_an_edited_state_is_refused(tmp_path: Path, change: Any, told: str) -> None:
    path = checkpoint.save(tmp_path, state(2), 1)
    file = path / "state.json"
    file.write_text(change(file.read_text()))
    with pytest.raises(ModelError, match=told):
        checkpoint.load(path)


def test_a_state_that_names_files_elsewhere_is_refused(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, state(2), 1)
    said = json.loads((path / "state.json").read_text())
    said["files"]["../../secret"] = {"bytes": 1, "sha256": "0"}
    body = {k: v for k, v in said.items() if k != "sha256"}
    said["sha256"] = layout._digest(body)
    (path / "state.json").write_text(json.dumps(said))
    with pytest.raises(ModelError, match=r"a file named '\.\./\.\./secret'"):
        checkpoint.describe(path)


def _piece(path: Path, rows: torch.Tensor, offsets: list[int], shape: list[int]) -> Path:
    sharding = {"w": {"saved_offsets": offsets, "global_shape": shape}}
    stored = Stored(Entry("float32", tuple(rows.shape)), lambda: rows)
    write_file(path, {"w": stored}, {SHARDING: json.dumps(sharding)})
    return path


def test_pieces_are_put_together_and_holes_are_not_filled_with_what_lay_in_memory(
    tmp_path: Path,
) -> None:
    w = torch.arange(20.0).reshape(5, 4)
    a = _piece(tmp_path / "a.safetensors", w[:3], [0, 0], [5, 4])
    b = _piece(tmp_path / "b.safetensors", w[3:], [3, 0], [5, 4])
    assert torch.equal(Part(tmp_path, [b, a]).read("w"), w)
    with pytest.raises(ModelError, match="do not add up"):
        Part(tmp_path, [a])
    twice = _piece(tmp_path / "c.safetensors", w[3:], [2, 0], [5, 4])  # rows 2, 3; none of 4
    with pytest.raises(ModelError, match="do not add up"):
        Part(tmp_path, [a, twice])
    quarters = [
        _piece(tmp_path / f"q{i}{j}.safetensors", w[i : i + 3, j : j + 2], [i, j], [5, 4])
        for i in (0, 3)
        for j in (0, 2)
    ]
    assert torch.equal(Part(tmp_path, quarters).read("w"), w)
    outside = _piece(tmp_path / "d.safetensors", w[3:], [4, 0], [5, 4])
    with pytest.raises(ModelError, match="says wrongly where w stands"):
        Part(tmp_path, [a, outside])
    with pytest.raises(ModelError, match=r"share of one process.*name the checkpoint's folder"):
        open_weights(a)  # as if it were the whole network


def test_another_network_is_refused_by_name(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, state(2), 1)

    def into(model: dict[str, torch.Tensor]) -> None:
        checkpoint.load(path, {"model": model})

    with pytest.raises(ModelError, match=r"model: the checkpoint lacks extra"):
        into({**state(2).model, "extra": torch.zeros(1)})
    with pytest.raises(ModelError, match=r"model: the network lacks the saved n"):
        into({"w": torch.zeros(3, 4)})
    with pytest.raises(
        ModelError, match=r"saved as float32 \(3, 4\), here it is bfloat16 \(3, 4\)"
    ):
        into({**state(2).model, "w": torch.zeros(3, 4, dtype=torch.bfloat16)})
    with pytest.raises(ModelError, match=r"has the optimiser's w/exp_avg, of no trained parameter"):
        checkpoint.blank_optimiser(path, [("v", torch.nn.Parameter(torch.zeros(3, 4)))])


def first_format(folder: Path) -> Path:
    """A checkpoint as versions before this format wrote it."""
    path = folder / "step-00000007"
    path.mkdir(parents=True)
    old = state(7)
    for part, tensors in old.parts().items():
        metadata = {"s2v": json.dumps({"format": "s2v-mmdit-1", **ABOUT})}
        save_file(dict(tensors), path / f"{part}.safetensors", metadata=metadata)
    said = {"format": "s2v-mmdit-1", "step": 7, "state": {"plan": {}}, "about": ABOUT}
    said["sha256"] = {
        p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in path.glob("*.safetensors")
    }
    (path / "state.json").write_text(json.dumps(said))
    return path


def test_checkpoints_of_the_first_format_keep_their_weights(tmp_path: Path) -> None:
    path = first_format(tmp_path)
    assert checkpoint.latest(tmp_path) == path
    weights, about, _ = checkpoint.load_weights(path, "model")
    assert torch.equal(weights["w"], state(7).model["w"])
    assert about == ABOUT
    assert checkpoint.open_weights(path, "ema").entries["w"].shape == (3, 4)
    with pytest.raises(ModelError, match=r"earlier version.*can be sampled.*another run folder"):
        checkpoint.load(path, {"model": dict(state(7).model)})


def test_a_checkpoint_is_due_by_steps_by_minutes_and_by_signals() -> None:
    now = [0.0]
    watch = Watch(10, 5.0, clock=lambda: now[0])
    assert not watch.look(9, False, {}, False).save
    assert watch.look(10, False, {}, False).save
    assert watch.look(11, True, {}, False).save  # the last step
    now[0] = 299.0
    assert not watch.look(12, False, {}, False).save
    now[0] = 300.0
    assert watch.look(13, False, {}, False).save
    watch.saved()
    assert not watch.look(14, False, {}, False).save
    asked = watch.look(15, False, {"signal": 15}, False)
    assert (asked.save, asked.signal, asked.failed) == (True, 15, False)
    assert watch.look(16, False, {}, True).failed
    now[0] = 1e9
    assert not Watch(10, None, clock=lambda: now[0]).look(3, False, {}, False).save
