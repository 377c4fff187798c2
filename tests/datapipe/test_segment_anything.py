"""Segment Anything: masks lie where the picture has them, and bad checkpoints are one line."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detect_models import make, noise, segmenter, written
from tiny_models import SAM_ARCHITECTURE
from torch.nn import functional

from s2v.datapipe.backends.segment_anything import PUBLISHED, Architecture, agreement, build, choose
from s2v.datapipe.base.media import masks
from s2v.datapipe.base.settings import SettingsError
from s2v.datapipe.roles import Image, WeightsError

SIZES = [(90, 160), (160, 90), (97, 131), (128, 128), (60, 300), (301, 33), (20, 400), (700, 500)]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.getbasetemp()


class Brightness(torch.nn.Module):
    """Stands in for the image encoder: how bright each cell of the input is."""

    def __init__(self, encoder: torch.nn.Module) -> None:
        super().__init__()
        self.img_size = encoder.img_size
        self.calls = 0

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return functional.avg_pool2d(pixels.mean(1, keepdim=True), 4)


class Show(torch.nn.Module):
    """Stands in for the mask decoder: the mask is where the picture is bright."""

    def forward(self, image_embeddings: torch.Tensor, **asked: Any) -> tuple[torch.Tensor, ...]:
        n = len(asked["sparse_prompt_embeddings"])
        masks = image_embeddings.expand(n, 1, -1, -1)
        return masks, torch.full((n, 1), 0.5)


class Paint(torch.nn.Module):
    """Stands in for the mask decoder: the mask is the box that the prompt encoder was given."""

    def __init__(self, prompts: torch.nn.Module, side: int) -> None:
        super().__init__()
        self.side, self.boxes = side, torch.empty(0)
        prompts.register_forward_pre_hook(self._note, with_kwargs=True)

    def _note(self, _: Any, __: Any, told: dict[str, Any]) -> None:
        self.boxes = told["boxes"]

    def forward(self, **asked: Any) -> tuple[torch.Tensor, ...]:
        cells = self.side // 4
        centres = (torch.arange(cells) + 0.5) * 4
        out = []
        for x0, y0, x1, y1 in self.boxes:
            inside_x = (centres > x0) & (centres < x1)
            inside_y = (centres > y0) & (centres < y1)
            out.append((inside_y[:, None] & inside_x[None, :]).float() - 0.5)
        return torch.stack(out)[:, None], torch.full((len(out), 1), 0.5)


def bright_square(height: int, width: int) -> tuple[Image, np.ndarray]:
    image = np.full((height, width, 3), 20, np.uint8)
    truth = np.zeros((height, width), np.bool_)
    truth[height // 4 : height // 4 * 3, width // 5 : width // 5 * 4] = True
    image[truth] = 250
    return image, truth


@pytest.mark.parametrize("size", SIZES)
def test_a_mask_lies_where_the_picture_has_the_thing(root: Path, size: tuple[int, int]) -> None:
    made = segmenter(root, "segment_anything")
    made.load()
    net = made._predictor.model  # type: ignore[attr-defined]  # its nets are exchanged
    net.image_encoder, net.mask_decoder = Brightness(net.image_encoder), Show()
    image, truth = bright_square(*size)
    (one,) = made.segment(image, [(0.0, 0.0, size[1], size[0])], ["thing"])
    # A cell of the mask is four pixels of the input, and the input is 128 pixels long.
    cell = 4 * max(size) / 128
    assert masks.iou(one.mask, truth) > 1 - 2.5 * cell / min(size) * 2
    assert centre(one.mask) == pytest.approx(centre(truth), abs=0.5 * cell)


@pytest.mark.parametrize("size", SIZES)
def test_a_box_reaches_the_decoder_where_it_was_meant(root: Path, size: tuple[int, int]) -> None:
    made = segmenter(root, "segment_anything")
    made.load()
    net = made._predictor.model  # type: ignore[attr-defined]  # its decoder is exchanged
    net.mask_decoder = Paint(net.prompt_encoder, 128)
    height, width = size
    boxes = [
        (0.0, 0.0, width * 0.5, height * 0.5),
        (width * 0.25, height * 0.5, width * 1.0, height * 1.0),
    ]
    cell = 4 * max(size) / 128
    for one, box in zip(made.segment(noise(*size), boxes, ["thing"] * 2), boxes, strict=True):
        around = masks.bounding_box(one.mask)
        if around is None:
            assert min(size) < 2 * cell, "only a box thinner than two cells may vanish"
        else:
            assert around == pytest.approx(box, abs=1.1 * cell)


def centre(mask: np.ndarray) -> tuple[float, float]:
    rows, columns = np.nonzero(mask)
    return float(rows.mean()), float(columns.mean())


def test_the_image_is_embedded_once_for_all_its_boxes(root: Path) -> None:
    made = segmenter(root, "segment_anything", box_batch=2)
    made.load()
    net = made._predictor.model  # type: ignore[attr-defined]  # its encoder is exchanged
    net.image_encoder = Brightness(net.image_encoder)
    net.mask_decoder = Show()
    made.segment(noise(90, 160), [(0.0, 0.0, 50.0 + n, 60.0) for n in range(5)], ["thing"] * 5)
    assert net.image_encoder.calls == 1


def test_many_boxes_in_small_batches_give_the_same_masks(root: Path) -> None:
    boxes = [(5.0 * n, 3.0 * n, 60.0 + 10 * n, 50.0 + 4 * n) for n in range(5)]
    answers = []
    for batch in (1, 16):
        made = segmenter(root, "segment_anything", box_batch=batch)
        made.load()
        answers.append(made.segment(noise(90, 160), boxes, ["thing"] * 5))
    for a, b in zip(*answers, strict=True):
        assert np.mean(a.mask != b.mask) < 0.002
        assert a.score == pytest.approx(b.score, abs=0.001)


def test_a_box_outside_the_frame_gets_an_empty_mask_without_a_score(root: Path) -> None:
    made = segmenter(root, "segment_anything")
    made.load()
    outside, inside = made.segment(
        noise(90, 160), [(200.0, 10.0, 300.0, 50.0), (0.0, 0.0, 50.0, 50.0)], ["thing"] * 2
    )
    assert not outside.mask.any()
    assert outside.score is None
    assert inside.score is not None


def test_of_three_masks_the_one_that_fits_the_box_and_is_sure_is_taken() -> None:
    whole, part, beyond = (np.zeros((40, 40), np.bool_) for _ in range(3))
    whole[10:30, 10:30], part[10:15, 10:15], beyond[:, :] = True, True, True
    box = (10.0, 10.0, 30.0, 30.0)
    three = np.stack([part, whole, beyond])
    assert agreement(whole, box) == 1.0
    assert choose(three, np.array([0.95, 0.9, 0.9], np.float32), box) == 1
    assert choose(three, np.array([0.9, 0.02, 0.9], np.float32), box) == 2, "neither alone decides"
    assert choose(three, np.array([-0.1, -0.1, -0.1], np.float32), box) == 0


def test_asked_for_three_masks_the_product_of_both_decides(root: Path) -> None:
    one, three = (segmenter(root, "segment_anything", multimask=m) for m in (False, True))
    one.load(), three.load()
    image, box = noise(90, 160), (20.0, 10.0, 120.0, 80.0)
    (plain,), (picked,) = (m.segment(image, [box], ["thing"]) for m in (one, three))
    with torch.no_grad():
        predictor = three._predictor  # type: ignore[attr-defined]  # asked beside the adapter
        predictor.set_image(image)
        found, scores, _ = predictor.predict(box=np.array(box), multimask_output=True)
    worth = [max(s, 0) * agreement(m, box) for m, s in zip(found, scores, strict=True)]
    assert np.array_equal(picked.mask, found[int(np.argmax(worth))])
    assert not np.array_equal(picked.mask, plain.mask)


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_sizes_are_those_of_the_package(name: str) -> None:
    from segment_anything import sam_model_registry

    with torch.device("meta"):
        ours, theirs = build(PUBLISHED[name]).state_dict(), sam_model_registry[name]().state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}


def loading(path: Path, **options: Any) -> None:
    make("segmenter", "segment_anything", weights=str(path), **options).load()


def test_a_missing_checkpoint_is_named_before_a_run_starts(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"none\.pth: no such file; expected a Segment Anything"):
        make("segmenter", "segment_anything", weights=str(tmp_path / "none.pth"))


def test_a_download_that_broke_off_says_so(root: Path, tmp_path: Path) -> None:
    whole = written(root, "sam").read_bytes()
    for kept in (len(whole) // 2, len(whole) - 100, 10):
        path = tmp_path / f"{kept}.pth"
        path.write_bytes(whole[:kept])
        with pytest.raises(WeightsError, match=rf"{kept}\.pth: cut short or no checkpoint|plain"):
            loading(path, architecture=SAM_ARCHITECTURE)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    path, told = tmp_path / "evil.pth", tmp_path / "ran"
    torch.save({"image_encoder.pos_embed": Evil(told)}, path)
    assert zipfile.is_zipfile(path)
    with pytest.raises(WeightsError, match=r"evil\.pth: not a plain checkpoint of tensors"):
        loading(path, architecture=SAM_ARCHITECTURE)
    assert not told.exists()


class Evil:
    """Writes a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_weights_of_another_model_or_size_are_told_apart(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "sam2.pth"
    torch.save({"model": {"image_encoder.trunk.pos_embed": torch.zeros(1, 4, 4, 8)}}, path)
    with pytest.raises(WeightsError, match="SAM 2 is another model"):
        loading(path)
    with pytest.raises(WeightsError, match=r"64 channels.*vit_b.*name its sizes in architecture"):
        loading(written(root, "sam"))
    other = {**SAM_ARCHITECTURE, "depth": 3}
    with pytest.raises(WeightsError, match=r"\d+ weights missing, 0 unknown, 0 of another shape"):
        loading(written(root, "sam"), architecture=other)
    torch.save({"image_encoder.pos_embed": torch.zeros(1, 64, 64, 768)}, path)
    with pytest.raises(WeightsError, match="is a vit_b, but model_type says vit_h"):
        loading(path, model_type="vit_h")
    torch.save([1, 2], path)
    with pytest.raises(WeightsError, match="holds no tensors by name"):
        loading(path)


def test_weights_that_changed_since_the_run_began_are_refused(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "sam.pth"
    path.write_bytes(written(root, "sam").read_bytes())
    made = make("segmenter", "segment_anything", weights=str(path), architecture=SAM_ARCHITECTURE)
    path.write_bytes(written(root, "sam", 1).read_bytes())
    with pytest.raises(WeightsError, match="not the file that this run started with"):
        made.load()


def test_a_gpu_or_half_precision_that_is_not_there_is_a_matter_of_settings(root: Path) -> None:
    if not torch.cuda.is_available():
        with pytest.raises(SettingsError, match=r"roles\.segmenter\.device: 'cuda'.*gpus = 1"):
            segmenter(root, "segment_anything", device="cuda").load()
    with pytest.raises(SettingsError, match=r"dtype: float16 needs a GPU"):
        segmenter(root, "segment_anything", device="cpu", dtype="float16").load()
    with pytest.raises(SettingsError, match=r"device: 'tpu9' is no device"):
        segmenter(root, "segment_anything", device="tpu9").load()


def test_bfloat16_gives_nearly_the_same_masks(root: Path) -> None:
    full, half = (segmenter(root, "segment_anything", dtype=d) for d in ("float32", "bfloat16"))
    full.load(), half.load()
    (a,), (b,) = (
        m.segment(noise(90, 160), [(9.0, 9.0, 99.0, 80.0)], ["thing"]) for m in (full, half)
    )
    assert masks.iou(a.mask, b.mask) > 0.9
    assert full.model_id != half.model_id


def test_an_unknown_option_names_the_nearest_known_one(root: Path) -> None:
    with pytest.raises(SettingsError, match="did you mean 'multimask'"):
        segmenter(root, "segment_anything", multi_mask=True)
    assert Architecture.model_validate(SAM_ARCHITECTURE).image_size == 128
