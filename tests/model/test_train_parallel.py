"""Several processes train as one does: the same samples, losses, norms and weights.

The file is also the program that the processes run: ``python test_train_parallel.py TASKS``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from s2v.model import checkpoint, metrics
from s2v.model import config as configuration
from s2v.model.config import Config
from s2v.model.errors import ModelError
from s2v.model.progress import quiet
from s2v.model.run import Run
from s2v.model.train import train
from s2v.model.wan import WanModel

sys.path.append(str(Path(__file__).parent))  # a kit that several tests share

from ranks_kit import free_port

WAN = (
    "network.kind=wan", "wan.width=48", "wan.heads=2", "wan.ffn=96", "wan.layers=2",
    "wan.text_width=64", "wan.text_tokens=48", "wan.image_width=12",
    "wan.reference_timestep=zero",
)  # fmt: skip
# Windows that do not divide, clean references, subject ids: what sharing out tokens could break.
PAPER = (
    "network.reference_timestep=zero", "network.window=3", "network.shift_windows=true",
    "network.double_layers=2", "network.heads=4", "network.pooled_text=mean",
)  # fmt: skip
STEPS = (
    "train.slots=4", "train.batch=1", "train.steps=4", "train.checkpoint_every=4",
    "optim.warmup=0", "train.log_every=2", "optim.clip=0.1",
)  # fmt: skip

COMPILED = ("parallel.compile=true", "parallel.compile_backend=aot_eager")

#: Runs of two processes: name -> (the run of one process it must equal, what differs from it).
#: Several things in one run, because each costs seconds; one by one they are in :data:`SINGLE`.
PAIRS: dict[str, tuple[str, tuple[str, ...]]] = {
    "fsdp": ("paper", ()),
    "hsdp-2x1, built whole": ("paper", ("parallel.replicate=2", "parallel.meta=false")),
    "once a step, recomputed": (
        "paper",
        (
            "parallel.reduce_every_slot=false",
            "parallel.recompute=full",
            "parallel.prefetch_forward=1",
        ),
    ),
    "cp, recomputed": ("paper", ("parallel.cp=2", "parallel.recompute=selective")),
    "fsdp-wan": ("wan", ("parallel.prefetch_backward=1",)),
    "cp-wan": ("wan", ("parallel.cp=2",)),
    "fsdp-lora": ("lora", ()),
}
ALONE = {
    "paper": (*PAPER, *STEPS),
    "wan": (*WAN, *STEPS, "flow.reduction=token"),
    "lora": (*WAN, *STEPS, "tune.kind=lora", "tune.rank=4", "tune.targets=['blocks.*']"),
}
#: More of two processes, for `make prove`.
SINGLE: dict[str, tuple[str, tuple[str, ...]]] = {
    "hsdp-2x1": ("paper", ("parallel.replicate=2",)),
    "once-a-step": ("paper", ("parallel.reduce_every_slot=false",)),
    "built-whole": ("paper", ("parallel.meta=false",)),
    "recomputed": ("paper", ("parallel.recompute=full",)),
    "cp": ("paper", ("parallel.cp=2",)),
    # As the 14B recipe has it: graphs of what is recomputed, over shared tokens.
    "cp-wan, compiled": ("wan", ("parallel.cp=2", *COMPILED, "parallel.recompute=full")),
}
#: Runs of four processes, for `make prove`.
FOURS: dict[str, tuple[str, tuple[str, ...]]] = {
    "fsdp-4": ("paper", ()),
    "hsdp-2x2": ("paper", ("parallel.replicate=2", "parallel.shard=2")),
    "dp2-cp2": ("paper", ("parallel.cp=2",)),
    "cp-4": ("paper", ("parallel.cp=4",)),
    "replicate-2-cp-2": ("wan", ("parallel.replicate=2", "parallel.cp=2")),
}


def together(tasks: Path, world: int) -> list[str]:
    """Run this file in ``world`` processes; returns what each printed."""
    started = [
        subprocess.Popen(
            [sys.executable, __file__, str(tasks)],
            env={
                **os.environ, "RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank),
                "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1",
            },
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(world)
    ]  # fmt: skip
    return [process.communicate(timeout=300)[0] for process in started]


def written(folder: Path, shards: Path, base: Sequence[str], names: Mapping[str, Any]) -> Path:
    """The tasks of the processes, as a file."""
    start = started(folder / "wan.safetensors")
    runs = {
        name: {"set": [*base, *of(like, start), *more], "port": free_port()}
        for name, (like, more) in names.items()
    }
    path = folder / "tasks.json"
    about = {"shards": str(shards), "out": str(folder), "cache": str(folder / "cache")}
    path.write_text(json.dumps({**about, "runs": runs}))
    return path


def started(path: Path) -> Path:
    """Weights to start from: a fresh network's last layer is zero, and nothing before it learns."""
    from safetensors.torch import save_file

    config = configuration.load("demo_tiny", [*WAN, "encoders.text_tokens=48"])
    torch.manual_seed(7)
    model = WanModel(config.wan)
    torch.nn.init.normal_(model.head.head.weight, std=0.1)
    save_file({name: p.detach() for name, p in model.named_parameters()}, path)
    return path


def of(name: str, start: Path) -> tuple[str, ...]:
    """What a run of one process sets."""
    more = (f"train.start_from={start}",) if "network.kind=wan" in ALONE[name] else ()
    return (*ALONE[name], *more)


@pytest.fixture(scope="module")
def alone(
    drawn_shards: Path, tmp_path_factory: pytest.TempPathFactory, base: list[str]
) -> dict[str, Path]:
    """The runs of one process."""
    folder = tmp_path_factory.mktemp("alone")
    for name in ALONE:
        more = of(name, started(folder / "wan.safetensors"))
        config = configuration.load("demo_tiny", [*base, *more])
        train(config, drawn_shards, folder / name, quiet, cache=folder / "cache")
    return {name: folder / name for name in ALONE}


@pytest.fixture(scope="module")
def two(drawn_shards: Path, tmp_path_factory: pytest.TempPathFactory, base: list[str]) -> Path:
    """All runs of two processes, one after the other."""
    folder = tmp_path_factory.mktemp("two")
    # Two more in the same processes, whose start costs more than they do; the last one fails.
    tasks = written(
        folder, drawn_shards, base, {**PAIRS, "nan": ("paper", ()), "fails": ("paper", ())}
    )
    told = json.loads(tasks.read_text())
    told["runs"]["nan"]["nan_on"] = [1, 2]  # rank, step
    told["runs"]["fails"]["fails_on"] = 1
    tasks.write_text(json.dumps(told))
    said = together(tasks, 2)
    assert all("all others done" in text for text in said), "\n".join(said)[-6000:]
    (folder / "said.json").write_text(json.dumps(said))
    return folder


def same(one: Path, other: Path) -> None:
    """Losses, norms, weights and average of two runs agree to rounding."""
    ours, theirs = metrics.read(one / "metrics.jsonl"), metrics.read(other / "metrics.jsonl")
    assert [x["step"] for x in ours] == [x["step"] for x in theirs] == [1, 2, 3, 4]
    for a, b in zip(ours, theirs, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-6)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-5)
        assert a["loss_by_pair"] == pytest.approx(b["loss_by_pair"], rel=1e-5)
        assert a["hidden"] == b["hidden"]
    for which in ("model", "ema"):
        weights = [
            checkpoint.load_weights(run / "checkpoints" / "step-00000004", which)[0]
            for run in (one, other)
        ]
        assert weights[0].keys() == weights[1].keys()
        # Adam divides by the gradient's size: where that is near nothing, rounding is not small.
        gaps = torch.cat([(weights[0][n] - weights[1][n]).flatten().abs() for n in weights[0]])
        assert float(gaps.quantile(0.999) if gaps.numel() < 1 << 24 else gaps.mean()) < 1e-6
        assert float(gaps.mean()) < 1e-6


@pytest.mark.parametrize("name", PAIRS)
def test_two_processes_train_as_one(name: str, two: Path, alone: dict[str, Path]) -> None:
    same(two / name, alone[PAIRS[name][0]])
    if name == "fsdp":  # clipped, and by a factor of each step's own
        norms = [line["grad_norm"] for line in metrics.read(two / name / "metrics.jsonl")]
        assert min(norms) > 0.1


def test_only_the_pairs_of_a_lora_learn(alone: dict[str, Path], two: Path) -> None:
    """The rest stays what was started from, in one process and in two."""
    from safetensors.torch import load_file

    begun = load_file(alone["lora"].parent / "wan.safetensors")
    for run in (alone["lora"], two / "fsdp-lora"):
        path = run / "checkpoints" / "step-00000004"
        weights, _, _ = checkpoint.load_weights(path, "model")
        assert all(torch.equal(weights[name], w) for name, w in begun.items())
        pairs = {n: w for n, w in weights.items() if n not in begun}
        assert {n.split(".")[-2] for n in pairs} == {"lora_A", "lora_B"}
        assert all(float(w.abs().max()) > 0 for w in pairs.values())
        written = load_file(run / "lora.safetensors")
        average, _, _ = checkpoint.load_weights(path, "ema")
        q = "transformer.blocks.0.attn1.to_q.lora"
        assert torch.equal(written[f"{q}_A.weight"], average["blocks.0.self_attn.q.lora_A.weight"])
        assert len(written) == len(pairs)
        model, _ = Run(run).network("ema", torch.device("cpu"))  # merged: what sampling takes
        assert not [n for n in model.state_dict() if "lora" in n]


def test_a_number_of_slots_that_does_not_divide_says_what_to_do(tmp_path: Path) -> None:
    from s2v.model.parallel.world import World

    World(size=2).check_slots(4)
    with pytest.raises(ModelError, match=r"slots 3 .* 2 data-parallel.*slots = 4.*1, 3 processes"):
        World(size=2).check_slots(3)
    with pytest.raises(ModelError, match=r"4 processes, parallel\.cp 2.*start 2, 6 processes"):
        World(size=4, cp=2).check_slots(3)


def test_the_first_process_to_fail_is_named_and_ends_all(two: Path) -> None:
    """Rank 1 meets a fault of its own; rank 0, waiting for it, says whose and which."""
    said: list[str] = json.loads((two / "said.json").read_text())
    assert all("rank 1: the disk of rank 1 is gone" in text for text in said), said
    assert not any("all done" in text for text in said)


def test_all_processes_skip_a_step_that_is_not_finite_on_one(two: Path) -> None:
    """A NaN in one process's gradient leaves every weight as it was, everywhere."""
    lines = metrics.read(two / "nan" / "metrics.jsonl")
    assert [x["grad_norm"] is None for x in lines] == [False, True, False, False]
    result = json.loads((two / "nan" / "result.json").read_text())
    assert result["rates"]["skipped"] == 0.25
    for which in ("model", "ema"):
        one, other = (
            checkpoint.load_weights(two / "nan" / "checkpoints" / f"step-{n:08d}", which)[0]
            for n in (1, 2)
        )
        assert all(torch.equal(one[n], other[n]) for n in one)


@pytest.mark.prove
def test_two_processes_train_as_one_whatever_single_setting_they_have(
    drawn_shards: Path, tmp_path: Path, base: list[str], alone: dict[str, Path]
) -> None:
    said = together(written(tmp_path, drawn_shards, base, SINGLE), 2)
    assert all("all done" in text for text in said), "\n".join(said)[-6000:]
    for name, (like, _) in SINGLE.items():
        same(tmp_path / name, alone[like])


@pytest.mark.prove
@pytest.mark.parametrize("name", FOURS)
def test_four_processes_train_as_one(
    name: str,
    drawn_shards: Path,
    tmp_path: Path,
    base: list[str],
    alone: dict[str, Path],
) -> None:
    said = together(written(tmp_path, drawn_shards, base, {name: FOURS[name]}), 4)
    assert all("all done" in text for text in said), "\n".join(said)[-6000:]
    same(tmp_path / name, alone[FOURS[name][0]])


# What the processes run.


def spoil(run: Mapping[str, Any]) -> Callable[[], None]:
    """Make this process fail, or its gradient not finite; returns what undoes it."""
    from s2v.model.loop import Trainer
    from s2v.model.parallel import gradients

    rank = int(os.environ["RANK"])
    before = Trainer.one_step, gradients.clip
    if run.get("fails_on") == rank:

        def failing(self: Trainer, *args: Any) -> None:
            raise ModelError("the disk of rank 1 is gone")

        Trainer.one_step = failing  # type: ignore[method-assign]
    if "nan_on" in run and run["nan_on"][0] == rank:
        calls = iter(range(1, 100))

        def spoiled(parameters: Any, most: float) -> Tensor:
            kept = list(parameters)
            if next(calls) == run["nan_on"][1]:
                share = next(p.grad for p in kept if p.grad.to_local().numel())
                share.to_local().flatten()[0] = float("nan")
            return before[1](kept, most)

        gradients.clip = spoiled

    def undo() -> None:
        Trainer.one_step, gradients.clip = before  # type: ignore[method-assign]

    return undo


def run_tasks(path: Path) -> None:
    """Every run of the file, in this process."""
    torch.set_num_threads(1)
    told = json.loads(path.read_text())
    for name, run in told["runs"].items():
        os.environ["MASTER_PORT"] = str(run["port"])
        if "fails_on" in run:
            print("all others done")
        more = ["train.checkpoint_every=1", "train.keep=9"] if "nan_on" in run else []
        config: Config = configuration.load("demo_tiny", [*run["set"], *more])
        undo = spoil(run)
        train(config, told["shards"], Path(told["out"]) / name, quiet, cache=told["cache"])
        undo()
    print("all done")


if __name__ == "__main__":
    run_tasks(Path(sys.argv[1]))
