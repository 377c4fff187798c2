"""A plan is believed before money is spent: its numbers are those of the networks themselves."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from s2v.model import config as configuration
from s2v.model import networks, tune
from s2v.model.conditioning import Condition
from s2v.model.config import Config
from s2v.model.data.buckets import Bucket
from s2v.model.errors import ModelError
from s2v.model.flops import Sizes, wan_flops
from s2v.model.planner.activations import kept
from s2v.model.planner.candidates import Planner
from s2v.model.planner.hardware import hardware
from s2v.model.planner.layout import Layout, divides
from s2v.model.planner.memory import counts, memory
from s2v.model.planner.plan import plan
from s2v.model.planner.shapes import batches_of, sizes_of, widths_of
from s2v.model.planner.speed import ceiling, flops_of, speed
from s2v.model.wan_config import PRESETS

GB = 1e9
ONE = Layout(1, 1, 1, "none", compiled=True)
FULL = Layout(1, 1, 1, "full", compiled=True)
WAN_1B, WAN_14B = "phantom_wan_1_3b_480p", "phantom_wan_14b_480p_8gpu"
SMALL = (
    "network.width=32", "network.heads=2", "network.double_layers=2", "network.single_layers=2",
    "encoders.text=hashed", "encoders.image=pixels", "data.height=48", "data.width=80",
    "data.frames=9",
)  # fmt: skip
SMALL_WAN = (
    "network.kind=wan", "wan.width=48", "wan.ffn=96", "wan.heads=2", "wan.layers=3",
    "wan.text_width=64", "wan.text_tokens=48", "encoders.text=hashed", "encoders.image=pixels",
    "data.height=48", "data.width=80", "data.frames=9",
)  # fmt: skip


def load(recipe: str, *overrides: str) -> Config:
    return configuration.load(recipe, overrides)


@pytest.mark.parametrize(
    ("recipe", "parameters"), [(WAN_1B, 1_418_996_800), (WAN_14B, 14_288_491_584)]
)
def test_parameters_are_those_of_the_release(recipe: str, parameters: int) -> None:
    assert counts(load(recipe)).parameters == parameters


def test_lora_trains_little_and_a_pattern_that_matches_nothing_is_refused() -> None:
    count = counts(load("phantom_wan_1_3b_lora"))
    assert count.frozen == 1_418_996_800
    assert 0.01 < count.trained / count.parameters < 0.05
    with pytest.raises(ModelError, match=r"tune\.freeze"):
        counts(load(WAN_1B, 'tune.freeze=["nothing.*"]'))


@pytest.mark.parametrize(
    ("recipe", "bucket", "gigabytes"),
    [
        (WAN_1B, Bucket(81, 480, 832, 0), 45),
        (WAN_1B, Bucket(81, 480, 832, 4), 54),
        (WAN_1B, Bucket(81, 720, 1280, 0), 105),
        (WAN_14B, Bucket(81, 480, 832, 0), 201),
    ],
)
def test_activations_of_compiled_blocks_are_about_what_others_reckon(
    recipe: str, bucket: Bucket, gigabytes: float
) -> None:
    """A rule of thumb: fifteen numbers of two bytes per token, width and block; 14B's has less."""
    config = load(recipe)
    held = memory(config, counts(config), ONE, bucket, 1, torch.bfloat16)
    assert held.activations / GB == pytest.approx(gigabytes, rel=0.15)


def test_states_are_sixteen_bytes_a_parameter_and_the_average_four_more() -> None:
    config = load(WAN_1B, "latents.use=require", "validation.sample_every=0")
    held = memory(config, counts(config), ONE, Bucket(81, 480, 832, 0), 1, torch.bfloat16)
    assert (held.parameters + held.gradients + held.optimiser) / GB == pytest.approx(22.7, rel=0.01)
    assert held.average / GB == pytest.approx(5.7, rel=0.01)


@pytest.mark.parametrize(
    ("preset", "sizes", "layout", "share"),
    [
        ("wan-t2v-1.3b", (81, 480, 832), ONE, 0.54),
        ("wan-t2v-1.3b", (81, 480, 832), FULL, 0.42),
        ("wan-t2v-14b", (93, 480, 832), ONE, 0.57),  # 37 440 tokens
        ("wan-t2v-14b", (93, 480, 832), FULL, 0.44),
    ],
)
def test_ceilings_are_those_that_kernels_allow(
    preset: str, sizes: tuple[int, int, int], layout: Layout, share: float
) -> None:
    flops = wan_flops(PRESETS[preset], Sizes.of_video(*sizes))
    assert ceiling(flops, layout) == pytest.approx(share, abs=0.006)


@pytest.mark.parametrize(("layout", "share"), [(ONE, 0.36), (FULL, 0.28)])
def test_an_older_attention_kernel_lowers_the_ceiling(layout: Layout, share: float) -> None:
    flops = wan_flops(PRESETS["wan-t2v-1.3b"], Sizes.of_video(81, 480, 832))
    low = ceiling(flops, layout, forward=380 / 989, backward=330 / 989)
    assert low == pytest.approx(share, abs=0.006)


def real_inputs(config: Config, sizes: Sizes) -> tuple[Tensor, Tensor, Condition]:
    widths, count = widths_of(config), sizes.references
    there = torch.ones(1, count, dtype=torch.bool)
    told = Condition(
        torch.randn(1, sizes.text, widths.text),
        torch.ones(1, sizes.text, dtype=torch.bool),
        torch.randn(1, widths.latent, count, sizes.height, sizes.width),
        there,
        torch.randn(1, count, sizes.image_tokens, widths.image),
        there.clone(),
    )
    latents = torch.randn(1, widths.latent, sizes.frames, sizes.height, sizes.width)
    return latents, torch.rand(1), told


@pytest.mark.parametrize(
    "overrides", [SMALL, (*SMALL, "network.window=3", "data.max_references=2"), SMALL_WAN]
)
def test_activations_are_what_a_real_forward_keeps(overrides: tuple[str, ...]) -> None:
    """On the CPU with real tensors, counted by storage, against the same on no memory at all."""
    config = load("ci_tiny", *overrides)
    bucket = Bucket(9, 48, 80, config.data.max_references)
    sizes = sizes_of(config, bucket)
    model = networks.build(config, widths_of(config))
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    seen: dict[int, Tensor] = {}

    def pack(x: Tensor) -> Tensor:
        seen.setdefault(x.untyped_storage().data_ptr(), x)
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        model(*real_inputs(config, sizes))
    held = sum(x.untyped_storage().nbytes() for key, x in seen.items() if key not in own)
    k = kept(config, sizes, torch.float32)
    assert sum(k.blocks) + k.outside == pytest.approx(held, rel=0.05)


@pytest.mark.parametrize("kind", ["attention", "lora"])
def test_operations_without_the_gradients_that_nobody_wants(kind: str) -> None:
    config = load("ci_tiny", *SMALL_WAN, f"tune.kind={kind}", "tune.rank=1", "wan.layers=6")
    sizes = sizes_of(config, Bucket(9, 48, 80, 2))
    with torch.device("meta"):
        model = networks.build(config, widths_of(config))
        tune.apply(model, config.tune)
    latents, t, told = real_inputs(config, sizes)
    moved = {
        name: x if "mask" in name or "subject" in name else x.to("meta")
        for name, x in vars(told).items()
    }
    with FlopCounterMode(display=False) as counter:
        model(latents.to("meta"), t.to("meta"), Condition(**moved)).sum().backward()
    assert flops_of(config, sizes).train == pytest.approx(counter.get_total_flops(), rel=0.06)


def test_what_does_not_divide_is_refused_with_numbers_that_do() -> None:
    config = load(WAN_1B)
    why = divides(config, Layout(1, 1, 8, "none"), 8, 64)
    assert why is not None
    assert "wan.heads 12" in why
    assert "1, 2, 3, 4, 6, 12" in why
    why = divides(config, Layout(1, 8, 1, "none"), 8, 12)
    assert why is not None
    assert "train.slots=16" in why
    why = divides(config, Layout(2, 3, 1, "none"), 8, 64)
    assert why is not None
    assert "= 6, not 8 devices" in why


def test_copies_of_a_large_network_on_every_gpu_are_refused_before_they_start() -> None:
    """What users of another trainer met after launching: nothing is shared out where shard is 1."""
    config = load(WAN_14B, "parallel.cp=1", "parallel.replicate=8", "parallel.shard=1")
    with pytest.raises(ModelError, match=r"needs \d+\.\d of 73\.6 GiB \(.*optimiser 106"):
        plan(config, hardware(config))


@pytest.mark.parametrize(
    ("overrides", "gpus"),
    [
        (("parallel.recompute=none",), 8),
        (("parallel.cp=1",), 8),
        (("data.frames=721", "parallel.recompute=none"), 8),
        ((), 2),
    ],
)
def test_what_a_refusal_proposes_does_fit(overrides: tuple[str, ...], gpus: int) -> None:
    config = load(WAN_14B, *overrides)
    with pytest.raises(ModelError, match="What would fit") as refused:
        plan(config, hardware(config, gpus=gpus))
    ways = str(refused.value).partition("What would fit: ")[2].split("; or ")
    for way in ways:
        changes = re.findall(r"--set (\S+)", way)
        more = re.search(r"--gpus (\d+) \(train\.slots=(\d+)\)", way)
        if more:
            changes.append(f"train.slots={more[2]}")
        assert changes or more, way
        changed = load(WAN_14B, *overrides, *changes)
        count = int(more[1]) if more else gpus
        # Changes of sizes or of the network's load leave the layout to be chosen.
        assert plan(changed, hardware(changed, gpus=count), search=True).batch >= 1, way


def test_what_the_table_says_to_set_gives_that_layout() -> None:
    config = load(WAN_1B)
    found = plan(config, hardware(config))
    for tried in found.tried[::5]:
        if tried.fits:
            again = load(WAN_1B, *tried.settings)
            assert plan(again, hardware(again)).layout == tried.layout


def test_a_run_that_fits_needs_no_more_than_there_is_and_one_more_sample_does_not_fit() -> None:
    config = load(WAN_1B, "parallel.recompute=full")
    planner = Planner(config, hardware(config))
    layout = Layout.own(config, 8)
    for row in planner.explained(layout):
        assert row.memory["total"] <= planner.on.room / 2**30
        frames, height, width, k = map(int, re.split(r"[x+]", row.bucket))
        bucket = Bucket(frames, height, width, k)
        more = memory(config, planner.count, layout, bucket, row.most + 1, torch.bfloat16)
        assert more.total > planner.on.room


MEASURED = """
import os, resource, sys
import torch
from s2v.model import config as configuration, networks, optim
from s2v.model.conditioning import Condition
from s2v.model.data.buckets import Bucket
from s2v.model.planner.layout import Layout
from s2v.model.planner.memory import counts, memory
from s2v.model.planner.shapes import sizes_of, widths_of

torch.set_num_threads(1)
config = configuration.load("demo_tiny", ["network.width=256", "network.heads=4"])
bucket, B = Bucket(17, 96, 160, 1), 12
held = memory(config, counts(config), Layout(1, 1, 1, "none", False), bucket, B, torch.float32)
s, widths = sizes_of(config, bucket), widths_of(config)

def rss():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

warm = networks.build(configuration.load("ci_tiny"), widths_of(configuration.load("ci_tiny")))
before = rss()
model = networks.build(config, widths)
ema = optim.Ema(model.named_parameters(), 0.9)
step = optim.adamw(model, config.optim)
there = torch.ones(B, 1, dtype=torch.bool)
told = Condition(
    torch.randn(B, s.text, widths.text), torch.ones(B, s.text, dtype=torch.bool),
    torch.randn(B, widths.latent, 1, s.height, s.width), there,
    torch.randn(B, 1, s.image_tokens, widths.image), there.clone(),
)
x = torch.randn(B, widths.latent, s.frames, s.height, s.width)
for _ in range(2):
    step.zero_grad(set_to_none=True)
    model(x, torch.rand(B), told).square().mean().backward()
    step.step()
print(held.total, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before)
"""


@pytest.mark.prove
def test_memory_is_about_what_a_process_takes() -> None:
    """Loosely: an allocator rounds up, libraries take buffers. Within a third is what is asked."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED], capture_output=True, text=True, check=True, timeout=200
    )
    planned, measured = map(int, done.stdout.split())
    assert planned == pytest.approx(measured, rel=0.34), f"{planned:,} planned, {measured:,} taken"


def test_context_parallelism_divides_activations_and_costs_exchanges() -> None:
    config, bucket = load(WAN_1B), Bucket(81, 480, 832, 4)
    count, on = counts(config), hardware(load(WAN_1B))
    alone, shared = Layout(1, 8, 1, "none"), Layout(1, 4, 2, "none")
    held = [memory(config, count, x, bucket, 1, torch.bfloat16) for x in (alone, shared)]
    assert held[1].activations == held[0].activations // 2
    assert held[1].parameters == held[0].parameters
    assert on.device is not None
    rates = [speed(config, count, x, on.device, bucket, batch=1, slots=64) for x in (alone, shared)]
    assert rates[0].exchange_s == 0 < rates[1].exchange_s
    assert rates[1].samples_s < rates[0].samples_s


def test_batches_are_those_of_the_data_plan() -> None:
    """Cheaper buckets get more samples, and no micro-batch costs more than the dearest."""
    config = load("two_phase", "train.batch=2")
    batches = batches_of(config)
    costs = {b: flops_of(config, sizes_of(config, b)).train for b in batches}
    most = 2 * max(costs.values())
    assert all(batches[b] * costs[b] <= most for b in batches)
    assert {b.size for b in batches} == {(81, 256, 448), (81, 480, 832), (81, 720, 1280)}


def test_a_prediction_is_at_the_efficiency_it_names() -> None:
    config = load(WAN_1B)
    found = plan(config, hardware(config, device="h200", efficiency=0.4))
    assert found.efficiency == 0.4
    assert found.source == "given"
    for row in found.buckets:
        assert row.speed is not None
        assert row.speed.mfu == pytest.approx(0.4, rel=0.01)  # little travels at this size
        assert row.speed.mfu < row.speed.ceiling


def test_a_cpu_has_no_peak_and_so_no_prediction() -> None:
    config = load("ci_tiny")
    found = plan(config, hardware(config))
    assert found.efficiency is None
    assert all(row.speed is None for row in found.buckets)
    with pytest.raises(ModelError, match="give --memory"):
        hardware(load("ci_tiny", "plan.device=h100"), device="cpu")


def test_a_plan_is_plain_json() -> None:
    import json

    config = load(WAN_1B)
    said: dict[str, Any] = json.loads(json.dumps(plan(config, hardware(config)).to_json()))
    assert said["buckets"][-1]["speed"]["ceiling"] == pytest.approx(0.533, abs=0.002)
