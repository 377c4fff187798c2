"""The whole production profile through ``jobs/curate.py``, with tiny models of random weights.

Every adapter is the one that users run: Grounding DINO, Segment Anything, insightface, open_clip
with LAION's head, and a vision-language model behind a real vLLM. Only the weights say nothing,
so what is asserted is what must hold whatever models say: no row is lost, boxes, masks and
vectors are of one shape throughout, and the shards can be read.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import tiny_faces
import tiny_models
from finished_run import Run, job

from s2v.datapipe.base.assets import asset, fetch
from s2v.datapipe.write.verify import verify_shards

if TYPE_CHECKING:
    from tiny_server import TinyServer

pytestmark = [pytest.mark.ray, pytest.mark.assets, pytest.mark.vllm]
SOURCES = ("man-clip", "bikes", "man-photo")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """All weights on disk, as a user's would be."""
    folder = tmp_path_factory.mktemp("weights")
    clip, state = tiny_faces.open_clip_files(folder / "clip")
    return {
        "grounding_dino": tiny_models.write_grounding_dino(folder / "gdino", one_large=True),
        "sam": tiny_models.write_sam(folder / "sam" / "sam.pth"),
        "insightface": tiny_faces.insightface_folder(folder / "faces"),
        "clip": clip,
        "clip_state": state,
        "head": tiny_faces.aesthetic_head(folder / "head.pth"),
    }


def configuration(base: Path, weights: dict[str, Path], server: TinyServer) -> Path:
    fetch("demo")
    sources = "".join(f'[[sources]]\npath = "{asset(name)}"\n' for name in SOURCES)
    vlm = f'urls = ["{server.base_url}"]\nmodel = "{server.model}"\n'
    vlm += "max_tokens = 4000\nattempts = 2\n"
    clip = f'model = "{weights["clip"]}"\nweights = "{weights["clip_state"]}"\n'
    architecture = json.dumps(tiny_models.SAM_ARCHITECTURE).replace(":", " =")
    text = f"""
folder = "{base}/run"
{sources}
[engine]
unit_clips = 4
cpus = 2
quarantine_budget = 1.0

[roles]
profile = "production"
[roles.captioner]
{vlm}
[roles.phrases]
{vlm}
[roles.checker]
{vlm}
[roles.detector]
weights = "{weights["grounding_dino"]}"
[roles.segmenter]
weights = "{weights["sam"]}"
architecture = {architecture}
[roles.faces]
weights = "{weights["insightface"]}"
[roles.embedder]
{clip}
[roles.aesthetics]
head = "{weights["head"]}"
[roles.aesthetics.clip]
{clip}
[select.detection]
min_area_share = 0.0
max_area_share = 1.0
min_side = 8
min_score = 0.0
require_complete = false
require_specific = false
require_matches = false
[select.mask]
min_area_share = 0.0
min_box_fill = 0.0
max_box_fill = 1.01
"""
    config = base / "production.toml"
    config.write_text(text, encoding="utf-8")
    return config


@pytest.fixture(scope="module")
def produced(
    weights: dict[str, Path], vllm_server: TinyServer, tmp_path_factory: pytest.TempPathFactory
) -> Run:
    """A run with every production backend."""
    base = tmp_path_factory.mktemp("production")
    done = job("curate", "--config", str(configuration(base, weights, vllm_server)), "--quiet")
    assert done.returncode == 0, done.stderr[-3000:]
    return Run(base / "run")


@pytest.fixture(scope="module")
def grounded(produced: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same with captions that name subjects: a random model's do not, so nothing is boxed.

    What was measured before captions is taken over, as another configuration of a run does.
    """
    base = tmp_path_factory.mktemp("grounded")
    shutil.copytree(produced.folder, base / "run")
    config = produced.folder.with_name("production.toml")
    named = ['roles.captioner={backend="facts"}', 'roles.phrases={backend="chunks"}']
    overrides = [word for value in (f"folder={base}/run", *named) for word in ("--set", value)]
    done = job("curate", "--config", str(config), "--quiet", *overrides)
    assert done.returncode == 0, done.stderr[-3000:]
    return Run(base / "run")


def test_every_clip_is_captioned_or_in_quarantine_with_its_reason(produced: Run) -> None:
    clips = {row["clip_id"] for row in produced.rows("clips")}
    captioned = {row["clip_id"] for row in produced.rows("captions")}
    quarantined = {row["id"] for row in produced.rows("quarantine")}
    gated = {row["clip_id"] for row in produced.rows("quality") if row["gate"]}
    assert clips
    assert clips == captioned | gated | (clips & quarantined)
    assert not captioned & {r["id"] for r in produced.rows("quarantine") if r["stage"] == "caption"}
    for row in produced.rows("quarantine"):
        assert row["error"]
        assert row["message"]


def test_every_caption_names_the_model_and_the_prompt_it_came_from(produced: Run) -> None:
    rows = produced.rows("captions")
    models = json.loads((produced.folder / "run.json").read_text())["models"]
    assert {row["captioner"] for row in rows} <= {models["captioner"]}
    assert all(row["prompt_sha256"] and row["caption"] for row in rows)


def test_boxes_masks_and_vectors_stay_together_from_detection_to_embedding(grounded: Run) -> None:
    frames = {row["frame_id"]: row for row in grounded.rows("frames")}
    boxes = {row["detection_id"]: row for row in grounded.rows("detections")}
    masks = {row["detection_id"]: row for row in grounded.rows("masks")}
    vectors = grounded.rows("embeddings")
    assert boxes
    assert masks
    assert vectors
    for row in boxes.values():
        frame = frames[row["frame_id"]]
        x0, y0, x1, y1 = row["box"]
        assert 0 <= x0 <= x1 <= frame["width"]
        assert 0 <= y0 <= y1 <= frame["height"]
    for row in masks.values():
        frame = frames[boxes[row["detection_id"]]["frame_id"]]
        assert (row["rle_height"], row["rle_width"]) == (frame["height"], frame["width"])
    usable = {i for i, row in masks.items() if row["reason"] is None}
    assert {row["detection_id"] for row in vectors} == usable
    assert {len(row["subject"]) for row in vectors} == {tiny_faces.CLIP_DIM}


def test_every_usable_box_was_checked_by_the_second_model_or_says_why_not(grounded: Run) -> None:
    checked = {row["detection_id"] for row in grounded.rows("checks")}
    quarantined = {row["id"] for row in grounded.rows("quarantine") if row["stage"] == "check"}
    masked = grounded.rows("masks")
    assert checked or quarantined
    for row in masked:
        assert row["detection_id"] in checked or row["clip_id"] in quarantined


def test_aesthetics_and_shots_are_measured_where_the_profile_has_models_for_them(
    grounded: Run,
) -> None:
    assert all(row["aesthetic"] is not None for row in grounded.rows("quality"))
    models = json.loads((grounded.folder / "run.json").read_text())["models"]
    assert models["shots"]
    assert models["aesthetics"]


@pytest.mark.parametrize("which", ["produced", "grounded"])
def test_shards_of_the_production_profile_can_be_read(
    which: str, request: pytest.FixtureRequest
) -> None:
    run: Run = request.getfixturevalue(which)
    samples = run.rows("samples")
    if which == "grounded":
        assert samples, "random masks and boxes, but whole triplets"
    if samples:
        assert verify_shards(run.folder / "shards")["samples"] == len(samples)
