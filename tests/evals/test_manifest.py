"""A manifest that is misread scores the wrong video against the wrong words."""

import json
from pathlib import Path
from typing import Any

import pytest

from s2v.evals.errors import EvalError
from s2v.evals.manifest import Reference, Sample, load_manifest, write_manifest

LINE: dict[str, Any] = {
    "sample_id": "a-1",
    "video": "v/a.mp4",
    "prompt": "a dog \u2028 runs",
    "refs": [
        {"path": "r.png", "mask": "m.png", "phrase": "a dog", "class": "creature", "is_face": False}
    ],
    "seed": 3,
    "scenario": "one",
    "split": "test",
    "model": "toy",
    "source": "generated",
    "reference_id": "dog",
}


def write(tmp_path: Path, *lines: object) -> Path:
    path = tmp_path / "m.jsonl"
    text = "".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines)
    path.write_text(text, encoding="utf-8")
    return path


def changed(**changes: Any) -> dict[str, Any]:
    return {**LINE, **changes}


def test_a_line_is_read_as_written_and_paths_start_at_the_manifest(tmp_path: Path) -> None:
    manifest = load_manifest(write(tmp_path, LINE, "", changed(sample_id="A", seed=None)))
    assert [s.sample_id for s in manifest.samples] == ["A", "a-1"]
    sample = manifest.samples[1]
    assert sample.prompt == "a dog \u2028 runs"
    assert sample.refs[0].subject_class == "creature"
    assert manifest.resolve(sample.video) == tmp_path / "v" / "a.mp4"


def test_writing_and_reading_gives_the_same_samples(tmp_path: Path) -> None:
    sample = Sample(
        sample_id="x",
        video="x.mp4",
        prompt="Füße",
        refs=(Reference(path="r.png", phrase="feet", subject_class="person", is_face=True),),
        source="real",
        reference_id="r",
    )
    path = tmp_path / "sub" / "m.jsonl"
    write_manifest(path, [sample])
    assert load_manifest(path).samples == (sample,)
    assert sample.made_by == "real"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (changed(promt="x"), r"line 1: promt: unknown key; did you mean 'prompt'\?"),
        (changed(refs=[{**LINE["refs"][0], "clas": 1}]), r"refs\.0\.clas.*did you mean 'class'"),
        (changed(refs=[{"path": "r", "phrase": "x", "class": "dog"}]), r"refs\.0\.class.*'dog'"),
        (changed(prompt="  "), "prompt is empty"),
        (changed(source="fake"), r"source: .*'fake'"),
        (changed(seed="3"), r"seed: .*'3'"),
        (changed(sample_id="a/../b"), "sample_id"),
        ({k: v for k, v in LINE.items() if k != "prompt"}, "prompt: Field required"),
        ("{not json", "line 1: "),
        ("[]", "line 1: "),
    ],
)
def test_a_wrong_line_is_named_with_its_field(tmp_path: Path, line: Any, message: str) -> None:
    with pytest.raises(EvalError, match=message) as caught:
        load_manifest(write(tmp_path, line))
    assert "\n" not in str(caught.value)


def test_the_same_id_twice_names_both_lines(tmp_path: Path) -> None:
    with pytest.raises(EvalError, match="line 3: sample_id 'a-1' is already on line 1"):
        load_manifest(write(tmp_path, LINE, changed(sample_id="b"), LINE))


def test_an_empty_missing_or_binary_manifest_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(EvalError, match="no samples"):
        load_manifest(write(tmp_path, ""))
    with pytest.raises(EvalError, match=r"absent\.jsonl: cannot read.*No such file"):
        load_manifest(tmp_path / "absent.jsonl")
    with pytest.raises(EvalError, match="directory"):
        load_manifest(tmp_path)
    (tmp_path / "b.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(EvalError, match="UTF-8"):
        load_manifest(tmp_path / "b.jsonl")
