"""The whole production profile through ``jobs/curate.py``, with tiny models of random weights.

Every adapter is the one that users run: Grounding DINO, Segment Anything, insightface, open_clip
with LAION's head, and a vision-language model behind a real vLLM. Only the weights say nothing,
so what is asserted is what must hold whatever models say: no row is lost, boxes, masks and
vectors are of one shape throughout, and the shards can be read.

A random model's captions name no subject, and nothing would be boxed. The prompts of captions and
phrases are therefore files of the test, as users may have their own, whose schemas leave the model
a choice among sentences and among lists of their subjects; verdicts are asked for as in production.
Our own prompts meet the same server in tests/datapipe/test_vlm_real.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import tiny_faces
import tiny_models
from finished_run import Run, job
from tiny_prompts import choice_prompt

from s2v.datapipe.base.assets import asset, fetch
from s2v.datapipe.write.verify import verify_shards

if TYPE_CHECKING:
    from tiny_server import TinyServer

pytestmark = [pytest.mark.ray, pytest.mark.assets, pytest.mark.vllm]
SOURCES = ("man-clip", "bikes", "man-photo")
MAN, BICYCLE = "a man in a black shirt", "a red bicycle"
CAPTIONS = [
    f"Here {MAN} stands beside {BICYCLE} in the sun.",
    f"In the shade {BICYCLE} is looked at by {MAN}.",
]


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


def subject(phrase: str, noun: str, kind: str) -> dict[str, Any]:
    return {"phrase": phrase, "noun": noun, "class": kind, "singular": True}


def configuration(base: Path, weights: dict[str, Path], server: TinyServer) -> Path:
    fetch("demo")
    sources = "".join(f'[[sources]]\npath = "{asset(name)}"\n' for name in SOURCES)
    vlm = f'urls = ["{server.base_url}"]\nmodel = "{server.model}"\n'
    vlm += "max_tokens = 1000\nattempts = 2\n"
    man, bicycle = subject(MAN, "man", "human"), subject(BICYCLE, "bicycle", "product")
    captions = choice_prompt(base / "caption.toml", "What is this?", "caption", CAPTIONS)
    named = [[man, bicycle], [bicycle, man]]
    phrases = choice_prompt(base / "phrases.toml", "What is in {caption}?", "subjects", named)
    clip = f'model = "{weights["clip"]}"\nweights = "{weights["clip_state"]}"\n'
    architecture = json.dumps(tiny_models.SAM_ARCHITECTURE).replace(":", " =")
    text = f"""
folder = "{base}/run"
{sources}
[engine]
unit_clips = 4
cpus = 1
quarantine_budget = 1.0

[roles]
profile = "production"
[roles.captioner]
{vlm}prompt = "{captions}"
[roles.phrases]
{vlm}prompt = "{phrases}"
[roles.checker]
{vlm}
[roles.verifier]
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


def test_every_clip_is_captioned_or_in_quarantine_with_its_reason(produced: Run) -> None:
    clips = {row["clip_id"] for row in produced.rows("clips")}
    captioned = {row["clip_id"] for row in produced.rows("captions")}
    quarantined = {row["id"] for row in produced.rows("quarantine")}
    gated = {row["clip_id"] for row in produced.rows("quality") if row["gate"]}
    assert clips
    assert captioned
    assert clips == captioned | gated | (clips & quarantined)
    assert not captioned & {r["id"] for r in produced.rows("quarantine") if r["stage"] == "caption"}
    for row in produced.rows("quarantine"):
        assert row["error"]
        assert row["message"]


def test_every_caption_names_the_model_and_the_prompt_it_came_from(produced: Run) -> None:
    rows = produced.rows("captions")
    models = json.loads((produced.folder / "run.json").read_text())["models"]
    assert {row["captioner"] for row in rows} <= {models["captioner"]}
    assert all(row["prompt_sha256"] for row in rows)
    assert {row["caption"] for row in rows} <= set(CAPTIONS)


def test_boxes_masks_and_vectors_stay_together_from_detection_to_embedding(produced: Run) -> None:
    frames = {row["frame_id"]: row for row in produced.rows("frames")}
    boxes = {row["detection_id"]: row for row in produced.rows("detections")}
    masks = {row["detection_id"]: row for row in produced.rows("masks")}
    vectors = produced.rows("embeddings")
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


def test_every_usable_box_was_checked_by_the_second_model_or_says_why_not(produced: Run) -> None:
    checked = {row["detection_id"] for row in produced.rows("checks")}
    quarantined = {row["id"] for row in produced.rows("quarantine") if row["stage"] == "check"}
    masked = produced.rows("masks")
    assert checked or quarantined
    for row in masked:
        assert row["detection_id"] in checked or row["clip_id"] in quarantined


def test_aesthetics_and_shots_are_measured_where_the_profile_has_models_for_them(
    produced: Run,
) -> None:
    assert all(row["aesthetic"] is not None for row in produced.rows("quality"))
    models = json.loads((produced.folder / "run.json").read_text())["models"]
    assert models["shots"]
    assert models["aesthetics"]


def test_shards_of_the_production_profile_can_be_read(produced: Run) -> None:
    samples = produced.rows("samples")
    assert samples, "random masks and boxes, but whole triplets"
    assert verify_shards(produced.folder / "shards")["samples"] == len(samples)
