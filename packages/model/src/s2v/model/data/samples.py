"""From a draw to what a batch is made of: the sample's features, with its choices made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from s2v.datapipe.base.shards import Sample, ShardIndex
from s2v.model.config_data import VideoSize
from s2v.model.data.buckets import Bucket
from s2v.model.data.collate import Batch, Item, choose, collate
from s2v.model.data.exclusions import Exclusions
from s2v.model.data.features import Features, FeatureStore, StoredFeatures
from s2v.model.data.fetch import LeftOut
from s2v.model.data.plan import Draw
from s2v.model.data.pool import Pool
from s2v.model.data.quarantine import Quarantine
from s2v.model.errors import ModelError
from s2v.model.progress import Track, quiet

#: Why a sample is in no plan that was found unreadable before the first step.
UNREADABLE: Final = "unreadable"


class Samples:
    """Reads the samples of an index in the sizes that the plan gives them.

    Args:
        index: of the shards.
        store: of features.
        seed: of the run.
        exclusions: what they say of a sample's references is looked up when it is read.
    """

    def __init__(
        self,
        index: ShardIndex,
        store: FeatureStore,
        seed: int,
        exclusions: Exclusions | None = None,
    ) -> None:
        self.index, self.seed, self.config = index, seed, store.config
        self._exclusions = exclusions if exclusions is not None and exclusions.asks else None
        self.store, self.encoders = store, store.encoders

    def __call__(self, draw: Draw, bucket: Bucket) -> Item:
        """One sample with variant, references, order and forms chosen.

        Raises:
            LeftOut: an exclusion list names one of its references.
            ModelError: it cannot be read.
        """
        return self.item(draw, self.features(self.index[draw.row], bucket.size))

    def item(self, draw: Draw, features: Features | StoredFeatures) -> Item:
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

    def features(self, sample: Sample, size: VideoSize) -> Features | StoredFeatures:
        """Of one sample in one size; raises as :meth:`__call__`."""
        if self._exclusions is not None and (why := self._exclusions.reason(sample.meta())):
            raise LeftOut(why)
        return self.store.get(sample, size)

    def prepare(
        self,
        pool: Pool,
        quarantine: Quarantine,
        track: Track = quiet,
        rank: int = 0,
        world: int = 1,
    ) -> dict[int, str]:
        """Encode and cache this rank's share of what is to be trained on.

        Returns:
            Rows that cannot be trained on, and why.

        Raises:
            ModelError: the quarantine's fuse is spent, or no sample is readable.
        """
        rows = pool.drawn_rows()[rank::world].tolist()
        sizes = [pool.first_bucket(row).size for row in rows]
        self.store.check([self.index[row] for row in rows], sizes)
        bad: dict[int, str] = {}
        with track("encode", len(rows)) as step:
            for row in rows:
                sample, bucket = self.index[row], pool.first_bucket(row)
                try:
                    if self._exclusions is not None or not self.store.has(sample, bucket.size):
                        self.features(sample, bucket.size)
                except LeftOut as error:
                    bad[row] = str(error)
                except ModelError as error:
                    quarantine.add(sample.id, error)
                    bad[row] = UNREADABLE
                else:
                    quarantine.good()
                step(1, f"{len(quarantine.faults)} unreadable" if quarantine.faults else "")
        quarantine.close()
        return bad


def together(bucket: Bucket, draws: Sequence[Draw], items: Sequence[Item]) -> Batch:
    """What :class:`s2v.model.data.loader.Loader` makes of a bucket's items."""
    return collate(items)
