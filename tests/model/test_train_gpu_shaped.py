"""What a GPU would be asked, without one.

Tensors of torch's meta device have no values: who wants one, as an ``if`` or ``.item()`` does,
fails, and on a GPU the host would have waited there until all that was asked before is done.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from s2v.model import networks, optim
from s2v.model.conditioning import Condition
from s2v.model.config import Config, OptimConfig
from s2v.model.config_parallel import ParallelConfig
from s2v.model.data.buckets import Bucket
from s2v.model.data.collate import Batch
from s2v.model.data.loader import Part
from s2v.model.data.plan import Draw
from s2v.model.data.quarantine import Quarantine
from s2v.model.data.steps import Micro, Step
from s2v.model.errors import ModelError
from s2v.model.figures import Figures
from s2v.model.loop import Trainer
from s2v.model.mmdit import Widths
from s2v.model.parallel import gradients, world
from s2v.model.parallel.compiled import compile_blocks, graphs
from s2v.model.parallel.world import World, begin
from s2v.model.progress import quiet
from s2v.model.records import Records
from s2v.model.run import Run

META = torch.device("meta")
WIDTHS = Widths(16, 64, 12)
WAN = (
    "network.kind=wan", "wan.width=48", "wan.heads=2", "wan.ffn=96", "wan.layers=2",
    "wan.text_width=64", "wan.text_tokens=48", "wan.image_width=12",
    "wan.reference_timestep=zero",
)  # fmt: skip
PAPER = (
    "network.window=3", "network.shift_windows=true", "network.subject_ids=4",
    "network.pooled_text=mean", "network.reference_timestep=zero",
    "network.reference_embedding=true", "network.double_layers=2",
)  # fmt: skip
KINDS = pytest.mark.parametrize("kind", [PAPER, WAN], ids=["paper", "wan"])


class Copies(TorchDispatchMode):
    """Notes copies to the device for which the host would wait."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's
        self.waited: list[str] = []
        self.free = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        into: Any = None
        if func is torch.ops.aten._to_copy.default:
            into, source, waits = out, args[0], not kwargs.get("non_blocking")
        elif func is torch.ops.aten.copy_.default:
            into, source, waits = args[0], args[1], not (len(args) > 2 and args[2])
        if into is not None and into.is_meta and not source.is_meta:
            if waits:
                self.waited.append(f"{func} of {tuple(source.shape)}")
            else:
                self.free += 1
        return out


def condition(references: int, *, samples: int = 2, words: int = 6) -> Condition:
    """Of samples of which the last lacks a word and a reference, where there are any."""
    random = torch.Generator().manual_seed(1)
    there = torch.ones(samples, references, dtype=torch.bool)
    there[-1, 1:] = False
    told = torch.ones(samples, words, dtype=torch.bool)
    told[-1, 4:] = False
    return Condition(
        torch.randn(samples, words, 64, generator=random),
        told,
        torch.randn(samples, 16, references, 4, 6, generator=random),
        there,
        torch.randn(samples, references, 3, 12, generator=random),
        there.clone(),
    )


def part(references: int) -> Part[Batch]:
    """A slot of two samples."""
    told = condition(references)
    draws = tuple(Draw(n, "in", f"{n:020x}", 0, 0, n) for n in range(2))
    bucket = Bucket(17, 32, 48, references)
    batch = Batch(tuple(d.sample_id for d in draws), torch.randn(2, 16, 5, 4, 6), told)
    return Part(Micro(bucket, draws, 1.0), draws, bucket, batch)


def trainer(config: Config, device: torch.device) -> Trainer:
    """As far as a slot needs one."""
    made = Trainer.__new__(Trainer)
    made.config, made.device, made.null_text = config, device, torch.zeros(1, 64)
    with device:
        made.model = networks.build(config, WIDTHS)
    return made


@KINDS
@pytest.mark.parametrize("references", [0, 2])
def test_the_host_waits_for_no_gpu_within_a_step(
    tiny: Callable[..., Config], kind: tuple[str, ...], references: int
) -> None:
    """Inputs, layouts, loss, backward, norm, verdict and average; masks and absent references."""
    made = trainer(tiny(*kind, "dropout.vae=0.5"), META)
    verdicts = gradients.Verdicts(META)
    average = optim.Ema(made.model.named_parameters(), 0.9)
    with Copies() as copies:
        record = made._slot(0, part(references), 2.0)
        bad = verdicts.judge(gradients.clip(made.model.parameters(), 1.0))
        average.update(made.model.named_parameters(), 3, bad)
    assert copies.waited == []
    assert copies.free > 4  # it does see those that are there
    assert record.losses.is_meta


def test_the_optimiser_on_a_gpu_skips_a_step_without_being_asked() -> None:
    """The fused one takes the verdict from the device; the host reads nothing."""
    with FakeTensorMode():
        cuda = torch.device("cuda", 0)
        model = torch.nn.Linear(3, 2, device=cuda)
        optimiser = optim.adamw(model, OptimConfig())
        verdicts = gradients.Verdicts(cuda)
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        norm = gradients.clip(model.parameters(), 1.0)
        optim.step(optimiser, 1e-3, verdicts.judge(norm))
        steps = [state["step"] for state in optimiser.state.values()]
    assert {p.device for p in steps} == {cuda}
    assert all(group["fused"] for group in optimiser.param_groups)


@KINDS
def test_processes_with_and_without_references_share_gradients_of_the_same_parameters(
    tiny: Callable[..., Config], kind: tuple[str, ...]
) -> None:
    """FSDP hands on those that there are: were they others elsewhere, NCCL would wait for ever."""
    found = []
    for references in (0, 1, 2):
        torch.manual_seed(0)
        model = networks.build(tiny(*kind), WIDTHS)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.05)
        out = model(torch.randn(2, 16, 5, 4, 6), torch.tensor([0.3, 0.9]), condition(references))
        out.square().mean().backward()
        grads = {n: p.grad for n, p in model.named_parameters()}
        assert [n for n, g in grads.items() if g is None] == []
        assert all(bool(g.isfinite().all()) for g in grads.values() if g is not None)
        found.append(grads)
        with torch.no_grad():  # sampling need not look at what is not there
            again = model(torch.zeros(2, 16, 5, 4, 6), torch.ones(2), condition(references))
        learning = model(torch.zeros(2, 16, 5, 4, 6), torch.ones(2), condition(references))
        assert torch.equal(again, learning)
    if kind is WAN:
        gradient = found[0]["img_emb.proj.1.weight"]
        assert gradient is not None
        assert float(gradient.abs().max()) == 0


def test_a_size_more_than_torch_counts_does_not_end_a_compiled_run(
    tiny: Callable[..., Config],
) -> None:
    """torch gives up at the ninth graph of a function, which with whole graphs is an error."""
    config = tiny(
        *WAN, "wan.layers=1", "parallel.compile=true", "parallel.compile_backend=eager",
        "parallel.compile_dynamic=never",
    )  # fmt: skip
    torch._dynamo.reset()
    model = networks.build(config, WIDTHS)
    compile_blocks(model, config)
    told, before = condition(1, samples=1), graphs()
    with torch.no_grad():
        for frames in range(2, 11):
            model(torch.randn(1, 16, frames, 4, 6), torch.ones(1), told)
    assert graphs() - before == 9


def test_the_networks_kernels_bind_nothing_but_the_network(tiny: Callable[..., Config]) -> None:
    """A float32 encoder or a wide decoder between two steps finds none of the fast kernels."""
    cpu = torch.device("cpu")
    made = trainer(tiny("parallel.attention=['math']"), cpu)
    config, model = made.config, made.model
    made.world, made.step = World(), 0
    made.optimiser = optim.adamw(model, config.optim)
    made.ema = optim.Ema(model.named_parameters(), 0.9)
    made.verdicts = gradients.Verdicts(cpu)
    made.records = Records(made.world, {}, Figures(config, cpu))
    made.loader = SimpleNamespace(figures=SimpleNamespace(last_wait_s=0.0))  # type: ignore[assignment]
    allowed = torch.backends.cuda.flash_sdp_enabled
    seen = []
    model.register_forward_pre_hook(lambda *_: seen.append(allowed()))
    model.head.weight.register_hook(lambda _: seen.append(allowed()))  # in the backward
    slot = part(1)
    made.one_step(Step(0, 0, (slot.micro,), 2.0), [slot])
    assert seen == [False, False]
    assert allowed()


def test_no_wait_for_a_slow_process_is_cut_short() -> None:
    """Encoding and scoring take as long as they take; who fails meanwhile is told of."""
    store = HashStore()
    two = [World(rank=n, size=2, store=store) for n in range(2)]
    arrived = []
    first = threading.Thread(target=lambda: (two[0].meet("encoded"), arrived.append(0)))
    first.start()
    first.join(0.4)
    assert not arrived
    two[1].meet("encoded")
    first.join(10)
    assert arrived == [0]
    store.set("s2v/failed", "rank 1: the disk is full")
    with pytest.raises(ModelError, match="rank 1: the disk is full"):
        two[0].meet("scored")
    World().meet("alone")


def test_every_group_of_processes_has_the_runs_timeout() -> None:
    """torch gives groups its own ten minutes, whatever the processes began with."""
    config = ParallelConfig(meta=True, timeout_minutes=77)
    with begin(config, torch.device("cpu")) as one:
        assert one.mesh is not None
        for group in (None, *one.mesh.get_all_groups()):
            backend = (group or dist.group.WORLD)._get_backend(torch.device("cpu"))  # type: ignore[union-attr]
            assert backend.options._timeout == timedelta(minutes=77)


def test_a_process_without_a_gpu_of_its_own_is_told_how_many_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "3")
    with (
        pytest.raises(ModelError, match=r"process 3 .* torch sees 2; .* train\.device = cpu"),
        begin(ParallelConfig(), torch.device("cuda")),
    ):
        pass


class Loaded:
    """Where a loader stands that gives one step."""

    def __init__(self, slot: Part[Batch]) -> None:
        self.slot, self.quarantine = slot, Quarantine(1)

    def __iter__(self) -> Iterator[tuple[Step, list[Part[Batch]]]]:
        yield Step(6, 0, (self.slot.micro,), 2.0), [self.slot]


def test_a_full_gpu_names_the_size_that_filled_it_and_the_way_out(
    tiny: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = trainer(tiny(), torch.device("cpu"))
    made.world, made.step, made.run = World(), 6, Run(tmp_path)
    made.measures = SimpleNamespace(due=lambda _: False)  # type: ignore[assignment]
    slot = part(2)
    made.loader = Loaded(slot)  # type: ignore[assignment]

    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(Trainer, "one_step", full)
    made.records = Records(made.world, {}, Figures(made.config, torch.device("cpu")))
    with pytest.raises(ModelError, match=r"step 7, with clips of 17x32x48 and 2 ref.*model plan"):
        made.loop(quiet, {})


def test_a_process_that_fails_on_a_gpu_does_not_wait_for_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """NCCL's orderly end waits for collectives that this process will never join."""
    ended = []
    monkeypatch.setattr(dist, "destroy_process_group", lambda: ended.append(True))
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    for device, failed, orderly in (
        (cuda, True, False), (cuda, False, True), (cpu, True, True), (cpu, False, True),
    ):  # fmt: skip
        ended.clear()
        world._leave(device, failed=failed)
        assert bool(ended) == orderly
