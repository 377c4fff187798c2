"""What h200.py measures of whole networks: the cases of each section, one row each."""

from __future__ import annotations

import gc
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Final, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from s2v.model import config as configuration
from s2v.model import flow, optim
from s2v.model.conditioning import Condition
from s2v.model.config import Config
from s2v.model.data.buckets import Bucket
from s2v.model.devices import named
from s2v.model.parallel import gradients
from s2v.model.parallel import world as processes
from s2v.model.parallel.build import build
from s2v.model.parallel.compiled import graphs
from s2v.model.parallel.kernels import attention_kernels
from s2v.model.planner.layout import Layout
from s2v.model.planner.shapes import sizes_of, widths_of
from s2v.model.planner.speed import ceiling, flops_of, recomputed

Row = dict[str, Any]
WARM: Final = 3
TIMED: Final = 8
_TOY: Final = (
    "wan.width=48", "wan.ffn=96", "wan.heads=2", "wan.layers=2", "wan.text_width=64",
    "wan.text_tokens=16", "network.width=48", "network.heads=2", "network.double_layers=1",
    "network.single_layers=1", "encoders.text=hashed", "encoders.text_tokens=16",
    "network.rope_axes=[8,8,8]", "encoders.image=pixels", "autoencoder.kind=linear",
    "data.height=32", "data.width=48", "data.frames=9", "parallel.compile_backend=aot_eager",
)  # fmt: skip


@dataclass
class Bench:
    """The device and the sizes; a context that holds what the cases share.

    Attributes:
        device: where things run.
        toy: small sizes, few repetitions.
        repeats: of each step's case, apart from one another.
        peak: dense bf16 operations per second, None where it is not known.
        known: rows of an earlier call, by case.
    """

    device: torch.device
    toy: bool
    repeats: int
    peak: float | None
    known: dict[str, Row] = field(default_factory=dict)
    _stack: ExitStack = field(default_factory=ExitStack)

    @classmethod
    def make(cls, *, toy: bool, repeats: int) -> Self:
        """A bench on the first GPU, or on the CPU at toy size."""
        device = torch.device("cpu" if toy else "cuda")
        known = None if toy else named(torch.cuda.get_device_name(device))
        return cls(device, toy, 1 if toy else repeats, known.peak if known else None)

    def __enter__(self) -> Self:
        parallel = self.config("phantom_wan_1_3b_480p").parallel
        self.world = self._stack.enter_context(processes.begin(parallel, self.device))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def references(self) -> tuple[int, ...]:
        """Numbers of references that a step is measured with."""
        return (4,) if self.toy else (0, 4)

    @property
    def dtype(self) -> torch.dtype:
        """In which things compute."""
        return torch.float32 if self.toy else torch.bfloat16

    def config(self, recipe: str, *overrides: str) -> Config:
        """A recipe on one device, made small on a CPU."""
        small = _TOY if self.toy else ()
        alone = ("parallel.cp=1", "parallel.recompute=none", "parallel.compile=false")
        return configuration.load(recipe, [*small, *alone, *overrides])

    def seconds(self, run: Callable[[], object], warm: int = WARM, timed: int = TIMED) -> float:
        """Median of single runs: events on a GPU, the clock on a CPU."""
        if self.toy:
            warm, timed = 1, 2
        for _ in range(warm):
            run()
        found = []
        for _ in range(timed):
            if self.device.type == "cuda":
                start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                start.record()
                run()
                stop.record()
                torch.cuda.synchronize()
                found.append(start.elapsed_time(stop) / 1e3)
            else:
                began = time.perf_counter()
                run()
                found.append(time.perf_counter() - began)
        return statistics.median(found)

    def clear(self) -> None:
        """Give memory and compiled graphs back before the next case."""
        gc.collect()
        torch.compiler.reset()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak_gib(self) -> float | None:
        """The largest allocation since :meth:`clear`; None on a CPU."""
        if self.device.type != "cuda":
            return None
        return torch.cuda.max_memory_allocated() / 2**30


def attempt(run: Callable[[], Row], case: str, bench: Bench) -> Row:
    """A row, or why there is none: one case that does not fit must not end the run."""
    if case in bench.known:
        return bench.known[case]
    try:
        return {"case": case, **run()}
    except (torch.OutOfMemoryError, RuntimeError, NotImplementedError) as error:
        return {"case": case, "error": " ".join(str(error).split())[:160] or type(error).__name__}


def steps(bench: Bench) -> Iterator[Row]:
    """Wan-1.3B: ours in every way of keeping activations, diffusers' between them.

    In the order in which they matter, and second runs after all first ones: a run that is cut off
    has both sides of the comparison.
    """
    ways = [(c, r) for c in (True, False) for r in ("selective", "none", "full")]
    theirs = peers(bench)
    for n in range(bench.repeats):
        for references in reversed(bench.references):
            for compiled, recompute in ways:
                config = bench.config(
                    "phantom_wan_1_3b_480p",
                    f"parallel.compile={str(compiled).lower()}",
                    f"parallel.recompute={recompute}",
                )
                how = "compiled" if compiled else "eager"
                case = f"ours, {references} references, {how}, recompute {recompute}, run {n + 1}"
                yield attempt(lambda c=config, k=references: _ours(bench, c, k), case, bench)  # type: ignore[misc]  # bound now
                yield from itertools.islice(theirs, 1)
    yield from theirs


def _ours(bench: Bench, config: Config, references: int) -> Row:
    """The trainer's own network, wrapping, clipping and optimiser."""
    bench.clear()
    model = filled(build(config, widths_of(config), bench.world, fresh=False))
    return _stepped(bench, config, model, references, model)


@torch.no_grad()
def filled(model: nn.Module) -> nn.Module:
    """Weights of usual sizes, drawn where they lie: a start as a run has it costs a minute."""
    for name, p in model.named_parameters():
        own = optim.local(p)
        if p.dim() > 1:
            own.normal_(std=p[0].numel() ** -0.5)
        else:
            own.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
    return model


def _stepped(
    bench: Bench,
    config: Config,
    model: nn.Module,
    references: int,
    predict: Callable[[Tensor, Tensor, Condition], Tensor],
) -> Row:
    d = config.data
    bucket = Bucket(d.frames, d.height, d.width, references)
    optimiser = optim.adamw(model, config.optim)
    inputs = itertools.cycle([drawn(bench, config, bucket, n) for n in range(3)])
    zero = torch.zeros((), device=bench.device)

    def step() -> None:
        x0, eps, t, told = next(inputs)
        optimiser.zero_grad(set_to_none=True)
        with attention_kernels(config.parallel):  # the same for both sides
            out = predict(flow.interpolate(x0, eps, t), t, told)
            flow.video_loss(out, x0, eps).mean().backward()  # type: ignore[no-untyped-call]  # torch's
        gradients.clip(model.parameters(), config.optim.clip)
        optim.step(optimiser, config.optim.lr, zero)

    took = bench.seconds(step)
    return rates(bench, config, bucket, took)


def rates(bench: Bench, config: Config, bucket: Bucket, seconds: float) -> Row:
    """A step of one sample in the field's figures."""
    layout = Layout.own(config, 1)
    flops = flops_of(config, sizes_of(config, bucket))
    done = flops.train + recomputed(flops, layout)
    peak = bench.peak
    return {
        "seconds": seconds,
        "tokens": flops.tokens,
        "tokens_s": flops.tokens / seconds,
        "model_tflop": flops.train / 1e12,
        "tflops": flops.train / seconds / 1e12,
        "mfu": None if peak is None else flops.train / seconds / peak,
        "hfu": None if peak is None else done / seconds / peak,
        "ceiling": None if peak is None else ceiling(flops, layout),
        "peak_gib": bench.peak_gib(),
    }


def drawn(
    bench: Bench, config: Config, bucket: Bucket, seed: int
) -> tuple[Tensor, Tensor, Tensor, Condition]:
    """Random latents, noise, level and condition of one sample."""
    random = torch.Generator(bench.device).manual_seed(seed)
    s, widths = sizes_of(config, bucket), widths_of(config)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random, device=bench.device, dtype=bench.dtype)

    there = torch.ones(1, s.references, dtype=torch.bool)
    told = Condition(
        normal(1, s.text, widths.text),
        torch.ones(1, s.text, dtype=torch.bool),
        normal(1, widths.latent, s.references, s.height, s.width),
        there,
        normal(1, s.references, s.image_tokens, widths.image),
        there.clone(),
    )
    video = (1, widths.latent, s.frames, s.height, s.width)
    return normal(*video), normal(*video), torch.rand(1, device=bench.device), told


def peers(bench: Bench) -> Iterator[Row]:
    """diffusers' network of the same sizes, same inputs, same wrapping and optimiser."""
    try:
        from diffusers import WanTransformer3DModel
    except ImportError:
        yield {"case": "diffusers", "error": "diffusers is not installed here"}
        return
    for compiled, full in itertools.product((True, False), (False, True)):
        config = bench.config(
            "phantom_wan_1_3b_480p", f"parallel.recompute={'full' if full else 'none'}"
        )
        how = f"{'compiled' if compiled else 'eager'}, recompute {'full' if full else 'none'}"
        for references in reversed(bench.references):

            def run(
                c: Config = config, k: int = references, comp: bool = compiled, again: bool = full
            ) -> Row:
                return _peer(bench, WanTransformer3DModel, c, k, compiled=comp, full=again)

            yield attempt(run, f"diffusers, {references} references, {how}", bench)


def _peer(
    bench: Bench, kind: Any, config: Config, references: int, *, compiled: bool, full: bool
) -> Row:
    bench.clear()
    w = config.wan
    torch.manual_seed(0)
    with torch.device(bench.device):
        model = kind(
            num_attention_heads=w.heads, attention_head_dim=w.head, text_dim=w.text_width,
            ffn_dim=w.ffn, num_layers=w.layers, freq_dim=w.frequencies,
        )  # fmt: skip
    if full:
        model.enable_gradient_checkpointing()
    if compiled:
        for block in model.blocks:
            block.compile(fullgraph=True, backend=config.parallel.compile_backend)
    if bench.world.mesh is not None:
        _shard_peer(model, bench)

    def predict(x: Tensor, t: Tensor, told: Condition) -> Tensor:
        joined = torch.cat([x, told.references], dim=2)
        text = functional.pad(told.text, (0, 0, 0, w.text_tokens - told.text.shape[1]))
        out: Tensor = model(joined, 1000 * t, text, return_dict=False)[0]
        return out

    return _stepped(bench, config, model, references, predict)


def _shard_peer(model: nn.Module, bench: Bench) -> None:
    """FSDP2 with bf16 products and float32 weights, as ours is wrapped."""
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    assert bench.world.mesh is not None
    policy = MixedPrecisionPolicy(
        param_dtype=bench.dtype, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    mesh = bench.world.mesh["shard"]
    blocks = model.get_submodule("blocks")
    for block in blocks.children():
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=False)


def mmdit(bench: Bench) -> Iterator[Row]:
    """The paper's network, whose windows make it cheaper by the sample."""
    for references, compiled in itertools.product(bench.references, (False, True)):
        config = bench.config(
            "phantom_mmdit_1b",
            f"parallel.compile={str(compiled).lower()}",
            "parallel.recompute=selective",
        )
        case = f"{references} references, {'compiled' if compiled else 'eager'}"
        yield attempt(lambda c=config, k=references: _ours(bench, c, k), case, bench)  # type: ignore[misc]  # bound now


def mixed(bench: Bench) -> Iterator[Row]:
    """Sizes by turns, as a run over buckets has them; graphs say how often it was compiled."""
    config = bench.config(
        "phantom_wan_1_3b_480p", "parallel.compile=true", "parallel.recompute=selective"
    )
    d = config.data
    lengths = [d.frames, (d.frames - 1) // 2 // 4 * 4 + 1, 1]
    buckets = [Bucket(F_, d.height, d.width, k) for F_ in lengths for k in (0, 2, 4)]

    def run() -> Row:
        bench.clear()
        model = filled(build(config, widths_of(config), bench.world, fresh=False))
        before = graphs()
        optimiser = optim.adamw(model, config.optim)
        inputs = [drawn(bench, config, bucket, n) for n, bucket in enumerate(buckets)]

        def everything() -> None:
            for x0, eps, t, told in inputs:
                optimiser.zero_grad(set_to_none=True)
                with attention_kernels(config.parallel):
                    out = model(flow.interpolate(x0, eps, t), t, told)
                    flow.video_loss(out, x0, eps).mean().backward()  # type: ignore[no-untyped-call]  # torch's
                optimiser.step()

        took = bench.seconds(everything, warm=2, timed=3)
        flops = [flops_of(config, sizes_of(config, bucket)) for bucket in buckets]
        done, tokens = sum(f.train for f in flops), sum(f.tokens for f in flops)
        return {
            "seconds": took, "tokens_s": tokens / took, "tflops": done / took / 1e12,
            "mfu": None if bench.peak is None else done / took / bench.peak,
            "graphs": graphs() - before, "buckets": len(buckets), "peak_gib": bench.peak_gib(),
        }  # fmt: skip

    yield attempt(run, f"{len(buckets)} buckets by turns, compiled", bench)
