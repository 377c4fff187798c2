"""Phrases and references keep their common number from the shard to the batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from s2v.datapipe.base.shards import ShardIndex
from s2v.model import autoencoder, binding
from s2v.model.config import Config
from s2v.model.data.collate import choose, collate, fixed
from s2v.model.data.features import Encoders, Features, FeatureStore
from s2v.model.data.index import select
from s2v.model.data.reader import Reader
from s2v.model.embedded import MiniLmTokens
from s2v.model.encoders import ColourGrid, HashedWords
from s2v.model.errors import ModelError
from s2v.model.sample import condition_of


def test_several_images_of_one_subject_have_one_number() -> None:
    assert binding.numbered(["dog", "cat", "dog", "hat"]) == [1, 2, 1, 3]
    assert binding.numbered([]) == []


def test_words_of_a_phrase_get_its_number() -> None:
    words = HashedWords(12)
    text = "A red fox, a grey hare and snow"
    assert len(words.offsets(text)) == len(words.encode(text))
    spans = binding.spans_of(text, ["red fox", "a grey hare", "red fox", ""])
    assert [text[a:b] for a, b in spans] == ["red fox", "a grey hare", "red fox", ""]
    ids = binding.text_subject(words, text, spans, [1, 2, 1, 3], 8)
    #                      <s> A red fox a grey hare and
    assert ids.tolist() == [0, 0, 1, 1, 2, 2, 2, 0]
    # An encoder that does not know where its tokens stand binds nothing.
    assert not binding.text_subject(ColourGrid(), text, spans, [1, 2, 1, 3], 8).any()
    with pytest.raises(ModelError, match="'blue fox' is not in the prompt"):
        binding.spans_of(text, ["blue fox"])


@pytest.mark.assets
def test_word_pieces_know_their_place_too() -> None:
    encoder = MiniLmTokens(12)
    text = "Two zebrafishes swim near an orange lighthouse"
    assert isinstance(encoder, binding.HasOffsets)
    offsets = encoder.offsets(text)
    assert len(offsets) == len(encoder.encode(text))
    span = binding.spans_of(text, ["zebrafishes"])
    ids = binding.text_subject(encoder, text, span, [1], len(offsets))
    bound = [text[a:b] for (a, b), i in zip(offsets, ids, strict=True) if i]
    assert "".join(bound) == "zebrafishes"  # however many pieces it has
    long = " ".join(["zebrafishes"] * 20)
    assert len(encoder.offsets(long)) == len(encoder.encode(long)) == 12


def _encoders(config: Config, shards: Path) -> Encoders:
    reader = Reader(config.data)
    samples = select(ShardIndex.open(shards), config.data, "train").samples[:2]
    return Encoders(
        HashedWords(8), ColourGrid(), autoencoder.fit([reader.read(s).videos[0] for s in samples])
    )


def test_numbers_come_out_of_the_shards(
    drawn_shards: Path, tiny: Callable[..., Config], tmp_path: Path
) -> None:
    config = tiny()
    index = ShardIndex.open(drawn_shards)
    encoders = _encoders(config, drawn_shards)
    store = FeatureStore(Reader(config.data), encoders, tmp_path)
    samples = {s.id: s for s in select(index, config.data, "train").samples}
    one, two = (store.get(samples[i]) for i in ("cross-00-000", "cross-01-000"))
    # "a shape moves": the phrase is "a shape"; the second sample has two images of one identity.
    assert one.text_subject.tolist() == [0, 1, 1, 0]
    assert one.reference_subject.tolist() == [1]
    assert two.reference_subject.tolist() == [1, 1]
    batch = collate([fixed("a", one, "crop"), fixed("b", two, "crop")])
    assert batch.condition.reference_subject.tolist() == [[1, 0], [1, 1]]
    assert batch.condition.text_subject.tolist() == [[0, 1, 1, 0]] * 2
    again = FeatureStore(Reader(config.data), encoders, tmp_path).get(samples["cross-01-000"])
    assert torch.equal(again.reference_subject, two.reference_subject)  # from the cache


def test_a_shuffled_order_renumbers_words_and_references_alike() -> None:
    """Number 1 must not always be the caption's first phrase, and pairs must stay pairs."""
    looks = torch.arange(3.0)  # reference k looks like k
    features = Features(
        video=torch.zeros(1, 1, 1, 1, 1),
        references=looks.reshape(1, 3, 1, 1, 1, 1).expand(1, 3, 3, 1, 1, 1),
        image=looks.reshape(1, 3, 1, 1, 1).expand(1, 3, 3, 1, 1),
        text=torch.zeros(5, 2),
        text_subject=torch.tensor([0, 1, 2, 2, 0]),
        reference_subject=torch.tensor([1, 2, 1]),
    )
    firsts = set()
    for number in range(40):
        item = choose(("s", number), features, {"crop": 1.0}, 0)
        order = item.references.flatten().long()
        old = features.reference_subject[order]
        pairs = {(int(a), int(b)) for a, b in zip(old, item.reference_subject, strict=True)}
        assert len(pairs) == 2  # one new number for each old one
        new = dict(pairs) | {0: 0}
        assert item.text_subject.tolist() == [new[i] for i in (0, 1, 2, 2, 0)]
        assert item.reference_subject[0] == 1
        firsts.add(int(old[0]))
    assert firsts == {1, 2}


def test_a_prompts_phrases_bind_its_references(
    drawn_shards: Path, tiny: Callable[..., Config]
) -> None:
    config = tiny()
    encoders = _encoders(config, drawn_shards)
    images = [np.full((20, 30, 3), value, np.uint8) for value in (40, 120, 200)]
    prompt = "a disc meets a square"
    bound = condition_of(
        prompt, images, encoders, config, phrases=["a square", "a disc", "a square"]
    )
    assert bound.reference_subject.tolist() == [[1, 2, 1]]
    #                                        <s> a disc meets a square
    assert bound.text_subject.tolist() == [[0, 2, 2, 0, 1, 1]]
    plain = condition_of(prompt, images, encoders, config)
    assert not plain.text_subject.any()
    assert not plain.reference_subject.any()
    part = condition_of(prompt, images, encoders, config, phrases=["", "a disc", ""])
    assert part.reference_subject.tolist() == [[1, 2, 3]]  # unnamed ones are their own subjects
