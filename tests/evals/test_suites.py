"""A test set that the model has seen measures memory; one that is drawn anew each time, nothing."""

import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from s2v.evals.cli import main
from s2v.evals.encoders import Face
from s2v.evals.errors import EvalError
from s2v.evals.manifest import load_manifest
from s2v.evals.suites.builder import SHAPES, Shape, build_suite
from s2v.evals.suites.leakage import FaceGuard, TrainingImage, prompt_leaks
from s2v.evals.suites.opens2v import load_opens2v


class HueDetector:
    """A face wherever there is a saturated colour."""

    id = "hue"

    def detect(self, image: Any) -> list[Face]:
        where = np.argwhere(np.ptp(image.astype(int), axis=2) > 60)
        if not where.size:
            return []
        (y0, x0), (y1, x1) = where.min(0), where.max(0) + 1
        box = np.array([x0, y0, x1, y1], np.float32)
        return [Face(box, np.zeros((5, 2), np.float32), 1.0)]


class HueEmbedder:
    """Mean colour less grey: other hues point elsewhere."""

    id = "mean colour"

    def embed(self, image: Any, face: Face) -> Any:
        x0, y0, x1, y1 = face.box.astype(int)
        colour = image[y0:y1, x0:x1].reshape(-1, 3).mean(0)
        return (colour - colour.mean()).astype(np.float32)


GUARD = FaceGuard(HueDetector(), HueEmbedder())
RED, GREEN, BLUE, GREY = (220, 30, 30), (30, 220, 30), (30, 30, 220), (128, 128, 128)


def picture(colour: tuple[int, int, int]) -> Any:
    image = np.full((40, 30, 3), 128, np.uint8)
    image[10:30, 8:22] = colour
    return image


def pool(root: Path, entries: list[dict[str, Any]]) -> Path:
    lines = []
    for entry in entries:
        colours = entry.pop("colours", [GREY])
        refs = []
        for n, colour in enumerate(colours):
            name = f"{entry['reference_id']}-{n}.png"
            PIL.Image.fromarray(picture(colour)).save(root / name)
            refs.append({"path": name, "phrase": "x", "class": "person", "is_face": colour != GREY})
        base = {"category": "human", "prompts": ["one", "two", "three"], "refs": refs}
        lines.append(json.dumps(base | entry) + "\n")
    path = root / "pool.jsonl"
    path.write_text("".join(lines))
    return path


def entries(n: int, **more: Any) -> list[dict[str, Any]]:
    kinds = ("human", "animal", "product", "environment", "clothing")
    return [{"reference_id": f"e{i:03d}", "category": kinds[i % 5], **more} for i in range(n)]


def test_the_papers_single_suite_is_450_videos_over_all_categories(tmp_path: Path) -> None:
    suite = build_suite(pool(tmp_path, entries(70)), tmp_path / "s", "single")
    assert len(suite.samples) == SHAPES["single"].videos == 450
    assert set(suite.categories.values()) == {10}
    manifest = load_manifest(tmp_path / "s" / "manifest.jsonl")
    assert len({s.reference_id for s in manifest.samples}) == 50
    assert set(Counter((s.reference_id, s.prompt) for s in manifest.samples).values()) == {3}
    assert {s.seed for s in manifest.samples} == {0, 1, 2}
    assert all(manifest.resolve(s.refs[0].path).is_file() for s in manifest.samples)
    assert manifest.samples[0].video == f"videos/{manifest.samples[0].sample_id}.mp4"


def test_the_same_seed_draws_the_same_bytes_and_another_draws_others(tmp_path: Path) -> None:
    source = pool(tmp_path, entries(30))
    shape = Shape(10, 1, 1)
    drawn = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        build_suite(source, tmp_path / name, "single", shape=shape, seed=seed)
        drawn.append([(tmp_path / name / f).read_bytes() for f in ("manifest.jsonl", "suite.json")])
    assert drawn[0] == drawn[1]
    assert drawn[0][0] != drawn[2][0]


def test_groups_have_several_references_and_portraits_one_face(tmp_path: Path) -> None:
    mixed = [
        *entries(3),
        {"reference_id": "group", "colours": [RED, GREY]},
        {"reference_id": "portrait", "colours": [GREEN]},
    ]
    source, small = pool(tmp_path, mixed), Shape(1, 1, 1)
    (group,) = build_suite(source, tmp_path / "m", "multi", shape=small).samples
    assert (group.reference_id, len(group.refs)) == ("group", 2)
    suite = build_suite(source, tmp_path / "i", "id", shape=small, guard=GUARD)
    assert [s.reference_id for s in suite.samples] == ["portrait"]


def test_too_small_a_pool_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(EvalError, match=r"4 of 5 entries .* 50 are wanted \(1 several references"):
        build_suite(
            pool(tmp_path, [*entries(4), {"reference_id": "g", "colours": [RED, RED]}]),
            tmp_path / "s",
            "single",
        )


def test_a_training_face_is_found_whatever_its_brightness_and_a_stranger_is_not() -> None:
    test = {name: [GUARD.face(picture(c))] for name, c in (("r", RED), ("g", GREEN))}
    training = [
        TrainingImage("t1", picture(BLUE)),
        TrainingImage("t2", picture((200, 40, 20))),
        TrainingImage("t3", picture(RED)),
        TrainingImage("t4", picture(GREY)),
    ]
    (leak,) = GUARD.leaks(test, training)  # type: ignore[arg-type]
    assert (leak.reference_id, leak.training_id, leak.reason) == ("r", "t3", "face")
    assert leak.similarity == pytest.approx(1.0)
    assert GUARD.leaks(test, training[:1]) == []  # type: ignore[arg-type]


def test_a_training_face_at_the_border_is_found_by_padding_too() -> None:
    class Shy(HueDetector):
        def detect(self, image: Any) -> list[Face]:
            return [f for f in super().detect(image) if f.box[0] > 0]

    guard = FaceGuard(Shy(), HueEmbedder())
    tight = np.full((20, 20, 3), RED, np.uint8)
    leaks = guard.leaks({"r": [guard.face(picture(RED))]}, [TrainingImage("t", tight)])  # type: ignore[list-item]
    assert [leak.training_id for leak in leaks] == ["t"]


def test_a_prompt_that_is_a_training_caption_is_found_whatever_its_case() -> None:
    leaks = prompt_leaks({"a": ["A  dog runs."], "b": ["a cat"]}, [("t", "a dog Runs.")])
    assert [(leak.reference_id, leak.reason) for leak in leaks] == [("a", "prompt")]


def test_what_the_shards_know_stays_out_of_the_suite(tmp_path: Path, shard_folder: Any) -> None:
    mixed = [
        {"reference_id": "seen", "colours": [RED]},
        {"reference_id": "quoted", "colours": [GREEN], "prompts": ["The CAPTION of s1"]},
        {"reference_id": "clean", "colours": [BLUE]},
    ]
    source = pool(tmp_path, mixed)
    encoded = io.BytesIO()
    PIL.Image.fromarray(picture((180, 20, 20))).save(encoded, "JPEG", quality=95)
    shards = shard_folder(tmp_path / "shards", {"s1": ("the caption of s1", encoded.getvalue())})
    suite = build_suite(
        source, tmp_path / "s", "id", shape=Shape(1, 1, 1), training=[shards], guard=GUARD
    )
    assert [s.reference_id for s in suite.samples] == ["clean"]
    assert suite.dropped == {"quoted": "prompt in training", "seen": "face in training"}
    record = json.loads((tmp_path / "s" / "suite.json").read_text())
    assert record["guard"]["max_similarity"] == 0.45
    assert [leak["training_id"] for leak in record["guard"]["leaks"]] == ["s1", "s1"]


def test_real_people_are_recognised_across_photographs(
    tmp_path: Path, shard_folder: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    from s2v.datapipe.base.assets import AssetError, asset

    try:
        train, test, other = (asset(n) for n in ("obama-1", "obama-2", "biden"))
        for name in ("yunet", "sface"):
            asset(name)
    except AssetError as error:
        pytest.skip(f"{error}")
    lines = [
        {"reference_id": name, "category": "human", "prompts": ["he speaks"],
         "refs": [{"path": str(found), "phrase": "he", "class": "person",
                   "is_face": True}]}
        for name, found in (("obama", test), ("biden", other))
    ]  # fmt: skip
    source = tmp_path / "pool.jsonl"
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    encoded = io.BytesIO()
    PIL.Image.open(train).convert("RGB").save(encoded, "JPEG")
    shards = shard_folder(tmp_path / "shards", {"s1": ("somebody speaks", encoded.getvalue())})
    arguments = ["suite", "build", str(source), "--kind", "id", "--out", str(tmp_path / "s")]
    counts = ["--references", "1", "--prompts", "1", "--no-progress"]
    assert main([*arguments, *counts, "--training", str(shards)]) == 0
    assert "not taken: 1 (face in training)" in capsys.readouterr().out
    (sample,) = load_manifest(tmp_path / "s" / "manifest.jsonl").samples
    assert sample.reference_id == "biden"


OPENS2V = {
    "singleobj_10": {"img_paths": ["Images/singleobject/cup/52.jpg"], "prompt": "a cup",
                     "synthesis_flag": "wrong", "class_label": ["Cup"]},
    "singleobj_2": {"img_paths": ["Images/singleobject/cat/1.jpg"], "prompt": "a cat",
                    "class_label": ["Cat"]},
    "singleface_1": {"img_paths": ["Images/singleface/crop_man/11.jpg"], "prompt": "a man",
                     "class_label": ["man"]},
    "humanobj_1": {"img_paths": ["Images/humanobj/man/1.jpg", "Images/humanobj/woman/2.jpg",
                                 "Images/humanobj/hat/3.jpg"], "prompt": "people",
                   "class_label": ["man", "woman", "hat"]},
    "multiface_1": {"img_paths": ["Images/multiface/man/1.jpg", "Images/multiface/woman/2.jpg"],
                    "prompt": "two", "class_label": ["man", "woman"]},
}  # fmt: skip


def test_opens2v_keeps_its_prompts_ids_and_rule_for_faces(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "eval.json"
    source.write_text(json.dumps(OPENS2V))
    out = tmp_path / "m" / "manifest.jsonl"
    arguments = ["--images", str(tmp_path), "--videos", str(tmp_path / "v"), "--model", "mine"]
    assert main(["suite", "opens2v", str(source), *arguments, "--out", str(out)]) == 0
    assert (
        "5 samples: 1 humanobj, 1 multiface, 1 singleface, 2 singleobj" in capsys.readouterr().out
    )
    manifest = load_manifest(out)
    by_id = {s.sample_id: s for s in manifest.samples}
    faces = {k: [r.is_face for r in s.refs] for k, s in by_id.items()}
    assert faces == {
        "singleobj_10": [False], "singleobj_2": [False], "singleface_1": [True],
        "humanobj_1": [True, False, False], "multiface_1": [True, True],
    }  # fmt: skip
    assert [r.subject_class for r in by_id["singleobj_2"].refs] == ["creature"]
    cup = by_id["singleobj_10"]
    assert (cup.prompt, cup.seed, cup.scenario) == ("a cup", 42, "singleobj")
    assert manifest.resolve(cup.video) == tmp_path / "v" / "singleobj_10.mp4"
    assert manifest.resolve(cup.refs[0].path) == tmp_path / "Images/singleobject/cup/52.jpg"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "no sample"),
        ({"a/b": {"img_paths": ["x.jpg"], "prompt": "p"}}, "no file name"),
        ({"a_1": {"img_paths": ["../x.jpg"], "prompt": "p"}}, "leads out"),
        ({"a_1": {"prompt": "p"}}, "img_paths"),
        ([], "format"),
    ],
)
def test_a_file_that_is_not_opens2vs_is_refused(
    tmp_path: Path, content: object, message: str
) -> None:
    source = tmp_path / "eval.json"
    source.write_text(json.dumps(content))
    with pytest.raises(EvalError, match=message):
        load_opens2v(source, tmp_path / "m", images=tmp_path, videos=tmp_path, model="m")
