"""What a run claims to compute, against the same worked out by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from s2v.datapipe.base.shards import ShardIndex
from s2v.model import config as configuration
from s2v.model import flow, lora, networks, optim
from s2v.model.conditioning import Condition
from s2v.model.config import Config
from s2v.model.config_parallel import ParallelConfig
from s2v.model.data.collate import collate, fixed
from s2v.model.devices import DEVICES
from s2v.model.figures import Figures
from s2v.model.flops import Sizes
from s2v.model.mmdit import Widths
from s2v.model.parallel.recompute import recompute
from s2v.model.parallel.world import begin
from s2v.model.rng import normal
from s2v.model.run import Run, fit_autoencoder
from s2v.model.validate import Validator

WAN = (
    "network.kind=wan", "wan.width=48", "wan.heads=2", "wan.ffn=96", "wan.layers=3",
    "wan.text_width=64", "wan.text_tokens=48",
)  # fmt: skip


def test_a_young_average_forgets_faster() -> None:
    """``(1 + n) / (10 + n)`` until that is more than the decay: else 0.9999 keeps first weights."""
    p = nn.Parameter(torch.zeros(1))
    average, expected = optim.Ema([("w", p)], 0.5), 0.0
    for step, decay in ((0, 0.1), (1, 2 / 11), (7, 8 / 17), (8, 0.5), (1000, 0.5)):
        with torch.no_grad():
            p.fill_(step + 1.0)
        average.update([("w", p)], step)
        expected = decay * expected + (1 - decay) * (step + 1)
        assert float(average.weights["w"]) == pytest.approx(expected, rel=1e-6), step


def test_a_lora_adds_alpha_over_rank_of_its_product() -> None:
    """A pair that was trained with a scale of its own would be too strong everywhere else."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4))
    weight, bias = model[0].weight.detach().clone(), model[0].bias.detach().clone()
    lora.add(model, ["0"], rank=2, alpha=6.0)
    layer = model[0]
    assert isinstance(layer, lora.LoraLinear)
    nn.init.normal_(layer.lora_B.weight)
    x = torch.randn(3, 6)
    beside = 6.0 / 2 * layer.lora_B.weight @ layer.lora_A.weight
    assert torch.allclose(model(x), functional.linear(x, weight + beside, bias), atol=1e-6)


def test_utilisation_is_of_all_devices() -> None:
    """Eight GPUs that do together what one could do use an eighth of themselves."""
    config = configuration.load("phantom_wan_1_3b_480p", ["parallel.recompute=none"])
    sizes = [Sizes.of_video(81, 480, 832)] * 8
    # By hand: 30 blocks of 8 d^2 S + 4 S^2 d + 2 (2 S + 2 C) d^2 + 4 S C d + 4 d f S, and what is
    # around them; S = 21 x 30 x 52, C = 512 (facts of the trainer: 283 TFLOP, 849 with backward).
    d, f, s, c = 1536, 8960, 32_760, 512
    block = 8 * d * d * s + 4 * s * s * d + 2 * (2 * s + 2 * c) * d * d + 4 * s * c * d
    around = 2 * (64 * d * s * 2 + (4096 * d + d * d) * c + 256 * d + 7 * d * d)
    forward = 30 * (block + 4 * d * f * s) + around
    assert forward / 1e12 == pytest.approx(283, rel=2e-3)
    # The first layers' inputs want no gradient: one product of theirs is not made.
    ungraded = 2 * (64 * d * s + 4096 * d * c + 256 * d)
    seconds = 2.5
    for world in (1, 8):
        figures = Figures(config, torch.device("cpu"), world)
        figures.peak = DEVICES["h100"].peak
        found = figures.step(sizes, seconds)
        rate = 8 * (3 * forward - ungraded) / seconds / world
        assert found["tflops"] == pytest.approx(rate / 1e12, rel=1e-9)
        assert found["mfu"] == pytest.approx(rate / 989e12, rel=1e-9)
        assert found["hfu"] == found["mfu"]
        assert found["tokens_per_s"] == pytest.approx(8 * s / seconds)


def test_validation_noise_is_of_the_sample_and_its_levels_are_the_middles(
    drawn_shards: Path, tmp_path: Path, tiny: Callable[..., Config]
) -> None:
    """Worked out again from a sample's id: numbers of two runs, or of two versions, compare."""
    config = tiny("validation.every=1", "validation.levels=2", "validation.limit=2")
    run = Run(tmp_path)
    run.begin(config)
    fit_autoencoder(config, drawn_shards, run)
    store = run.store(config)
    e = store.encoders
    torch.manual_seed(0)
    model = networks.build(config, Widths(e.video.channels, e.text.width, e.image.width))
    for p in model.parameters():
        nn.init.normal_(p, std=0.1)
    validator = Validator(config, ShardIndex.open(drawn_shards), store, e.text.encode(""))
    rows: list[Any] = []
    validator.run(model, gather=lambda found: rows.extend(found) or found)
    for row, one in zip(rows, validator.samples, strict=True):
        features = store.get(one.sample, one.size)
        form = max(config.data.forms, key=lambda f: (config.data.forms[f], f == "white"))
        batch = collate([fixed(one.sample.id, features, form, config.data.max_references)])
        x0 = batch.video
        eps = normal(tuple(x0.shape[1:]), config.validation.seed, one.sample.id, "validate")[None]
        for level, loss in zip((0.25, 0.75), row["losses"][0], strict=True):
            t = torch.tensor([level])
            with torch.no_grad():
                out = model(flow.interpolate(x0, eps, t), t, batch.condition)
            assert loss == pytest.approx(float(flow.video_loss(out, x0, eps)), rel=1e-5)


class Count(TorchDispatchMode):
    """How often products and attentions are computed forwards."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's
        self.done: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = str(func)
        if "scaled_dot_product" in name and "backward" not in name:
            self.done["sdpa"] += 1
        if name == "aten.addmm.default":  # of a linear layer; its gradients are mm
            self.done["mm"] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("more", "again"),
    [
        ({"recompute": "none"}, {}),
        ({"recompute": "selective"}, {}),
        ({"recompute": "selective", "recompute_keep": ("mm",)}, {"sdpa": 6}),
        ({"recompute": "selective", "recompute_keep": ("sdpa",)}, {"mm": 30}),
        ({"recompute": "full"}, {"sdpa": 6, "mm": 30}),
        ({"recompute": "selective", "recompute_every": 2}, {"sdpa": 4, "mm": 20}),
    ],
    ids=["none", "both kept", "products kept", "attention kept", "full", "every second"],
)
def test_what_is_kept_is_not_computed_twice(
    tiny: Callable[..., Config], more: dict[str, Any], again: dict[str, int]
) -> None:
    """Three blocks with two attentions and ten linear layers each."""
    model = networks.build(tiny(*WAN), Widths(16, 64, 12))
    recompute(model, ParallelConfig(**more))
    there = torch.ones(1, 0, dtype=torch.bool)
    told = Condition(
        torch.randn(1, 6, 64), torch.ones(1, 6, dtype=torch.bool), torch.zeros(1, 16, 0, 4, 4),
        there, torch.zeros(1, 0, 3, 12), there.clone(),
    )  # fmt: skip
    out = model(torch.randn(1, 16, 2, 4, 4), torch.ones(1), told)
    with Count() as count:
        out.square().mean().backward()
    assert dict(count.done) == again


@pytest.mark.filterwarnings("ignore:Set timeout is now only supported")
def test_processes_of_a_sample_and_of_a_copy_are_neighbours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Numbered (replicate, shard, cp), the last fastest: copies, not shards, span machines."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    real = dist.init_process_group

    def fake(*_: Any, **__: Any) -> None:
        real("fake", store=FakeStore(), rank=5, world_size=8)

    monkeypatch.setattr(dist, "init_process_group", fake)
    monkeypatch.setattr(
        dist, "all_gather_object", lambda out, value: out.__setitem__(slice(None), [value] * 8)
    )
    monkeypatch.setenv("WORLD_SIZE", "8")
    config = ParallelConfig(replicate=2, shard=2, cp=2)
    with begin(config, torch.device("cpu")) as world:
        assert world.mesh is not None
        assert world.mesh.mesh_dim_names == ("replicate", "shard")
        assert world.mesh.mesh.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
        assert world.sequence is not None
        assert dist.get_process_group_ranks(world.sequence) == [4, 5]
        assert (world.reader, world.readers) == (2, 4)
