"""The guard: no test identity, and no test prompt, may be in the training shards.

A model that has seen a test face reproduces it from memory, and face similarity measures that.
Every face of every training reference is compared with every test face; above a cosine of 0.45
it counts as the same person (docs/evals-suites.md has what SFace, the embedded network, gives).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from s2v.datapipe.base.media.images import load_image
from s2v.datapipe.base.shards import ShardIndex
from s2v.evals.encoders import FaceDetector, FaceEmbedder, Image, Vectors
from s2v.evals.metrics.face import PAD_SHARE, detect_largest

MAX_SIMILARITY = 0.45
_BATCH = 256


@dataclass(frozen=True)
class Leak:
    """A test entry that the training data knows.

    Attributes:
        reference_id: of the test entry.
        reason: ``face`` or ``prompt``.
        training_id: the sample that has it.
        similarity: cosine of the faces; 1 for an equal prompt.
    """

    reference_id: str
    reason: str
    training_id: str
    similarity: float


@dataclass(frozen=True)
class TrainingImage:
    """A reference image of a training sample.

    Attributes:
        sample_id: whose.
        image: RGB uint8 (H, W, 3).
    """

    sample_id: str
    image: Image


class FaceGuard:
    """Compares training faces with those of the test set.

    Args:
        detector: of faces.
        embedder: of faces; its vectors are normalised here.
        limit: cosine above which two faces are one person.
    """

    def __init__(
        self, detector: FaceDetector, embedder: FaceEmbedder, limit: float = MAX_SIMILARITY
    ) -> None:
        if not -1 < limit <= 1:
            raise ValueError(f"limit {limit} is no cosine")
        self._detector, self._embedder = detector, embedder
        self.limit = limit
        self.id = f"{detector.id} + {embedder.id}"

    def face(self, image: Image) -> Vectors | None:
        """(D,) of the largest face, or None without one."""
        found = detect_largest(self._detector, image)
        return None if found is None else _unit(self._embedder.embed(image, found))

    def faces(self, image: Image) -> list[Vectors]:
        """Every face of a training image, also those in its background."""
        found = self._detector.detect(image)
        if not found:
            largest = self.face(_padded(image))
            return [] if largest is None else [largest]
        return [_unit(self._embedder.embed(image, one)) for one in found]

    def leaks(
        self, test: Mapping[str, Sequence[Vectors]], training: Iterable[TrainingImage]
    ) -> list[Leak]:
        """The nearest training face of each test entry that has one above the limit.

        Args:
            test: reference id -> vectors of its faces.
            training: read once; memory does not grow with it.

        Returns:
            Leaks by reference id.
        """
        names = [name for name in sorted(test) for _ in test[name]]
        if not names:
            return []
        matrix = np.stack([v for name in sorted(test) for v in test[name]])
        best: dict[str, tuple[float, str]] = {}
        for vectors, ids in _batches(self._training(training)):
            cosines = matrix @ vectors.T
            for row, name in enumerate(names):
                for column in np.flatnonzero(cosines[row] > self.limit):
                    seen = (round(float(cosines[row, column]), 6), ids[int(column)])
                    # The highest; of equals the first by id.
                    if name not in best or (-seen[0], seen[1]) < (-best[name][0], best[name][1]):
                        best[name] = seen
        return [Leak(name, "face", where, value) for name, (value, where) in sorted(best.items())]

    def _training(self, images: Iterable[TrainingImage]) -> Iterator[tuple[Vectors, str]]:
        for one in images:
            for vector in self.faces(one.image):
                yield vector, one.sample_id


def _batches(pairs: Iterable[tuple[Vectors, str]]) -> Iterator[tuple[Vectors, list[str]]]:
    vectors: list[Vectors] = []
    ids: list[str] = []
    for vector, name in pairs:
        vectors.append(vector)
        ids.append(name)
        if len(ids) == _BATCH:
            yield np.stack(vectors), ids
            vectors, ids = [], []
    if ids:
        yield np.stack(vectors), ids


def _unit(vector: Vectors) -> Vectors:
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-12), np.float32)


def _padded(image: Image) -> Image:
    y, x = round(image.shape[0] * PAD_SHARE), round(image.shape[1] * PAD_SHARE)
    return np.pad(image, ((y, y), (x, x), (0, 0)), constant_values=np.uint8(128))


def training_images(folders: Sequence[str | Path], step: object = None) -> Iterator[TrainingImage]:
    """The reference images of training shards, each content once.

    Args:
        folders: of shards.
        step: called once per sample, for progress.

    Raises:
        ShardError: no shards there, or damaged.
    """
    seen: set[str] = set()
    for folder in folders:
        for sample in ShardIndex.open(folder):
            for member in sample.row["members"]:
                suffix = str(member["suffix"])
                if suffix.startswith("ref") and suffix.endswith(".jpg"):
                    digest = str(member["sha256"])
                    if digest not in seen:
                        seen.add(digest)
                        yield TrainingImage(sample.id, load_image(sample.read(suffix)))
            if callable(step):
                step(note=sample.id)


def prompt_leaks(
    prompts: Mapping[str, Sequence[str]], captions: Iterable[tuple[str, str]]
) -> list[Leak]:
    """Test entries with a prompt that is a training caption, whatever its case and spaces.

    Args:
        prompts: reference id -> prompts.
        captions: ``(sample id, caption)`` of the training data.
    """
    wanted: dict[str, set[str]] = {}
    for name, asked in prompts.items():
        for prompt in asked:
            wanted.setdefault(_plain(prompt), set()).add(name)
    found: dict[str, str] = {}
    for sample_id, caption in captions:
        for name in wanted.get(_plain(caption), ()):
            found[name] = min(found.get(name, sample_id), sample_id)
    return [Leak(name, "prompt", where, 1.0) for name, where in sorted(found.items())]


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
