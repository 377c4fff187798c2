"""Phrases to token spans and back to boxes: no phrase may get another phrase's box."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from detect_models import detector, noise, phrase, written
from hypothesis import given
from hypothesis import strategies as st

from s2v.datapipe.backends.grounding import (
    CLS,
    SEP,
    SEPARATORS,
    STOP,
    GroundingOptions,
    Prompt,
    assign,
    prompts,
    to_pixels,
)
from s2v.datapipe.backends.torch_nets import THINNEST, widen

OPTIONS = GroundingOptions()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.getbasetemp()


def words(text: str) -> list[int]:
    """A toy tokeniser: a number per word, above every separator's."""
    return [2000 + sum(map(ord, word)) for word in text.split()]


def scores(prompt: Prompt, *queries: dict[int, float]) -> np.ndarray:
    """``[queries, tokens]`` with the given token scores, the rest low."""
    made = np.full((len(queries), 64), 0.01, np.float32)
    for row, given_scores in zip(made, queries, strict=True):
        for token, score in given_scores.items():
            row[token] = score
    return made


def centred(*boxes: tuple[float, float, float, float]) -> np.ndarray:
    """Pixel xyxy on a 100 x 100 image, as the nets give boxes."""
    return np.array(
        [((a + c) / 200, (b + d) / 200, (c - a) / 100, (d - b) / 100) for a, b, c, d in boxes],
        np.float32,
    )


def found(prompt: Prompt, token_scores: np.ndarray, boxes: np.ndarray) -> list[tuple[int, float]]:
    hits = assign(token_scores, boxes, prompt, (100, 100), (100, 100), OPTIONS)
    return [(hit.phrase, hit.score) for hit in hits]


def test_phrases_that_share_words_get_each_their_own_box() -> None:
    (prompt,) = prompts(["a man in a red shirt", "a man in a blue shirt"], words, 64)
    (_, first, _), (_, second, _) = prompt.spans
    red, blue = first + 4, second + 4
    # Both boxes answer to "man" of both phrases; joining words would call both "man man".
    token_scores = scores(
        prompt,
        {first + 1: 0.6, second + 1: 0.55, red: 0.7, blue: 0.1},
        {first + 1: 0.6, second + 1: 0.55, red: 0.1, blue: 0.65},
    )
    boxes = centred((0, 0, 40, 90), (50, 0, 90, 90))
    assert found(prompt, token_scores, boxes) == [(0, 0.7), (1, 0.65)]


def test_a_box_of_separators_only_is_no_phrases() -> None:
    (prompt,) = prompts(["a cat", "a dog"], words, 64)
    stop = prompt.ids.index(STOP)
    assert found(prompt, scores(prompt, {0: 0.9, stop: 0.9}), centred((0, 0, 50, 50))) == []


def test_scores_beyond_the_text_are_not_read() -> None:
    (prompt,) = prompts(["a cat"], words, 64)
    assert found(prompt, scores(prompt, {60: 0.99}), centred((0, 0, 50, 50))) == []


def test_the_two_thresholds_are_asked_of_different_scores() -> None:
    (prompt,) = prompts(["a cat"], words, 64)
    stop = prompt.ids.index(STOP)
    boxes = centred((0, 0, 50, 50))
    strict = GroundingOptions(box_threshold=0.5, text_threshold=0.2)
    hit = assign(scores(prompt, {2: 0.3, stop: 0.6}), boxes, prompt, (100, 100), (100, 100), strict)
    assert [h.score for h in hit] == [0.3]
    low = assign(scores(prompt, {2: 0.3}), boxes, prompt, (100, 100), (100, 100), strict)
    assert low == []


def test_one_thing_found_by_two_queries_is_one_box() -> None:
    (prompt,) = prompts(["a cat", "a dog"], words, 64)
    boxes = centred((10, 10, 60, 60), (11, 10, 60, 61), (10, 10, 60, 60), (70, 70, 95, 95))
    token_scores = scores(prompt, {2: 0.5}, {2: 0.6}, {5: 0.4}, {2: 0.3})
    assert found(prompt, token_scores, boxes) == [(0, 0.6), (0, 0.3), (1, 0.4)]


@given(st.lists(st.text("abc .?", max_size=12), max_size=12), st.integers(8, 40))
def test_every_phrase_is_asked_once_and_its_span_holds_its_tokens(
    phrases: list[str], limit: int
) -> None:
    packed = prompts(phrases, words, limit)
    asked = [index for prompt in packed for index, _, _ in prompt.spans]
    assert asked == [n for n, p in enumerate(phrases) if p.strip(" .?")]
    for prompt in packed:
        assert len(prompt.ids) <= limit
        assert prompt.ids[0] == CLS
        assert prompt.ids[-2:] == (STOP, SEP)
        for index, start, end in prompt.spans:
            wanted = words(phrases[index].replace(".", " ").replace("?", " "))
            assert list(prompt.ids[start:end]) == wanted[: limit - 3]
            assert prompt.ids[end] == STOP


def test_the_text_is_what_the_library_itself_would_make_of_it(root: Path) -> None:
    made = detector(root, "grounding_dino")
    made.load()
    phrases = ["A man in a RED shirt", "a cat", "the unheard-of word"]
    (prompt,) = prompts(phrases, made.tokens, 64)  # type: ignore[attr-defined]  # the backend's own
    told = made._tokenizer(" . ".join(p.lower() for p in phrases) + " .")["input_ids"]  # type: ignore[attr-defined]  # as above
    assert list(prompt.ids) == told


def test_a_separator_inside_a_caption_does_not_split_its_phrase(root: Path) -> None:
    made = detector(root, "grounding_dino")
    made.load()
    for text in ("st. bernard dog", "a dog [SEP] cat", "what? a dog", "[CLS]"):
        for prompt in prompts([text, "a cat"], made.tokens, 64):  # type: ignore[attr-defined]  # as above
            for _, start, end in prompt.spans:
                assert not set(prompt.ids[start:end]) & set(SEPARATORS.values())
            assert prompt.ids.count(STOP) == len(prompt.spans)


@pytest.mark.parametrize("backend", ["grounding_dino", "groundingdino_py"])
def test_phrases_do_not_see_each_other_in_the_text_encoder(root: Path, backend: str) -> None:
    made = detector(root, backend)
    made.load()
    features = []
    for second in ("a cat", "the blue car"):
        kept: list[torch.Tensor] = []
        net = made._net  # type: ignore[attr-defined]  # listened to
        layer = net.model.text_projection if backend == "grounding_dino" else net.feat_map
        hook = layer.register_forward_hook(lambda _m, _i, out, kept=kept: kept.append(out[0]))
        (prompt,) = prompts(["a man in a red shirt", second], made.tokens, 64)  # type: ignore[attr-defined]  # as above
        made.run([noise(96, 160)], prompt.ids)  # type: ignore[attr-defined]  # as above
        hook.remove()
        _, start, end = prompt.spans[0]
        features.append(kept[0][start : end + 1])
    assert torch.equal(*features), "block-diagonal attention keeps phrases apart"


@pytest.mark.parametrize("backend", ["grounding_dino", "groundingdino_py"])
def test_asked_one_by_one_no_phrase_sways_another(root: Path, backend: str) -> None:
    made = detector(root, backend, phrases_per_pass=1)
    made.load()
    image = noise(90, 160, 5)
    pair = made.ground([image], [phrase("a man"), phrase("the blue car")])[0]
    single = made.ground([image], [phrase("a man")])[0]
    assert [hit for hit in pair if hit.phrase == 0] == single
    assert single


def test_more_phrases_than_fit_are_all_asked(root: Path) -> None:
    made = detector(root, "grounding_dino", box_threshold=0.0, text_threshold=0.0)
    made.load()
    assert made.text_limit == 64  # type: ignore[attr-defined]  # the tiny model's own
    many = [phrase(f"a man in a red shirt and a hat {n}") for n in range(12)]
    (hits,) = made.ground([noise(90, 160)], many)
    packed = prompts([p.text for p in many], made.tokens, 64)  # type: ignore[attr-defined]  # as above
    assert len(packed) > 2
    asked = [{index for index, _, _ in prompt.spans} for prompt in packed]
    assert all({hit.phrase for hit in hits} & some for some in asked), "a hit from every text"


@pytest.mark.parametrize("size", [(90, 160), (160, 90), (333, 77), (1, 200), (1080, 1920)])
def test_boxes_of_the_net_come_back_as_pixels_of_the_image(size: tuple[int, int]) -> None:
    height, width = size
    shown = widen(np.zeros((height, width, 3), np.uint8)).shape[:2]
    assert max(shown) / min(shown) <= THINNEST
    x0, y0, x1, y1 = 0.25 * width, 0.5 * height, 0.75 * width, 1.0 * height
    box = np.array(
        [
            (x0 + x1) / 2 / shown[1],
            (y0 + y1) / 2 / shown[0],
            (x1 - x0) / shown[1],
            (y1 - y0) / shown[0],
        ],
        np.float32,
    )
    assert to_pixels(box, shown, size) == pytest.approx((x0, y0, x1, y1), abs=0.02)


class Planted(torch.nn.Module):
    """Stands in for the net's last step: boxes where the input is bright."""

    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self.net, self.config = net, net.config

    def forward(self, **told: torch.Tensor) -> object:
        out = self.net(**told)
        pixels, mask = told["pixel_values"].mean(1), told["pixel_mask"].bool()
        logits = torch.full_like(out.logits, -9.0)
        logits[:, 0, 2] = 9.0
        for n, (image, valid) in enumerate(zip(pixels, mask, strict=True)):
            rows, columns = torch.nonzero((image > 1.0) & valid, as_tuple=True)
            height, width = int(valid[:, 0].sum()), int(valid[0].sum())
            x0, x1 = columns.min() / width, (columns.max() + 1) / width
            y0, y1 = rows.min() / height, (rows.max() + 1) / height
            out.pred_boxes[n, 0] = torch.stack([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0])
        out.logits = logits
        return out


SIZES = [(90, 160), (160, 90), (97, 131), (400, 300), (64, 640), (40, 500), (500, 25)]


def test_a_box_stays_on_its_thing_through_resizing_batching_and_padding(root: Path) -> None:
    made = detector(root, "grounding_dino", batch=3)
    made.load()
    made._net = Planted(made._net)  # type: ignore[attr-defined]  # its answer is planted
    images, truths = [], []
    for height, width in [*SIZES, *SIZES]:
        image = np.full((height, width, 3), 10, np.uint8)
        x0, y0, x1, y1 = width // 4, height // 5, width // 2, height // 5 * 4
        image[y0:y1, x0:x1] = 255
        images.append(image)
        truths.append((x0, y0, x1, y1))
    for image, hits, truth in zip(
        images, made.ground(images, [phrase("a cat")]), truths, strict=True
    ):
        pixel = max(image.shape) / 96  # of the net's input, in pixels of the image
        assert len(hits) == 1
        assert hits[0].box == pytest.approx(truth, abs=1.5 + pixel)


def test_other_weights_ground_elsewhere(root: Path) -> None:
    here, there = (
        detector(root, "grounding_dino", weights=str(written(root, "grounding_dino", seed)))
        for seed in (0, 1)
    )
    here.load(), there.load()
    asked = [phrase("a cat")]
    assert here.ground([noise(90, 160)], asked) != there.ground([noise(90, 160)], asked)
