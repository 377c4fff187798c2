"""Overlays: a logo over a still scene is found by the whole film, and scenery never is one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import cv2
import numpy as np
import pytest

from s2v.datapipe.backends import registry
from s2v.datapipe.config import Settings
from s2v.datapipe.measure import overlay_borders
from s2v.datapipe.measure.marks import Marks
from s2v.datapipe.measure.overlay_static import Stillness
from s2v.datapipe.measure.overlay_text import lines
from s2v.datapipe.pipeline import stages
from s2v.datapipe.roles import Image, TextRegion

HEIGHT, WIDTH = 144, 256


def scene(seed: int, height: int = HEIGHT, width: int = WIDTH) -> Image:
    """A picture of smooth shapes, another for every seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 16, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def stamped(image: Image) -> Image:
    """With a ring and a cross in the upper right corner, 24 x 12 pixels at 256."""
    out, k = image.copy(), image.shape[1] // WIDTH
    cv2.circle(out, (220 * k, 16 * k), 6 * k, (250, 250, 250), 2 * k)
    cv2.line(out, (230 * k, 10 * k), (238 * k, 22 * k), (20, 20, 20), 2 * k)
    cv2.line(out, (238 * k, 10 * k), (230 * k, 22 * k), (20, 20, 20), 2 * k)
    return out


def grey(image: Image) -> Image:
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)


def test_what_stays_over_many_shots_is_a_mark_and_nothing_else_is() -> None:
    with_logo, without = Marks(), Marks()
    for seed in range(12):
        for _ in range(3):  # a shot in which nothing moves
            with_logo.see(grey(stamped(scene(seed))))
            without.see(grey(scene(seed)))
    assert (with_logo.views, without.views) == (12, 12), "standing frames are no new views"
    assert without.boxes() == []
    boxes = with_logo.boxes()
    assert boxes
    pixels = np.array([[b[0] * WIDTH, b[1] * HEIGHT, b[2] * WIDTH, b[3] * HEIGHT] for b in boxes])
    assert pixels[:, 0].min() >= 208
    assert pixels[:, 2].max() <= 244
    assert pixels[:, 3].max() <= 28
    assert pixels[:, 0].min() <= 216
    assert pixels[:, 2].max() >= 234


def test_a_film_of_one_scene_says_nothing_of_marks() -> None:
    lit, pushed, black = Marks(), Marks(), Marks()
    large = scene(1, 2 * HEIGHT, 2 * WIDTH)
    for n in range(20):
        lit.see(grey((stamped(scene(1)) * (0.75 + 0.25 * (n % 2))).astype(np.uint8)))
        height, width = 2 * HEIGHT - 4 * n, 2 * WIDTH - 7 * n
        part = large[2 * n : 2 * n + height, 3 * n : 3 * n + width]
        pushed.see(grey(np.asarray(cv2.resize(part, (WIDTH, HEIGHT)), np.uint8)))
        black.see(np.zeros((HEIGHT, WIDTH), np.uint8))
    assert lit.boxes() is None, "light that goes on and off makes no other scene"
    assert pushed.boxes() is None, "nor does a camera that pushes in"
    assert (lit.views, black.views) == (1, 0)


def test_a_border_around_all_shots_is_no_mark() -> None:
    marks = Marks()
    for seed in range(12):
        boxed = scene(seed)
        boxed[:20] = boxed[-20:] = 0
        marks.see(grey(boxed))
    assert marks.boxes() == []


def test_a_logo_over_a_still_scene_is_found_by_the_films_word_only() -> None:
    still = stamped(scene(3, 360, 640 // WIDTH * WIDTH + WIDTH))
    frames = Stillness([still] * 3)
    assert frames.marks() == [], "it could be a lamp"
    hint = (212 * 3.0, 8 * 3.0, 240 * 3.0, 24 * 3.0)
    found = frames.marks_within([hint])
    assert len(found) == 1
    assert frames.marks_within([(10.0, 200.0, 90.0, 240.0)]) == [], "not where nothing is"


@dataclass
class Imagining:
    """Sees one box on a whole frame, and on cut-outs at the looks that are named."""

    looks: frozenset[int]
    sizes: list[tuple[int, int]] = field(default_factory=list)
    model_id: ClassVar[str] = "imagining"

    def load(self) -> None:
        """Nothing to load."""

    def regions(self, image: Image) -> list[TextRegion]:
        self.sizes.append(image.shape[1::-1])
        look = len(self.sizes)
        if look == 1:
            return [TextRegion((100.0, 200.0, 300.0, 240.0), 0.9)]
        height, width = image.shape[:2]
        whole = (width * 0.2, height * 0.2, width * 0.8, height * 0.8)
        return [TextRegion(whole, 0.9)] if look in self.looks else []


@pytest.mark.parametrize(("looks", "found"), [({2}, True), ({3}, True), ((), False)])
def test_text_that_is_none_at_any_other_size_is_dropped_and_no_other_is(
    looks: set[int], found: bool
) -> None:
    finder = Imagining(frozenset(looks))
    boxes = lines(scene(1, 720, 1280), finder)
    assert boxes == ([(200.0, 400.0, 600.0, 480.0)] if found else [])
    assert len(finder.sizes) == (2 if 2 in looks else 3), "no look more than is needed"
    assert len(set(finder.sizes)) == len(finder.sizes), "each at a size of its own"


@pytest.mark.parametrize(("rows", "columns"), [(0, 0), (5, 0), (0, 4), (6, 8)])
def test_thin_black_lines_are_cut_and_dark_scenes_are_not(rows: int, columns: int) -> None:
    frames = [np.maximum(scene(seed, 360, 640), 40) for seed in range(3)]
    for frame in frames:
        frame[360 - rows :] = 0
        frame[:, :columns] = 0
    found = overlay_borders.refine(frames, None, 144)
    if not rows and not columns:
        assert found is None
        return
    assert found is not None
    x0, y0, x1, y1 = found
    assert (x0 >= columns, y1 <= 360 - rows, y0, x1) == (True, True, 0, 640)
    assert x0 - columns <= 3
    assert 360 - rows - y1 <= 3

    night = [(frame * 0.08).astype(np.uint8) for frame in frames]
    assert overlay_borders.refine(night, None, 144) is None


def test_every_stage_that_looks_at_frames_sees_them_cut() -> None:
    made = stages(Settings(), registry.fill("embedded", {}))
    names = [stage.name for stage in made]
    for stage in made[names.index("overlay") + 1 :]:
        if "frames" in stage.reads:
            assert "overlays" in stage.reads, f"{stage.name} would count boxes on another frame"
