"""From a draw to what a batch is made of: the sample's features, with its choices made."""

from __future__ import annotations

from collections.abc import Sequence

from s2v.datapipe.base.shards import Sample, ShardIndex
from s2v.model.config_data import DataConfig, VideoSize
from s2v.model.data.buckets import Bucket
from s2v.model.data.collate import Batch, Item, choose, collate
from s2v.model.data.features import Features, FeatureStore
from s2v.model.data.plan import Draw
from s2v.model.data.pool import Pool
from s2v.model.data.quarantine import Quarantine
from s2v.model.data.reader import Reader
from s2v.model.errors import ModelError
from s2v.model.progress import Track, quiet


class Samples:
    """Reads the samples of an index in the sizes that the plan gives them.

    Args:
        index: of the shards.
        store: features of the size that the configuration names; others get stores beside it.
        seed: of the run.
    """

    def __init__(self, index: ShardIndex, store: FeatureStore, seed: int) -> None:
        self.index, self.seed, self.config = index, seed, store.config
        c = store.config
        self._stores: dict[VideoSize, FeatureStore] = {(c.frames, c.height, c.width): store}
        self._first = store

    def __call__(self, draw: Draw, bucket: Bucket) -> Item:
        """One sample with variant, references, order and forms chosen.

        Raises:
            ModelError: it cannot be read.
        """
        return self.item(draw, self.features(self.index[draw.row], bucket.size))

    def item(self, draw: Draw, features: Features) -> Item:
        """The choices of a draw, functions of seed, sample and number alone."""
        data = self.config
        return choose(
            (draw.sample_id, draw.number),
            features,
            {str(form): odds for form, odds in data.forms.items()},
            self.seed,
            epoch=draw.epoch,
            most=data.max_references,
        )

    def features(self, sample: Sample, size: VideoSize) -> Features:
        """Of one sample in one size."""
        return self._store(size).get(sample)

    def prepare(self, pool: Pool, quarantine: Quarantine, track: Track = quiet) -> Pool:
        """Encode and cache all that the first phase needs; the pool without unreadable samples.

        Raises:
            ModelError: the quarantine's fuse is spent, or no sample is readable.
        """
        rows = pool.drawn_rows().tolist()
        bad: dict[int, str] = {}
        with track("encode", len(rows)) as step:
            for row in rows:
                bucket = next(b for p in range(len(pool.places)) if (b := pool.bucket(row, p)))
                sample = self.index[row]
                try:
                    self.features(sample, bucket.size)
                except ModelError as error:
                    bad[row] = "unreadable"
                    quarantine.add(sample.id, error)
                else:
                    quarantine.good()
                step(1, f"{len(bad)} unreadable" if bad else "")
        quarantine.close()
        return pool.without(bad)

    def _store(self, size: VideoSize) -> FeatureStore:
        if size not in self._stores:
            first = self._first
            frames, height, width = size
            changed = {"frames": frames, "height": height, "width": width}
            config: DataConfig = self.config.model_copy(update=changed)
            self._stores[size] = FeatureStore(
                Reader(config, first.pixels), first.encoders, first.folder.parent
            )
        return self._stores[size]


def batch(bucket: Bucket, draws: Sequence[Draw], items: Sequence[Item]) -> Batch:
    """What :class:`s2v.model.data.loader.Loader` makes of a bucket's items."""
    return collate(items)
