"""What makes a network fit and learn in parts computes what it computed without."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from s2v.model import lora, networks, optim, tune
from s2v.model.checkpoints.weights import open_weights
from s2v.model.conditioning import Condition
from s2v.model.config import Config, OptimConfig
from s2v.model.config_parallel import ParallelConfig
from s2v.model.config_tune import GroupConfig, TuneConfig
from s2v.model.errors import ModelError
from s2v.model.mmdit import Widths
from s2v.model.parallel import gradients, seam
from s2v.model.parallel.build import build
from s2v.model.parallel.compiled import compile_blocks, graphs
from s2v.model.parallel.recompute import recompute
from s2v.model.parallel.world import World, begin

WIDTHS = Widths(16, 64, 12)
WAN = (
    "network.kind=wan", "wan.width=48", "wan.heads=2", "wan.ffn=96", "wan.layers=3",
    "wan.text_width=64", "wan.text_tokens=48",
)  # fmt: skip
PAPER = ("network.window=3", "network.double_layers=2", "network.single_layers=2")


@pytest.fixture
def untold() -> Iterator[None]:
    """Without torch's trace of compiling, which pytest would collect line by line."""
    log = logging.getLogger("torch.__trace")
    before, log.disabled = log.disabled, True
    yield
    log.disabled = before


def inputs(frames: int = 5, size: int = 4) -> tuple[Tensor, Tensor, Condition]:
    """Noisy latents, levels and a condition of two samples, one reference short."""
    random = torch.Generator().manual_seed(1)
    k, n, words = 2, 3, 6
    mask = torch.tensor([[True, True], [True, False]])
    condition = Condition(
        torch.randn(2, words, 64, generator=random),
        torch.tensor([[True] * words, [True] * 4 + [False] * 2]),
        torch.randn(2, 16, k, size, size, generator=random),
        mask,
        torch.randn(2, k, n, 12, generator=random),
        mask.clone(),
    )
    return (
        torch.randn(2, 16, frames, size, size, generator=random),
        torch.tensor([0.3, 0.9]),
        condition,
    )


def lively(model: nn.Module) -> nn.Module:
    """Fresh networks give zeros: move every weight a little."""
    random = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in model.parameters():
            local = optim.local(p.data)  # of one process: all of it
            local.add_(0.05 * torch.randn(local.shape, generator=random))
    return model


def learned(model: nn.Module, frames: int = 5) -> tuple[Tensor, dict[str, Tensor]]:
    """Output and gradients of one forward and backward."""
    model.zero_grad(set_to_none=True)
    out: Tensor = model(*inputs(frames))
    out.square().mean().backward()  # type: ignore[no-untyped-call]
    return out.detach(), {
        n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None
    }


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


def test_a_lora_merged_computes_what_it_computed_beside(tiny: Callable[..., Config]) -> None:
    config = tiny(*WAN, "tune.kind=lora", "tune.rank=3", "tune.alpha=5")
    torch.manual_seed(0)
    model = lively(networks.build(config, WIDTHS))
    before, _ = learned(model)
    layers = tune.apply(model, config.tune)
    assert torch.equal(learned(model)[0], before)  # B is zero at first
    _, grads = learned(model)
    assert set(grads) == {f"{n}.lora_{x}.weight" for n in layers for x in "AB"}
    assert len(layers) == 3 * 10  # q k v o twice, two of the MLP, in three blocks
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_" in name:
                p.normal_(std=0.3)
    beside = learned(model)[0]
    assert not torch.allclose(beside, before, atol=1e-3)
    plain = networks.build(config, WIDTHS)
    plain.load_state_dict(tune.plain(model.state_dict(), config.tune))
    assert torch.allclose(plain(*inputs()), beside, atol=1e-5)


def test_a_loras_pairs_are_what_the_export_reads(
    tiny: Callable[..., Config], tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    from s2v.model.export.lora_keys import read_adapter, to_peft

    config = tiny(*WAN, "tune.kind=lora", "tune.rank=3", "tune.alpha=5")
    model = networks.build(config, WIDTHS)
    layers = tune.apply(model, config.tune)
    lively(model)
    pairs = lora.adapter(model.state_dict(), 5 / 3)
    save_file({n: t.contiguous() for n, t in to_peft(pairs).items()}, tmp_path / "l.safetensors")
    shapes = {
        n: (m.out_features, m.in_features)
        for n, m in model.named_modules()
        if isinstance(m, nn.Linear) and "lora" not in n
    }
    read = read_adapter(open_weights(tmp_path / "l.safetensors"), shapes)
    assert sorted(read) == sorted(layers)
    assert all(torch.equal(read[n][0], pairs[n][0]) for n in read)
    assert all(torch.equal(read[n][1], pairs[n][1]) for n in read)


@pytest.mark.parametrize("kind", [PAPER, WAN], ids=["paper", "wan"])
def test_attention_alone_learns_attention_alone(
    tiny: Callable[..., Config], kind: tuple[str, ...]
) -> None:
    model = networks.build(tiny(*kind), WIDTHS)
    tune.apply(model, TuneConfig(kind="attention"))
    names = set(tune.trained(model))
    assert names
    assert not [n for n in names if "mlp" in n or "ffn" in n or "modulation" in n or "head" in n]
    parts = tune.table(model)
    assert sum(p.parameters for p in parts) == sum(p.numel() for p in model.parameters())
    assert sum(p.trained for p in parts) == sum(p.numel() for p in tune.trained(model).values())
    assert "(" in tune.told(parts).splitlines()[-1]


def test_frozen_and_faster_groups_are_what_they_say(tiny: Callable[..., Config]) -> None:
    config = tiny(*WAN, "wan.image_width=12")
    model = networks.build(config, WIDTHS)
    told = TuneConfig(
        freeze=("patch_embedding.*",), groups=(GroupConfig(match="img_emb.*", lr=5.0),)
    )
    tune.apply(model, told)
    optimiser = optim.adamw(model, config.optim, told)
    optim.step(optimiser, 0.01, torch.zeros(()))
    rates = {id(p): g["lr"] for g in optimiser.param_groups for p in g["params"]}
    assert id(model.get_parameter("patch_embedding.weight")) not in rates
    assert rates[id(model.get_parameter("img_emb.proj.1.weight"))] == pytest.approx(0.05)
    assert rates[id(model.get_parameter("head.head.weight"))] == pytest.approx(0.01)
    with pytest.raises(ModelError, match=r"tune\.groups.*nothing\.\*"):
        optim.adamw(model, config.optim, TuneConfig(groups=(GroupConfig(match="nothing.*"),)))
    with pytest.raises(ModelError, match=r"tune\.freeze 'nothing\.\*'"):
        tune.apply(model, TuneConfig(freeze=("nothing.*",)))
    with pytest.raises(ModelError, match="nothing to train"):
        tune.apply(model, TuneConfig(freeze=("*",)))
    with pytest.raises(ModelError, match=r"tune\.targets.*blocks\.0\.self_attn\.q"):
        tune.apply(model, TuneConfig(kind="lora", targets=("layers.*",)))


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
