"""The embedded text, image-text, text-region and shot nets with real weights on real media."""

from __future__ import annotations

import av
import numpy as np
import pytest
import torch
import transformers
from PIL import Image as Pillow
from scenedetect import ContentDetector, detect

from s2v.datapipe.base import assets
from s2v.datapipe.base.embedded.conse import ConSE
from s2v.datapipe.base.embedded.minilm import MiniLM
from s2v.datapipe.base.embedded.net import Image
from s2v.datapipe.base.embedded.ocr import TextDetector
from s2v.datapipe.base.embedded.phrases_spacy import NounChunk, SpacyPhrases
from s2v.datapipe.base.embedded.transnet import TransNetV2, shrink

pytestmark = pytest.mark.assets

QUERIES = {
    "cat": "a cat looking at the camera",
    "coffee": "a cup of coffee on a table",
    "motorcycle": "a red motorcycle",
    "rocket": "a rocket launch at night",
    "quokka": "a small marsupial animal",
    "astronaut": "a woman astronaut in an orange suit",
    "man-photo": "a smiling young man",
    "group-photo": "a group of friends",
    "obama-1": "a man in a suit and tie",
}


@pytest.fixture(scope="module", autouse=True)
def weights_and_media() -> None:
    nets = ["minilm", "efficientnet-lite3", "ssd-mobilenet-v2", "en-core-web-sm", "transnetv2"]
    assets.fetch([*nets, *QUERIES, "bikes", "bbb-film"])


def photo(name: str) -> Image:
    return np.asarray(Pillow.open(assets.asset(name)).convert("RGB"))


def film_frame(seconds: float) -> Image:
    with av.open(str(assets.asset("bbb-film"))) as container:
        stream = container.streams.video[0]
        container.seek(int(seconds / stream.time_base), stream=stream)
        return np.asarray(next(container.decode(stream)).to_ndarray(format="rgb24"))


@pytest.fixture(scope="module")
def minilm() -> MiniLM:
    return MiniLM.from_assets()


def test_sentence_vectors_are_the_reference_implementations(minilm: MiniLM) -> None:
    folder = assets.asset("minilm")
    texts = ["A man in a dark suit walks past two cars.", "rabbit", ""]
    reference = transformers.BertModel.from_pretrained(folder, local_files_only=True).eval()
    tokenizer = transformers.BertTokenizerFast.from_pretrained(folder, local_files_only=True)
    ours = minilm.embed(texts)
    for text, vector in zip(texts, ours, strict=True):
        with torch.inference_mode():
            encoded = tokenizer(text, return_tensors="pt")
            mean = reference(**encoded).last_hidden_state.mean(1)[0].numpy()
        assert np.allclose(mean / np.linalg.norm(mean), vector, atol=2e-5)


def test_paraphrases_are_nearer_than_other_sentences(minilm: MiniLM) -> None:
    vectors = minilm.embed(
        ["A dog runs on the beach.", "A puppy is running by the sea.", "The bank raised its rates."]
    )
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.3


def test_a_sentence_vector_does_not_depend_on_its_company(minilm: MiniLM) -> None:
    texts = ["a cat", "a dog", "a red motorcycle in the rain", "a bus"]
    alone = np.concatenate([minilm.embed([text]) for text in texts])
    assert np.abs(minilm.embed(texts) - alone).max() < 1e-5
    assert minilm.embed([]).shape == (0, 384)


def test_most_queries_find_their_photograph() -> None:
    space = ConSE.from_assets()
    images = space.embed_images([photo(name) for name in QUERIES])
    ranks = (space.embed_texts(list(QUERIES.values())) @ images.T).argmax(1)
    assert int((ranks == np.arange(len(QUERIES))).sum()) >= 7
    assert space.embed_images([]).shape == (0, 384)


@pytest.fixture(scope="module")
def phrases() -> SpacyPhrases:
    return SpacyPhrases.from_assets()


def test_noun_chunks_are_exact_substrings_with_head_and_number(phrases: SpacyPhrases) -> None:
    caption = "A man in a dark suit walks past two red cars while an old woman rides a bicycle."
    chunks = phrases.noun_chunks(caption)
    assert all(caption[chunk.start : chunk.end] == chunk.text for chunk in chunks)
    found = {chunk.noun: chunk for chunk in chunks}
    assert list(found) == ["man", "suit", "car", "woman", "bicycle"]
    assert found["car"] == NounChunk("two red cars", 32, 44, "car", "plural", False, ("red",))
    assert found["woman"].number == "singular"
    assert found["woman"].adjectives == ("old",)


def test_pronouns_and_empty_captions_are_no_subjects(phrases: SpacyPhrases) -> None:
    assert phrases.noun_chunks("") == []
    assert phrases.noun_chunks("It runs.")[0].is_pronoun


def test_titles_and_credits_are_found_and_photographs_are_clean() -> None:
    detector = TextDetector.from_assets()
    assert len(detector.detect(film_frame(25))) == 2  # "The Peach open movie project presents"
    assert len(detector.detect(film_frame(525))) > 15  # credits
    assert detector.share(film_frame(525)) > 0.02
    for image in [*(photo(name) for name in QUERIES), film_frame(205), film_frame(465)]:
        assert detector.share(image) == 0


def test_text_boxes_lie_in_the_image_and_sum_to_the_share() -> None:
    detector, image = TextDetector.from_assets(), film_frame(25)
    boxes = [found.box for found in detector.detect(image)]
    height, width = image.shape[:2]
    for x0, y0, x1, y1 in boxes:
        assert 0 <= x0 < x1 <= width
        assert 0 <= y0 < y1 <= height
    areas = sum((b[2] - b[0]) * (b[3] - b[1]) for b in boxes) / (height * width)
    assert 0 < detector.share(image) <= areas * 1.02


def test_shot_boundaries_agree_with_pyscenedetect() -> None:
    path = str(assets.asset("bikes"))
    with av.open(path) as container:
        frames = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)][:150]
    net = TransNetV2.from_assets()
    scores = net.predict(shrink(frames))
    assert scores.shape == (150,)
    above = scores > 0.5
    ends = [i for i in range(150) if above[i] and not (i + 1 < 150 and above[i + 1])]
    cuts = [start.frame_num for start, _ in detect(path, ContentDetector())][1:]
    expected = [cut - 1 for cut in cuts if cut < 149]
    assert len(expected) == 3
    assert len(ends) == len(expected)
    assert all(abs(a - b) <= 1 for a, b in zip(ends, expected, strict=True))


def test_a_still_has_no_shot_boundary_and_odd_input_is_refused() -> None:
    net = TransNetV2.from_assets()
    still = shrink([photo("cat")]).repeat(60, 0)
    assert net.predict(still).max() < 0.1
    assert net.predict(still[:0]).shape == (0,)
    with pytest.raises(ValueError, match="27, 48, 3"):
        net.predict(np.zeros((4, 32, 48, 3), np.uint8))
