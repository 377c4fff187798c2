"""What makes a network fit and learn in parts computes what it computed without."""

from __future__ import annotations

import copy
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from s2v.model import networks, optim
from s2v.model.checkpoints.weights import open_weights
from s2v.model.config import Config, OptimConfig
from s2v.model.config_parallel import ParallelConfig
from s2v.model.errors import ModelError
from s2v.model.parallel import gradients, seam
from s2v.model.parallel.build import build
from s2v.model.parallel.compiled import compile_blocks, graphs
from s2v.model.parallel.recompute import recompute
from s2v.model.parallel.world import World, begin

sys.path.insert(0, str(Path(__file__).parent))

from learning_kit import PAPER, WAN, WIDTHS, inputs, learned, lively


@pytest.fixture
def untold() -> Iterator[None]:
    """Without torch's trace of compiling, which pytest would collect line by line."""
    log = logging.getLogger("torch.__trace")
    before, log.disabled = log.disabled, True
    yield
    log.disabled = before


def equal(one: tuple[Tensor, dict[str, Tensor]], other: tuple[Tensor, dict[str, Tensor]]) -> bool:
    """Whether outputs and gradients agree to the last bit."""
    names = one[1].keys() == other[1].keys()
    return (
        names
        and torch.equal(one[0], other[0])
        and all(torch.equal(one[1][n], other[1][n]) for n in one[1])
    )


@pytest.mark.parametrize("kind", [PAPER, WAN], ids=["paper", "wan"])
@pytest.mark.parametrize(
    ("more", "wrapped"),
    [
        ({"recompute": "full"}, "all"),
        ({"recompute": "selective"}, "all"),
        ({"recompute": "selective", "recompute_keep": ("mm",)}, "all"),
        ({"recompute": "selective", "recompute_every": 2}, "half"),
    ],
    ids=["full", "sdpa and mm", "mm", "every second"],
)
def test_recomputed_gradients_are_the_kept_ones(
    tiny: Callable[..., Config], kind: tuple[str, ...], more: dict[str, Any], wrapped: str
) -> None:
    torch.manual_seed(0)
    model = lively(networks.build(tiny(*kind), WIDTHS))
    plain = learned(model)
    names = list(model.state_dict())
    count = recompute(model, ParallelConfig(**more))  # type: ignore[arg-type]
    total = len(seam.blocks(model))  # type: ignore[arg-type]
    assert count == (total if wrapped == "all" else -(-total // 2))
    assert list(model.state_dict()) == names
    assert equal(learned(model), plain)


def test_recomputing_keeps_less(tiny: Callable[..., Config]) -> None:
    """Bytes that autograd saves: all of it, but attention and products, nothing but inputs."""
    kept = []
    for how in ("none", "selective", "full"):
        torch.manual_seed(0)
        model = lively(networks.build(tiny(*WAN), WIDTHS))
        recompute(model, ParallelConfig(recompute=how))  # type: ignore[arg-type]
        seen: dict[int, int] = {}

        def pack(x: Tensor, seen: dict[int, int] = seen) -> Tensor:
            seen[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            model(*inputs())
        kept.append(sum(seen.values()))
    assert kept[0] > kept[2]


@pytest.mark.parametrize(
    ("kind", "recomputed", "frames"),
    [
        pytest.param(WAN, "full", (5, 7, 9), id="wan, recomputed"),
        pytest.param(WAN, "selective", (5,), id="wan, attention and products kept"),
        pytest.param(PAPER, "none", (5,), id="paper"),
        pytest.param(PAPER, "full", (5, 7, 9), id="paper, sizes", marks=pytest.mark.prove),
    ],
)
def test_compiled_blocks_compute_the_same_with_few_graphs(
    tiny: Callable[..., Config],
    untold: None,
    kind: tuple[str, ...],
    recomputed: str,
    frames: tuple[int, ...],
) -> None:
    more = ("parallel.compile=true", "parallel.compile_backend=aot_eager")
    deep = ("wan.layers=5",) if kind is WAN else ("network.single_layers=4",)
    config = tiny(*kind, *deep, *more, f"parallel.recompute={recomputed}")
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = lively(networks.build(config, WIDTHS))
    plain = {n: learned(model, n) for n in frames}
    before = graphs()
    recompute(model, config.parallel)  # type: ignore[arg-type]
    compile_blocks(model, config)  # type: ignore[arg-type]
    made = []
    for n in (*frames, frames[0]):
        ours = learned(model, n)
        assert torch.allclose(ours[0], plain[n][0], rtol=0, atol=1e-5)
        for name, gradient in plain[n][1].items():
            assert torch.allclose(ours[1][name], gradient, rtol=1e-4, atol=1e-6), name
        made.append(graphs() - before)
    # Blocks of a kind share a graph: Wan's one kind; double blocks, the single block that takes
    # their streams, and those that take a single block's, which lie otherwise in memory.
    kinds = 1 if kind is WAN else 3
    assert made[0] == kinds
    assert made[-1] <= 2 * kinds  # the second size makes a graph general; a third is free
    assert made[1:-1] == made[2:]


def test_what_cannot_be_compiled_is_said(tiny: Callable[..., Config]) -> None:
    config = tiny("network.masking=packed", "parallel.compile=true")
    with pytest.raises(ModelError, match="set it to 'bias'"):
        compile_blocks(networks.build(config, WIDTHS), config)
    config = tiny("parallel.compile=true", "parallel.compile_backend=inductr")
    with pytest.raises(ModelError, match=r"inductr.*inductor"):
        compile_blocks(networks.build(config, WIDTHS), config)


@pytest.mark.parametrize(
    "kind",
    [(*PAPER, "network.subject_ids=4", "network.pooled_text=mean"), (*WAN, "wan.image_width=12")],
    ids=["paper", "wan"],
)
def test_a_start_without_memory_gives_the_weights_of_a_plain_one(
    tiny: Callable[..., Config], kind: tuple[str, ...]
) -> None:
    config = tiny(*kind, "parallel.meta=true")
    torch.manual_seed(config.train.seed)
    plain = networks.build(config, WIDTHS)
    drawn = torch.rand(3)
    with begin(config.parallel, torch.device("cpu")) as world:
        assert world.mesh is not None
        model = build(config, WIDTHS, world)
        assert torch.equal(torch.rand(3), drawn)  # what is drawn next is the same, too
        found = {n: optim.local(p.detach()) for n, p in model.named_parameters()}
    assert found.keys() == dict(plain.named_parameters()).keys()
    for name, parameter in plain.named_parameters():
        assert torch.equal(found[name], parameter), name


def test_released_weights_are_streamed_to_the_same_values(
    tiny: Callable[..., Config], tmp_path: Path
) -> None:
    """Also where the file lacks the image branch, whose values are drawn."""
    from safetensors.torch import save_file

    torch.manual_seed(5)
    bare = lively(networks.build(tiny(*WAN), WIDTHS))
    path = tmp_path / "wan.safetensors"
    save_file({n: p.detach().bfloat16() for n, p in bare.named_parameters()}, path)
    config = tiny(*WAN, "wan.image_width=12", f"train.start_from={path}", "parallel.meta=true")
    plain = networks.start(config, WIDTHS)
    with begin(config.parallel, torch.device("cpu")) as world:
        model = build(config, WIDTHS, world)
        for name, parameter in plain.named_parameters():
            mine = optim.local(model.get_parameter(name).detach())
            assert torch.equal(mine, parameter), name
            assert mine.dtype is torch.float32


def test_the_share_of_a_tensor_is_what_a_process_touches(tmp_path: Path) -> None:
    """A 14B's tensors are mapped: setting a share must not read the rest."""
    from safetensors.torch import save_file

    save_file({"w": torch.arange(64.0).reshape(8, 8)}, tmp_path / "w.safetensors")
    whole = open_weights(tmp_path / "w.safetensors").read("w")
    part = whole.chunk(4, 0)[2]
    assert part.data_ptr() == whole.data_ptr() + 4 * 8 * 4  # rows 4 and 5: a view, no copy


def test_the_network_in_bfloat16_keeps_float32_weights(tiny: Callable[..., Config]) -> None:
    for kind in (PAPER, WAN):
        config = tiny(*kind, "parallel.precision=bfloat16")
        with begin(config.parallel, torch.device("cpu")) as world:
            model = lively(build(config, WIDTHS, world))
            out, grads = learned(model)
            optimiser = optim.adamw(model, config.optim)
            optim.step(optimiser, 1e-3, torch.zeros(()))
            assert {p.dtype for p in model.parameters()} == {torch.float32}
            assert {g.dtype for g in grads.values()} == {torch.float32}
            states = [v for s in optimiser.state.values() for v in s.values()]
            assert {s.dtype for s in states} == {torch.float32}
        torch.manual_seed(config.train.seed)
        exact, _ = learned(lively(networks.build(config, WIDTHS)))
        gap = float((out.float() - exact).norm() / exact.norm())
        assert 0 < gap < 0.03  # rounded, not wrong


def test_clipping_gives_the_norm_of_all_and_scales_to_it() -> None:
    model = nn.Linear(3, 2)
    for p in model.parameters():
        p.grad = torch.full_like(p, 2.0)
    norm = gradients.clip(model.parameters(), 1.0)
    assert float(norm) == pytest.approx(2 * 8**0.5)
    left = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    assert float(left.norm()) == pytest.approx(1.0, rel=1e-5)


def test_a_bad_step_leaves_weights_moments_and_average() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    config = OptimConfig()
    optimiser, average = optim.adamw(model, config), optim.Ema(model.named_parameters(), 0.9)
    verdicts = gradients.Verdicts(torch.device("cpu"))
    states = []
    for value in (1.0, float("nan"), float("inf"), 1.0, 1.0):
        optimiser.zero_grad()
        for p in model.parameters():
            p.grad = torch.full_like(p, value)
        bad = verdicts.judge(gradients.clip(model.parameters(), 1.0))
        optim.step(optimiser, 0.1, bad)
        average.update(model.named_parameters(), 7, bad)
        state = optim.state_tensors(model, optimiser)
        states.append(copy.deepcopy((model.state_dict(), state, average.weights)))
    for i, j, alike in ((0, 1, True), (1, 2, True), (2, 3, False)):
        for a, b in zip(states[i], states[j], strict=True):
            assert all(torch.equal(a[n], b[n]) for n in a) == alike
    assert float(states[-1][1]["weight/step"]) == 3
    assert verdicts.read() == (2, 0, 2)
    assert verdicts.read() == (2, 0, 0)


def test_weights_are_the_same_however_a_step_is_cut_into_slots(
    drawn_shards: Path, tiny: Callable[..., Config], tmp_path: Path
) -> None:
    """One micro-batch of four, two of two, four of one: the loss is divided by all of them."""
    from s2v.model import checkpoint, metrics
    from s2v.model.progress import quiet
    from s2v.model.train import train

    found, lines = [], []
    for slots in (1, 2, 4):
        config = tiny(
            f"train.slots={slots}", f"train.batch={4 // slots}", "train.steps=3",
            "train.checkpoint_every=3", "flow.reduction=token", "flow.weighting=cosmap",
        )  # fmt: skip
        out = tmp_path / str(slots)
        train(config, drawn_shards, out, quiet, cache=tmp_path / "cache")
        lines.append(metrics.read(out / "metrics.jsonl"))
        found.append(checkpoint.load_weights(out / "checkpoints" / "step-00000003", "model")[0])
    for other in (1, 2):
        for a, b in zip(lines[0], lines[other], strict=True):
            assert a["loss"] == pytest.approx(b["loss"], rel=1e-6)
            assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-5)
        gaps = torch.cat([(found[0][n] - w).abs().flatten() for n, w in found[other].items()])
        assert float(gaps.mean()) < 1e-6


def test_processes_that_do_not_divide_the_heads_are_refused(tiny: Callable[..., Config]) -> None:
    from s2v.model.parallel.ulysses import share_tokens

    class Three:
        def size(self) -> int:
            return 3

    config = tiny("network.heads=4")
    with pytest.raises(ModelError, match=r"cp 3 does not divide network\.heads 4; .* 1, 2, 4"):
        share_tokens(networks.build(config, WIDTHS), config, Three())  # type: ignore[arg-type]


def test_sizes_that_do_not_multiply_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "8")
    with (
        pytest.raises(ModelError, match=r"replicate 3 x shard 2 x cp 1 = 6, but 8 processes"),
        begin(ParallelConfig(replicate=3), torch.device("cpu")),
    ):
        pass


def test_one_process_talks_to_nobody(tiny: Callable[..., Config]) -> None:
    with begin(tiny().parallel, torch.device("cpu")) as world:
        assert world == World(device=torch.device("cpu"))
        assert not torch.distributed.is_initialized()
        assert (world.first, world.readers, world.gather(3)) == (True, 1, [3])
