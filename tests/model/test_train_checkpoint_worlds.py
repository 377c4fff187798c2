"""Checkpoints of several processes: FSDP2 and HSDP over gloo, read by any other number of them."""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from s2v.model import checkpoint, optim
from s2v.model.checkpoint import Checkpoint, Saver, Watch
from s2v.model.config import OptimConfig
from s2v.model.errors import ModelError

sys.path.append(str(Path(__file__).parent))  # a kit that several tests share

from ranks_kit import together

Shape = tuple[int, ...]


class Odd(nn.Module):
    """Sizes that no number of processes divides; one row alone; a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 7), nn.Linear(7, 3)
        self.row = nn.Parameter(torch.randn(1, 3))
        self.register_buffer("table", torch.arange(4.0))

    def forward(self, x: Tensor) -> Tensor:
        """[B, 6] -> [B, 3]."""
        return self.second(self.first(x).tanh()) * self.row + self.table.sum()


class Training:
    """Steps of a fixed course; cut over ``mesh`` (2: FSDP, (2, 1): HSDP) or whole (None)."""

    def __init__(self, mesh: Shape | None) -> None:
        torch.manual_seed(0)
        self.model = Odd()
        if mesh is not None:
            dims = ("dp",) if len(mesh) == 1 else ("replicate", "shard")
            fully_shard(self.model, mesh=init_device_mesh("cpu", mesh, mesh_dim_names=dims))
        self.optimiser = optim.adamw(self.model, OptimConfig(lr=0.05))
        self.ema = optim.Ema(self.model.named_parameters(), 0.5)
        self.step = 0

    def run(self, steps: int) -> None:
        """Every process sees the same batch, so that a mean over them changes nothing."""
        for _ in range(steps):
            self.step += 1
            x = torch.randn(4, 6, generator=torch.Generator().manual_seed(self.step))
            self.optimiser.zero_grad()
            self.model(x).square().mean().backward()
            self.optimiser.step()
            self.ema.update(self.model.named_parameters(), self.step)

    def now(self) -> Checkpoint:
        """What is saved."""
        return Checkpoint(
            self.step,
            self.model.state_dict(),
            self.ema.weights,
            optim.state_tensors(self.model, self.optimiser),
            {"plan": self.step},
            {"network": {}},
        )

    def restore(self, path: Path) -> None:
        """Go on from a checkpoint."""
        parameters = list(self.model.named_parameters())
        into = {
            "model": self.model.state_dict(),
            "ema": self.ema.weights,
            "optim": checkpoint.blank_optimiser(path, parameters),
        }
        saved = checkpoint.load(path, into)
        optim.load_state_tensors(self.model, self.optimiser, saved.optim)
        self.step = saved.step

    def whole(self) -> dict[str, Tensor]:
        """Every tensor, put together (asks the other processes)."""
        return {
            f"{part}/{name}": (t.full_tensor() if isinstance(t, DTensor) else t).detach().clone()
            for part, tensors in self.now().parts().items()
            for name, t in tensors.items()
        }


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


def read(path: Path) -> dict[str, Tensor]:
    return {
        f"{part}/{name}": t
        for part, tensors in checkpoint.load(path).parts().items()
        for name, t in tensors.items()
    }


@pytest.mark.parametrize("mesh", [(2,), (2, 1)])
def test_two_processes_save_what_they_hold_and_one_reads_all(tmp_path: Path, mesh: Shape) -> None:
    def training(rank: int) -> None:
        t = Training(mesh)
        with Saver(tmp_path / "c", 2) as saver:
            for _ in range(3):
                t.run(1)
                saver.save(t.now())
        whole = t.whole()
        if rank == 0:
            torch.save(whole, tmp_path / "whole.pt")

    assert together(2, training) == [0, 0]
    assert [p.name for p in sorted((tmp_path / "c").iterdir())] == [
        "step-00000002",
        "step-00000003",
    ]
    path = checkpoint.latest(tmp_path / "c")
    assert path is not None
    expected = torch.load(tmp_path / "whole.pt", weights_only=True)
    assert same(read(path), expected)
    described = checkpoint.describe(path)
    assert described.written_by["processes"] == 2
    assert len(described.files["model"]) == 2  # each wrote a share, replicas too
    weights = checkpoint.open_weights(path, "ema")
    assert torch.equal(weights.read("first.weight"), expected["ema/first.weight"])


@pytest.mark.parametrize(
    ("before", "after"), [((2,), None), (None, (2,)), ((2,), (2,)), ((2,), (2, 1)), ((2, 1), (2,))]
)
def test_a_training_goes_on_in_another_world_where_it_was(
    tmp_path: Path, before: Shape | None, after: Shape | None
) -> None:
    """Read bit for bit in the new world; then the same course, to rounding."""
    folder = tmp_path / "c"

    def begin(_: int) -> None:
        t = Training(before)
        t.run(3)
        with Saver(folder, 1) as saver:
            saver.save(t.now())

    def go_on(rank: int) -> None:
        t = Training(after)
        path = checkpoint.resume_point(folder)
        assert path is not None
        t.restore(path)
        assert t.step == 3
        assert same(t.whole(), read(path))
        t.run(3)
        whole = t.whole()
        if rank == 0:
            torch.save(whole, tmp_path / "end.pt")

    assert together(1 if before is None else 2, begin) == [0] * (1 if before is None else 2)
    assert together(1 if after is None else 2, go_on) == [0] * (1 if after is None else 2)
    straight = Training(None)
    straight.run(6)
    end, expected = torch.load(tmp_path / "end.pt", weights_only=True), straight.whole()
    assert end.keys() == expected.keys()
    for name, tensor in end.items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-6)


def test_a_full_disk_under_one_process_is_an_error_on_all(tmp_path: Path) -> None:
    def training(rank: int) -> None:
        t = Training((2,))
        t.run(1)
        saver = Saver(tmp_path / "c", 2, tell=lambda _: None)
        watch = Watch(1, None)
        saver.save(t.now(), wait=True)
        t.run(1)
        if rank == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, -1))
        saver.save(t.now())
        while not watch.look(t.step, False, {}, saver.failed).failed:
            time.sleep(0.01)
        with pytest.raises(ModelError, match="cannot write the checkpoint on process 1"):
            saver.retry(t.now())
        saver.close()

    assert together(2, training) == [0, 0]
    assert [p.name for p in (tmp_path / "c").iterdir()] == ["step-00000001"]


@pytest.mark.parametrize("who", [0, 1])
def test_a_process_killed_in_the_middle_of_a_save_takes_nothing_with_it(
    tmp_path: Path, who: int
) -> None:
    def training(rank: int) -> None:
        t = Training((2,))
        t.run(1)
        saver = Saver(tmp_path / "c", 2)
        saver.save(t.now(), wait=True)
        t.run(1)
        if rank == who:
            os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)  # its files are half there
        with pytest.raises(ModelError, match=r"step-00000002: .*another process"):
            saver.save(t.now(), wait=True)

    codes = together(2, training)
    assert codes[who] == -signal.SIGKILL
    assert codes[1 - who] == 0
    folder = tmp_path / "c"
    assert checkpoint.latest(folder) == folder / "step-00000001"
    assert read(folder / "step-00000001")
    assert checkpoint.sweep(folder) in ([], [".step-00000002.tmp"])


def test_one_process_signal_and_clock_are_all_processes(tmp_path: Path) -> None:
    def training(rank: int) -> None:
        now = [0.0]
        watch = Watch(100, 1.0, clock=lambda: now[0])
        assert not watch.look(1, False, {}, False).save
        now[0] = 61.0 if rank == 1 else 0.0  # only the clock of process 0 counts
        assert not watch.look(2, False, {}, False).save
        now[0] = 61.0 if rank == 0 else 0.0
        assert watch.look(3, False, {}, False).save
        asked = watch.look(4, False, {"signal": 15} if rank == 1 else {}, False)
        assert (asked.save, asked.signal) == (True, 15)
        assert watch.look(5, False, {}, rank == 1).failed

    assert together(2, training) == [0, 0]
