"""Real shards of drawn clips: coloured shapes that move; a reference tells which one.

The clips are encoded and written by the product's own writers, small enough for one core.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from s2v.datapipe.base import shards
from s2v.datapipe.base.media.images import encode_jpeg, encode_png_mask
from s2v.datapipe.write.tar import index_row, write_index, write_tar
from s2v.model import config as configuration
from s2v.model.config import Config
from s2v.model.output import write_mp4

sys.path.append(str(Path(__file__).parent))  # kits that several tests share

from latents_kit import encoded, own

COLOURS = np.array(
    [(220, 40, 40), (40, 70, 220), (30, 170, 60), (230, 190, 30), (170, 50, 190), (40, 190, 200)],
    np.uint8,
)
HEIGHT, WIDTH, FPS = 48, 80, 24.0
# A net of seconds; no weights are needed for its encoders.
TINY = (
    "network.width=32",
    "network.heads=2",
    "network.double_layers=1",
    "network.single_layers=1",
    "encoders.text=hashed",
    "encoders.image=pixels",
    "data.height=48",
    "data.width=80",
    "data.frames=9",
    "data.variants=1",
    "train.batch=4",
    "train.steps=12",
    "train.checkpoint_every=5",
    "train.device=cpu",
    "heldout.levels=2",
    "heldout.partners=1",
    "sample.steps=3",
    # What the demo's recipe has chosen for the demo's clips is not what these tests are about.
    "flow.shift=2",
    "flow.std=1",
    "dropout.references_only=0",
    "dropout.vae=0.7",
    "dropout.image=0",
    "data.forms={ crop = 1.0, white = 1.0, masked = 1.0 }",
    "data.augment_references.odds=0",
    "optim.lr=2e-3",
    "optim.weight_decay=0.01",
    "sample.shift=2",
    "sample.text_scale=7.5",
)


@dataclass(frozen=True)
class Drawn:
    """One sample to be drawn."""

    identity: int
    number: int
    pair: str = "in"
    heldout: bool = False
    split: str = "train"
    frames: int = 40
    references: int = 1
    shows: int | None = None  # frames that the file has, where the index says more


def _shape(size: int, identity: int) -> np.ndarray:
    """Bool [size, size]: a disc for even identities, a square for odd ones."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    return (
        x**2 + y**2 < (size * 0.42) ** 2 if identity % 2 == 0 else np.abs(x) + 0 * y < size * 0.36
    )


def draw_video(identity: int, number: int, frames: int) -> np.ndarray:
    """[F, 48, 80, 3]: the identity's shape crosses a grey ground of its own brightness."""
    random = np.random.default_rng(1000 * identity + number)
    ground = int(random.integers(70, 150))
    video = np.full((frames, HEIGHT, WIDTH, 3), ground, np.uint8)
    size, start, speed = 24, random.uniform(0, 20), random.uniform(0.6, 1.2)
    top = int(random.integers(4, HEIGHT - size - 4))
    mask = _shape(size, identity)
    for i in range(frames):
        left = int(start + speed * i) % (WIDTH - size)
        video[i, top : top + size, left : left + size][mask] = COLOURS[identity % len(COLOURS)]
    return video


def draw_reference(identity: int, number: int) -> tuple[np.ndarray, np.ndarray]:
    """RGB [32, 32, 3] and bool mask."""
    crop = np.full((32, 32, 3), 60 + 17 * (number % 9), np.uint8)
    mask = np.zeros((32, 32), np.bool_)
    mask[4:28, 4:28] = _shape(24, identity)
    crop[mask] = COLOURS[identity % len(COLOURS)]
    return crop, mask


def members_of(drawn: Drawn, folder: Path) -> tuple[str, dict[str, bytes], shards.SampleMeta]:
    """Key, members and meta of one drawn sample."""
    key = f"{drawn.pair}-{drawn.identity:02d}-{drawn.number:03d}"
    path = folder / "clip.mp4"
    frames = drawn.shows or drawn.frames
    write_mp4(path, draw_video(drawn.identity, drawn.number, frames), FPS)
    crop, mask = draw_reference(drawn.identity, drawn.number)
    caption = "a shape moves"
    refs = tuple(
        shards.Reference(
            subject_id=f"v{drawn.identity}-{drawn.number}-s{k}",
            identity_id=f"identity-{drawn.identity}",
            phrase="a shape",
            span=(0, 7),
            class_="thing",
            noun="shape",
            box=(4, 4, 28, 28),
            from_=shards.ReferenceSource(clip_id="c", pts_us=0, source="v", licence=None),
            scores=shards.ReferenceScores(),
            verdicts=shards.Verdicts(),
        )
        for k in range(drawn.references)
    )
    meta = shards.SampleMeta(
        schema_=shards.SCHEMA_VERSION,
        pair_type=drawn.pair,
        split=drawn.split,
        heldout=drawn.heldout,
        scenario="single",
        caption=caption,
        source=shards.Source(
            video_id=f"v{drawn.identity}",
            long_video_id=f"v{drawn.identity}",
            clip_id=f"v{drawn.identity}-{drawn.number}",
            licence="drawn",
            url=None,
            credit=None,
            start_us=0,
            end_us=round(drawn.frames / FPS * 1e6),
        ),
        video=shards.Video(frames=drawn.frames, fps=FPS, height=HEIGHT, width=WIDTH),
        refs=refs,
        scores=shards.SampleScores(),
    )
    members = {"mp4": path.read_bytes(), "txt": caption.encode(), "json": meta.to_json()}
    for k in range(drawn.references):
        members[f"ref{k}.jpg"] = encode_jpeg(crop)
        members[f"ref{k}.mask.png"] = encode_png_mask(mask)
    return key, members, meta


def write_shards(folder: Path, samples: Sequence[Drawn]) -> Path:
    """Write one shard per pair type with its index; returns ``folder``."""
    rows = []
    for pair in sorted({d.pair for d in samples}):
        made = [members_of(d, folder) for d in samples if d.pair == pair]
        shard = f"{pair}-000000.tar"
        written = write_tar(folder / shard, [(key, members) for key, members, _ in made])
        rows += [index_row(shard, w, m[2]) for w, m in zip(written, made, strict=True)]
    write_index(folder, rows)
    return folder


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def drawn_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two identities of four in-pairs and two cross-pairs, held-out clips, one short clip."""
    samples = [Drawn(i, n) for i in range(2) for n in range(4)]
    samples += [Drawn(i, n, pair="cross", references=1 + i) for i in range(2) for n in range(2)]
    samples += [Drawn(i, 50 + n, heldout=True) for i in range(2) for n in range(2)]
    samples += [Drawn(0, 90, frames=8), Drawn(0, 91, split="test")]
    return write_shards(tmp_path_factory.mktemp("shards"), samples)


@pytest.fixture(scope="session")
def mixed_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All four pair types: clips of two lengths, photographs, clips without references."""
    samples = [Drawn(i, n, frames=30 + 40 * (n % 2)) for i in range(2) for n in range(4)]
    samples += [Drawn(i, n, pair="cross", references=1 + n) for i in range(2) for n in range(2)]
    samples += [Drawn(i, 20 + n, pair="image", frames=1) for i in range(2) for n in range(3)]
    samples += [Drawn(i, 30 + n, pair="t2v", references=0) for i in range(2) for n in range(2)]
    return write_shards(tmp_path_factory.mktemp("mixed"), samples)


@pytest.fixture(scope="session")
def six_references(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of one sample that has as many references as a sample may."""
    return write_shards(tmp_path_factory.mktemp("six"), [Drawn(0, 0, references=6)])


@pytest.fixture(scope="session")
def short_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of forty frames, two of which end after twelve; the index says forty of all."""
    samples = [Drawn(i, n, shows=12 if n == 3 else None) for i in range(2) for n in range(5)]
    samples += [Drawn(i, 50, heldout=True) for i in range(2)]
    return write_shards(tmp_path_factory.mktemp("short"), samples)


@pytest.fixture(scope="session")
def drawing_shards(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Shards of in-pairs ``(identity, number, held out)``."""

    def make(samples: Sequence[tuple[int, int, bool]]) -> Path:
        drawn = [Drawn(i, n, heldout=heldout) for i, n, heldout in samples]
        return write_shards(tmp_path_factory.mktemp("drawn"), drawn)

    return make


@pytest.fixture(scope="session")
def drawing() -> Callable[[int, int, int], np.ndarray]:
    """``draw_video``: the clips before they were encoded."""
    return draw_video


@pytest.fixture(scope="session")
def reference_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reference image of identity 1 as a user would give it."""
    path = tmp_path_factory.mktemp("references") / "one.jpg"
    path.write_bytes(encode_jpeg(draw_reference(1, 3)[0]))
    return path


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Config]:
    """A configuration of seconds; takes further overrides."""

    def make(*overrides: str) -> Config:
        return configuration.load("demo_tiny", [*TINY, *overrides])

    return make


@pytest.fixture(scope="session")
def base() -> list[str]:
    """The overrides of ``tiny``, for other processes to load."""
    return list(TINY)


@pytest.fixture(scope="session")
def made(
    drawn_shards: Path, tiny: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory
) -> SimpleNamespace:
    """Drawn shards encoded once, two variants of each sample; not to be changed."""
    base = tmp_path_factory.mktemp("latents")
    shards, config = own(drawn_shards, base), tiny("data.variants=2")
    return SimpleNamespace(
        config=config, shards=shards, run=base / "run", result=encoded(config, shards, base / "run")
    )


@pytest.fixture
def wan() -> Callable[..., Any]:
    """A Wan network of two blocks with random weights in every tensor; takes options."""
    from s2v.model.wan import WanModel
    from s2v.model.wan_config import WanConfig

    def make(seed: int = 0, **options: Any) -> WanModel:
        sizes = {
            "width": 24, "heads": 2, "layers": 2, "ffn": 40, "text_width": 20, "text_tokens": 16,
            "frequencies": 16,
        }  # fmt: skip
        model = WanModel(WanConfig(**{**sizes, **options}))
        random = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                noise = torch.randn(parameter.shape, generator=random)
                parameter.copy_((1 + 0.1 * noise) if "norm" in name else 0.2 * noise)
        return model.eval()

    return make
