"""From a draw to what a batch is made of: the sample's features, with its choices made.

A worker looks for features that were made before, takes of them what the draw shows, and gives
an item. Where there are none it decodes, and the training process, which has the encoders, makes
them when the batch is put together. Either way the numbers are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from s2v.datapipe.base.shards import Sample, ShardIndex
from s2v.model.data.buckets import Bucket
from s2v.model.data.collate import Batch, Item, choose, collate
from s2v.model.data.exclusions import Exclusions
from s2v.model.data.features import Features, FeatureStore, StoredFeatures
from s2v.model.data.fetch import LeftOut
from s2v.model.data.plan import Draw
from s2v.model.data.pool import Pool
from s2v.model.data.quarantine import Quarantine
from s2v.model.data.reader import Clip
from s2v.model.data.references import forms
from s2v.model.errors import ModelError
from s2v.model.progress import Track, quiet

#: Why a sample is in no plan that was found unreadable before the first step.
UNREADABLE: Final = "unreadable"


@dataclass(frozen=True)
class Raw:
    """A sample that is still to be encoded."""

    clip: Clip


class Samples:
    """Reads the samples of an index in the sizes that the plan gives them.

    Args:
        index: of the shards.
        store: features by sample and size.
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
        self.index, self.store, self.seed = index, store, seed
        self._exclusions = exclusions if exclusions is not None and exclusions.asks else None
        self._encodes = True

    def __call__(self, draw: Draw, bucket: Bucket) -> Item | Raw:
        """One sample with variant, references, order and forms chosen, or still to be encoded.

        Raises:
            LeftOut: an exclusion list names one of its references.
            ModelError: it cannot be read.
        """
        sample = self.index[draw.row]
        self._may(sample)
        if self._encodes:
            return self._item(draw, self.store.get(sample, bucket.size))
        features = self.store.look(sample, bucket.size)
        if features is not None:
            return self._item(draw, features)
        clip = self.store.clip(sample, bucket.size)
        for reference in clip.references:
            forms(reference)  # a mask that does not fit is found here, where others can stand in
        return Raw(clip)

    def together(self, bucket: Bucket, draws: Sequence[Draw], items: Sequence[Item | Raw]) -> Batch:
        """What :class:`s2v.model.data.loader.Loader` makes of a bucket's items."""
        return collate(
            [
                self._item(draw, self.store.add(item.clip, bucket.size))
                if isinstance(item, Raw)
                else item
                for draw, item in zip(draws, items, strict=True)
            ]
        )

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
            Rows that cannot be trained on, and why. It may be the whole share: whether anything is
            left is for all ranks together to say.

        Raises:
            ModelError: the quarantine's fuse is spent, or encoded shards are asked for and lack
                a sample.
        """
        rows = pool.drawn_rows()[rank::world].tolist()
        bad = self.check(pool, rank, world)
        with track("encode", len(rows)) as step:
            for row in rows:
                sample, size = self.index[row], pool.first_bucket(row).size
                try:
                    self._may(sample)
                    if not self.store.has(sample, size):
                        self.store.get(sample, size)
                except LeftOut as error:
                    bad[row] = str(error)
                except ModelError as error:
                    quarantine.add(sample.id, error)
                    bad[row] = UNREADABLE
                else:
                    quarantine.good()
                step(1, f"{len(quarantine.faults)} unreadable" if quarantine.faults else "")
        return bad

    def check(self, pool: Pool, rank: int = 0, world: int = 1) -> dict[int, str]:
        """Where nothing may be made, whether all is there; nothing is read.

        Returns:
            No rows: what cannot be trained on is found when it is read.

        Raises:
            ModelError: encoded shards are asked for and lack one.
        """
        rows = pool.drawn_rows()[rank::world].tolist()
        self.store.check((self.index[row], size) for row in rows for size in pool.sizes(row))
        return {}

    def _may(self, sample: Sample) -> None:
        if self._exclusions is not None and (why := self._exclusions.of_sample(sample)):
            raise LeftOut(why)

    def _item(self, draw: Draw, features: Features | StoredFeatures) -> Item:
        """The choices of a draw, functions of seed, sample and number alone."""
        data = self.store.config
        return choose(
            (draw.sample_id, draw.number),
            features,
            {str(form): odds for form, odds in data.forms.items()},
            self.seed,
            epoch=draw.epoch,
            most=data.max_references,
        )

    def __getstate__(self) -> dict[str, Any]:
        """For a worker, which does not encode."""
        return self.__dict__ | {"_encodes": False}
