"""Features by sample: from memory, from encoded shards, from the run's cache, or made."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from s2v.datapipe.base.ids import stable_hash
from s2v.datapipe.base.shards import Sample
from s2v.model.config import DataConfig
from s2v.model.config_latents import LatentsConfig
from s2v.model.data.cached import keep
from s2v.model.data.encoding import Encoders, Features
from s2v.model.data.quarantine import Quarantine
from s2v.model.data.reader import Clip, Reader
from s2v.model.errors import ModelError
from s2v.model.explaining import speaks
from s2v.model.latents.entry import Size, Want, content, sized, want
from s2v.model.latents.folder import NAME, Latents, Missing
from s2v.model.latents.stored import StoredFeatures
from s2v.model.mmdit import Widths
from s2v.model.progress import Track, quiet

__all__ = ["MEMORY_BYTES", "Encoders", "FeatureStore", "Features", "StoredFeatures"]

MEMORY_BYTES: Final = 1 << 30


class FeatureStore:
    """Features by sample and size.

    Args:
        reader: reads what is not cached.
        encoders: encode it.
        folder: the run's own cache; entries of other encoders live beside these and are not
            touched.
        latents: whether encoded shards are looked at, and where.

    Attributes:
        taken: how often features came from ``memory``, ``latents``, ``cache``, or were ``made``.
    """

    def __init__(
        self,
        reader: Reader,
        encoders: Encoders,
        folder: Path,
        latents: LatentsConfig | None = None,
    ) -> None:
        self.encoders, self.config = encoders, reader.config
        self.latents = latents or LatentsConfig()
        self._readers = {_size(reader.config): reader}
        self._pixels = reader.pixels
        self._made_by = encoders.made_by(reader.config)
        self.folder = folder / encoders.fingerprint(reader.config)
        self._memory: dict[tuple[str, Size], Features] = {}
        self._bytes = 0
        self._roots: dict[Path, Latents] = {}
        self.taken: Counter[str] = Counter()

    def get(self, sample: Sample, size: Size | None = None) -> Features | StoredFeatures:
        """Features of one sample.

        Args:
            sample: of a shard folder.
            size: ``(frames, height, width)`` in pixels; the configuration's by default.

        Raises:
            ModelError: it has to be read and cannot be, or has to be made and may not be.
        """
        size = size or _size(self.config)
        if (found := self._memory.get((sample.id, size))) is not None:
            self.taken["memory"] += 1
            return found
        features = self.look(sample, size)
        if features is None:
            return self.add(self.clip(sample, size), size)
        if isinstance(features, Features):
            self._keep((sample.id, size), features)
        return features

    def look(self, sample: Sample, size: Size) -> Features | StoredFeatures | None:
        """What was made before, by ``s2v-model encode`` or by this run; needs no encoder.

        Raises:
            ModelError: nothing may be made, and it is missing.
        """
        wanted = want(sample, sized(self.config, size))
        if (stored := self._stored(sample, wanted)) is not None:
            self.taken["latents"] += 1
            return stored
        if (features := self._load(self._path(sample, wanted))) is not None:
            self.taken["cache"] += 1
        return features

    def clip(self, sample: Sample, size: Size) -> Clip:
        """Read and decode one sample; needs no encoder.

        Raises:
            ModelError: it cannot be read.
        """
        if size not in self._readers:
            self._readers[size] = Reader(sized(self.config, size), self._pixels)
        return self._readers[size].read(sample)

    def add(self, clip: Clip, size: Size) -> Features:
        """Encode a decoded sample, cache and keep it."""
        config = sized(self.config, size)
        features = self.encoders.sample(clip, config)
        self.taken["made"] += 1
        path = self._path(clip.sample, want(clip.sample, config))
        keep(path, {k: v.contiguous() for k, v in vars(features).items()})
        self._keep((clip.sample.id, size), features)
        return features

    def __getstate__(self) -> dict[str, Any]:
        """For a process that looks and decodes but does not encode: no encoders, no memory."""
        state = dict(self.__dict__)
        state.pop("encoders")
        return state | {"_memory": {}, "_bytes": 0, "_readers": {}, "taken": Counter()}

    def _path(self, sample: Sample, wanted: Want) -> Path:
        name = stable_hash([content(sample), repr(wanted)], 12)
        return self.folder / f"{sample.id}-{name}.safetensors"

    def prepare(
        self,
        samples: Sequence[Sample],
        quarantine: Quarantine,
        title: str = "encode",
        track: Track = quiet,
    ) -> tuple[Sample, ...]:
        """Make and cache what is missing; unreadable samples are set aside, not fatal.

        What was encoded before is only looked up.

        Returns:
            The readable samples, in the order given.

        Raises:
            ModelError: the quarantine's fuse is spent, or no sample is readable.
        """
        self.check((sample, None) for sample in samples)
        readable = []
        with track(title, len(samples)) as step:
            for sample in samples:
                try:
                    if not self.has(sample):
                        self.get(sample)
                except ModelError as error:
                    quarantine.add(sample.id, error)
                else:
                    quarantine.good()
                    readable.append(sample)
                step(1, f"{len(quarantine.faults)} unreadable" if quarantine.faults else "")
        quarantine.close()
        return tuple(readable)

    def check(self, wanted: Iterable[tuple[Sample, Size | None]]) -> None:
        """Before a run: are the encoded shards those that it may train on?

        A sample that could not be encoded is no error here: it is quarantined when it comes.

        Args:
            wanted: samples, and in which sizes; None is the configuration's.

        Raises:
            ModelError: ``latents.folder`` is of other encoders; or nothing may be made and an
                entry is missing, of other encoders, or of what the sample was before.
        """
        for sample, size in wanted:
            latents = self._latents(sample)
            if latents is None or self.latents.use != "require":
                return
            config = sized(self.config, size or _size(self.config))
            missing = latents.lacks(sample, want(sample, config))
            if missing is not None and not missing.fault:
                raise self._refused(sample, missing.reason)

    @property
    def widths(self) -> Widths:
        """Of what the network gets; where shards are encoded, without loading an encoder."""
        for latents in self._roots.values():
            if (known := latents.widths()) is not None:
                return known
        e = self.encoders
        return Widths(e.video.channels, e.text.width, e.image.width)

    @property
    def empty_text(self) -> Tensor:
        """``[Ln, Dt]`` of the prompt that stands for none; as :attr:`widths`."""
        for latents in self._roots.values():
            if (known := latents.empty_text()) is not None:
                return known
        return self.encoders.caption("")

    def has(self, sample: Sample, size: Size | None = None) -> bool:
        """Whether a sample's entry is there, without reading it."""
        latents = self._latents(sample)
        wanted = want(sample, sized(self.config, size or _size(self.config)))
        try:
            return latents is not None and not latents.lacks(sample, wanted)
        except ModelError:
            return False

    def _stored(self, sample: Sample, wanted: Want) -> StoredFeatures | None:
        """The sample's entry; None where there is none and it may be made."""
        latents = self._latents(sample)
        if latents is None:
            return None
        try:
            found = latents.find(sample, wanted)
        except ModelError:
            if self.latents.use == "require":
                raise
            return None  # a shortcut that is broken: make it
        if not isinstance(found, Missing):
            return found
        if self.latents.use == "require":
            raise self._bad(sample, found) if found.fault else self._refused(sample, found.reason)
        return None

    @staticmethod
    def _bad(sample: Sample, found: Missing) -> ModelError:
        """A sample that encoding met and could not read: no recipe makes it readable."""
        return ModelError(
            f"sample {sample.id}: {found.reason}; mend the sample, then run `s2v-model encode "
            "--retry-quarantine`"
        )

    def _refused(self, sample: Sample, reason: str) -> ModelError:
        latents = self._latents(sample)
        why = (latents and latents.mismatch()) or reason
        return ModelError(
            f"sample {sample.id}: latents.use is 'require', but {why}; run `s2v-model encode` "
            "with this recipe, or set latents.use = 'auto'"
        )

    def _latents(self, sample: Sample) -> Latents | None:
        """Of the folder that the sample lies in; None where they are not looked at."""
        if self.latents.use == "off":
            return None
        root = Path(self.latents.folder) if self.latents.folder else sample.folder / NAME
        if root not in self._roots:
            self._roots[root] = Latents(root, self._made_by)
            mismatch = self._roots[root].mismatch()
            if mismatch and self.latents.use == "auto" and speaks():
                print(f"s2v-model: not used: {mismatch}", file=sys.stderr)
        return self._roots[root]

    def _keep(self, key: tuple[str, Size], features: Features) -> None:
        """Hold in memory; the oldest go when there are too many."""
        self._memory[key] = features
        self._bytes += features.bytes
        while self._bytes > MEMORY_BYTES and len(self._memory) > 1:
            self._bytes -= self._memory.pop(next(iter(self._memory))).bytes

    @staticmethod
    def _load(path: Path) -> Features | None:
        if not path.is_file():
            return None
        try:
            return Features(**load_file(path))
        except (SafetensorError, OSError, TypeError):
            return None  # an entry is only ever a shortcut: make it again


def _size(config: DataConfig) -> Size:
    return config.frames, config.height, config.width
