"""Real videos and images for the evaluation's tests."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt
import PIL.Image
import pytest

Frames = npt.NDArray[np.uint8]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    cv2.setNumThreads(1)


def encode(path: Path, frames: Sequence[Frames], fps: int = 8) -> Path:
    """H.264 in MP4, as a model's sampler writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=fps)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "12", "threads": "1"}
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def pan_over(image: Frames, n: int = 10, step: int = 3, size: tuple[int, int] = (160, 96)) -> Any:
    """Frames of a window that moves right over an image."""
    width, height = size
    scale = max((width + n * step) / image.shape[1], height / image.shape[0])
    big = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return [np.ascontiguousarray(big[:height, i * step : i * step + width]) for i in range(n)]


def texture(seed: int, tint: tuple[int, int, int], size: tuple[int, int] = (200, 300)) -> Frames:
    """Smooth noise in one colour."""
    noise = np.random.default_rng(seed).random((size[0] // 8, size[1] // 8, 1)).astype(np.float32)
    big = cv2.resize(noise, size[::-1], interpolation=cv2.INTER_CUBIC)[..., None]
    return np.asarray(np.clip(big * np.array(tint), 0, 255), np.uint8)


class Study:
    """A folder with a manifest, its videos and references."""

    def __init__(self, root: Path, shared_cache: Path) -> None:
        self.root = root
        self.shared_cache = shared_cache
        self.lines: list[dict[str, Any]] = []

    @property
    def manifest(self) -> Path:
        return self.root / "manifest.jsonl"

    def add(self, sample_id: str, **changes: Any) -> dict[str, Any]:
        line: dict[str, Any] = {
            "sample_id": sample_id,
            "video": f"videos/{sample_id}.mp4",
            "prompt": f"a moving texture {sample_id}",
            "refs": [{"path": "refs/r.png", "mask": None, "phrase": "texture", "class": "thing"}],
            "seed": 1,
            "scenario": "plain",
            "split": "test",
            "model": "toy",
            "source": "generated",
            "reference_id": sample_id.split("-", maxsplit=1)[0],
        }
        line.update(changes)
        self.lines.append(line)
        return line

    def save(self) -> Path:
        self.manifest.write_text("".join(json.dumps(line) + "\n" for line in self.lines))
        return self.manifest


@pytest.fixture(scope="session")
def _toy_media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four short clips of different speeds and a reference, encoded once."""
    root = tmp_path_factory.mktemp("toy")
    (root / "refs").mkdir()
    PIL.Image.fromarray(texture(9, (255, 120, 40))).save(root / "refs" / "r.png")
    for i, (name, step) in enumerate((("a-1", 0), ("a-2", 3), ("b-1", 9), ("c-1", 6))):
        encode(root / "videos" / f"{name}.mp4", pan_over(texture(i, (200, 160, 90)), step=step))
    return root


@pytest.fixture
def study(_toy_media: Path, tmp_path: Path) -> Study:
    """A fresh copy of the toy study: four generated clips of three references."""
    import shutil

    root = tmp_path / "study"
    shutil.copytree(_toy_media, root)
    made = Study(root, _toy_media.parent / "toy-cache")
    for name in ("a-1", "a-2", "b-1", "c-1"):
        made.add(name)
    made.save()
    return made


@pytest.fixture(scope="session")
def encode_video() -> Callable[..., Path]:
    return encode


@pytest.fixture(scope="session")
def pan() -> Callable[..., Any]:
    return pan_over


@pytest.fixture(scope="session")
def textured() -> Callable[..., Frames]:
    return texture


@pytest.fixture(scope="session")
def empty_study() -> type[Study]:
    return Study


def write_shards(folder: Path, samples: dict[str, tuple[str, bytes]]) -> Path:
    """Training shards of ``id -> (caption, reference as JPEG)``, by the product's own writers."""
    from s2v.datapipe.base import shards
    from s2v.datapipe.write.tar import index_row, write_index, write_tar

    made = {}
    for key, (caption, picture) in samples.items():
        meta = shards.SampleMeta(
            schema_=shards.SCHEMA_VERSION,
            pair_type="in",
            split="train",
            heldout=False,
            scenario="single",
            caption=caption,
            source=shards.Source(
                video_id="v", long_video_id="v", clip_id=f"c-{key}", licence=None, url=None,
                credit=None, start_us=0, end_us=1_000_000,
            ),
            video=shards.Video(frames=8, fps=8.0, height=32, width=32),
            refs=(),
            scores=shards.SampleScores(),
        )  # fmt: skip
        members = {"txt": caption.encode(), "json": meta.to_json(), "ref0.jpg": picture}
        made[key] = (members, meta)
    folder.mkdir(parents=True)
    written = write_tar(folder / "in-000000.tar", [(k, m) for k, (m, _) in made.items()])
    rows = [index_row("in-000000.tar", w, made[w["sample_id"]][1]) for w in written]
    write_index(folder, rows)
    return folder


@pytest.fixture(scope="session")
def shard_folder() -> Callable[..., Path]:
    return write_shards
