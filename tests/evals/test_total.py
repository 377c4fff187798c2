"""OpenS2V's total at the terminal: whence each part, which are missing, what failures cost."""

import json
from pathlib import Path
from typing import Any

import pytest

from s2v.evals.cli import main
from s2v.evals.opens2v import WEIGHTS
from s2v.evals.run import evaluate

OTHERS = [f"--part={name}=0.5" for name in WEIGHTS["v1.1", "open"] if name != "MotionAmplitude"]

# What OpenS2V-Nexus's eval/demo_result holds: two videos, one of which has no object to look for.
DEMO: dict[str, Any] = {
    "aesthetic_score": {
        "faceobj_14": {"aes_score": 4.811809062957764},
        "singleface_3": {"aes_score": 5.194509506225586},
    },
    "motion_amplitude": {
        "faceobj_14": {"motion_fb": 0.35025984048843384, "motion_lk": 7.20788094284188},
        "singleface_3": {"motion_fb": 0.038793787360191345, "motion_lk": 0.7310104500534188},
    },
    "motion_smoothness": {
        "faceobj_14": {"motion_smoothness": 0.8985507246376812},
        "singleface_3": {"motion_smoothness": 1.0},
    },
    "facesim": {"singleface_3": {"cur_score": 0.9420197624713182, "arc_score": 0.93670294620096}},
    "gmescore": {
        "faceobj_14": {"gme_score": 0.68115234375},
        "singleface_3": {"gme_score": 0.67236328125},
    },
    "nexusscore": {"faceobj_14": {"nexus_score": 0.01300811767578125}},
    "naturalscore_1": {"faceobj_14": "4", "singleface_3": "3"},
    "naturalscore_2": {"faceobj_14": "4", "singleface_3": "3"},
    "naturalscore_3": {"faceobj_14": "4", "singleface_3": "4"},
}


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    folder = tmp_path / "model_name_output_json"
    folder.mkdir()
    for name, content in DEMO.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def run(study: Any, tmp_path: Path) -> Path:
    """A finished run that has measured one part for real."""
    evaluate(study.manifest, tmp_path / "run", "motion-amplitude@opens2v", progress=False,
             replicates=50, report=False, cache=study.shared_cache)  # fmt: skip
    return tmp_path / "run"


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    assert main(["total", *map(str, arguments), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_the_authors_own_result_files_give_their_published_totals(
    scripts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newer = said(capsys, "--scripts", scripts)
    assert newer["totals"]["v1.1"]["published"] == pytest.approx(0.5960, abs=5e-5)
    assert newer["missing"] == {"v1.0": [], "v1.1": []}
    # faceobj_14 shows a face that the demo has no score of: no failure as published, one for us.
    assert newer["parts"]["FaceSim"]["without"] == 1
    lost = newer["totals"]["v1.1"]["published"] - newer["totals"]["v1.1"]["zeros"]
    assert lost == pytest.approx(0.2 * 0.9420197624713182 / 2)
    # singleface_3 has no object: it is not expected in NexusScore.
    assert newer["parts"]["NexusScore"]["videos"] == 1
    assert newer["parts"]["NexusScore"]["without"] == 0
    # v1.0's files: other names, and its own count of detections.
    (scripts / "motion_amplitude.json").rename(scripts / "motionscore.json")
    (scripts / "nexusscore.json").write_text('{"faceobj_14": {"nexus_score": 0.01300048828125}}')
    older = said(capsys, "--scripts", scripts, "--version", "v1.0")
    assert older["totals"] == {"v1.0": older["totals"]["v1.0"]}
    assert older["totals"]["v1.0"]["published"] == pytest.approx(0.5450864321738482, abs=1e-12)


def test_an_opinion_that_is_no_number_is_left_out_and_a_video_of_only_such_fails(
    scripts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (scripts / "naturalscore_3.json").write_text('{"faceobj_14": "error", "singleface_3": "error"}')
    found = said(capsys, "--scripts", scripts)["parts"]["NaturalScore"]
    assert found["published"] == pytest.approx((3.5 - 1) / 4)
    for n in (1, 2):
        (scripts / f"naturalscore_{n}.json").write_text('{"faceobj_14": "4"}')
    found = said(capsys, "--scripts", scripts)["parts"]["NaturalScore"]
    assert (found["published"], found["zeros"], found["without"]) == (0.75, 0.375, 1)


def test_a_run_is_totalled_with_the_parts_that_were_measured_elsewhere(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    amplitude = json.loads((run / "summary.json").read_text())["results"][0]["mean"]
    found = said(capsys, run, *OTHERS)
    assert found["model"] == "toy"
    assert found["parts"]["MotionAmplitude"]["from"] == "motion-amplitude@opens2v"
    assert found["parts"]["MotionAmplitude"]["videos"] == 4
    assert found["totals"]["v1.1"]["zeros"] == pytest.approx(0.98 * 0.5 + 0.02 * amplitude)
    assert found["totals"]["v1.0"]["published"] == pytest.approx(0.88 * 0.5 + 0.12 * amplitude)
    # What is given counts in place of what was measured, and the table says so.
    given = said(capsys, run, *OTHERS, "--part", "MotionAmplitude=33.42%")
    assert given["parts"]["MotionAmplitude"]["from"] == "given"
    assert given["totals"]["v1.1"]["zeros"] == pytest.approx(0.49 + 0.02 * 0.3342)


def test_a_published_leaderboard_row_is_had_again_from_its_percentages(
    capsys: pytest.CaptureFixture[str],
) -> None:
    row = {"Aesthetics": 46.39, "MotionSmoothness": 96.31, "MotionAmplitude": 33.42,
           "FaceSim": 51.46, "GmeScore": 70.65, "NexusScore": 37.43,
           "NaturalScore": 69.35}  # fmt: skip
    arguments = [f"--part={name}={value}%" for name, value in row.items()]
    found = said(capsys, *arguments, "--version", "v1.1")
    assert found["totals"]["v1.1"]["published"] == pytest.approx(0.5677, abs=2e-4)  # Phantom-14B
    human = said(capsys, *arguments, "--domain", "human", "--version", "v1.1")
    assert any("NexusScore is not needed" in note for note in human["notes"])


def test_values_per_video_in_a_file_are_normalised_under_both_conventions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "parts.json"
    rest = dict.fromkeys(("Aesthetics", "Motion", "FaceSim", "GmeScore"), 0.5)
    values = {"NexusScore": [0.05, 0.0, None, None], "NaturalScore": {"a": 3, "b": None}}
    file.write_text(json.dumps({**rest, **values}))
    found = said(capsys, "--parts", file)
    assert found["parts"]["NexusScore"] == {
        "published": 1.0, "zeros": 0.25, "videos": 4, "without": 2, "from": "parts.json",
    }  # fmt: skip
    assert found["parts"]["NaturalScore"]["zeros"] == 0.25
    assert found["missing"]["v1.1"] == ["MotionAmplitude", "MotionSmoothness"]
    assert found["totals"]["v1.1"] is None
    assert found["totals"]["v1.0"]["published"] == pytest.approx(0.56 * 0.5 + 0.2 + 0.24 * 0.5)


def test_missing_parts_are_named_and_the_status_says_that_there_is_no_total(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["total", str(run), "--version", "v1.1"]) == 1
    captured = capsys.readouterr()
    lacking = "Aesthetics, FaceSim, GmeScore, MotionSmoothness, NaturalScore, NexusScore"
    assert f"v1.1: no total, missing: {lacking}" in captured.out
    assert captured.err.startswith(f"s2v-eval: error: no total: {lacking} missing")
    assert captured.err.count("\n") == 1


def test_the_table_says_what_each_part_is_and_whose_weights(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("summary.json", "per_sample.parquet"):
        path = run / name
        if path.suffix == ".json":
            path.write_text(path.read_text().replace("motion-amplitude@opens2v", MARKED))
        else:
            remark(path)
    assert main(["total", str(run), *OTHERS]) == 0
    out = capsys.readouterr().out
    assert "OpenS2V's total of toy, open domain" in out
    assert "as published" in out
    assert f"not known to be the published weights ({MARKED})" in out
    assert "a single figure does not say how many videos failed" in out


MARKED = "motion-amplitude@opens2v~1f2e3d4c"


def remark(path: Path) -> None:
    """The same run as if it had been made with weights that nobody knows."""
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    at = table.schema.get_field_index("protocol")
    column = [MARKED] * table.num_rows
    pq.write_table(table.set_column(at, table.schema.field(at), [column]), path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to add up"),
        (["{root}/nowhere"], "s2v-eval run MANIFEST"),
        (["--model", "toy"], "name the run's folder"),
        (["{run}", "--model", "other"], "no generated videos of 'other'"),
        (["--part", "GmeScore"], "expected NAME=VALUE"),
        (["--part", "GmeScor=0.5"], "did you mean 'GmeScore'?"),
        (["--part", "GmeScore=many"], "'many' is not a number"),
        (["--part", "GmeScore=67.66"], "67.66% is a percentage"),
        (["--part", "GmeScore=nan"], "is not a normalised part"),
        (["--part", "GmeScore=0.5", "--part", "GmeScore=0.6"], "GmeScore is given twice"),
        (["--parts", "{root}/none.json"], "none.json: cannot be read: No such file"),
        (["--parts", "{root}/list.json"], "expected a JSON object, found list"),
        (["--parts", "{root}/text.json"], "not a JSON file"),
        (["--parts", "{root}/empty.json"], "no part in it"),
        (["--parts", "{root}/name.json"], "name.json: OpenS2V has no part 'Beauty'"),
        (["--parts", "{root}/word.json"], 'GmeScore: "high" is not a number'),
        (["--parts", "{root}/none-of.json"], "no value in it; leave the part out"),
        (["--scripts", "{root}/nowhere"], "no such folder"),
        (["--scripts", "{root}"], "holds none of aesthetic_score.json"),
        (["--scripts", "{root}/scripts"], 'singleobj_1: gme_score: "0.5" is not a number'),
    ],
)
def test_wrong_input_is_one_clear_line(
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    for name, text in {
        "list": "[1]", "text": "GmeScore: 0.5", "empty": "{}", "name": '{"Beauty": 0.5}',
        "word": '{"GmeScore": "high"}', "none-of": '{"GmeScore": []}',
    }.items():  # fmt: skip
        (tmp_path / f"{name}.json").write_text(text)
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts/gmescore.json").write_text('{"singleobj_1": {"gme_score": "0.5"}}')
    names = {"root": tmp_path, "run": run}
    assert main(["total", *(a.format(**names) for a in arguments)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("s2v-eval: error: ")
    assert message in line


def test_a_run_of_two_models_asks_which(
    study: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study.lines[3]["model"] = "other"
    evaluate(study.save(), tmp_path / "two", "motion-amplitude@opens2v", progress=False,
             replicates=50, report=False, limit=4, cache=study.shared_cache)  # fmt: skip
    assert main(["total", str(tmp_path / "two"), *OTHERS]) == 1
    assert "['other', 'toy']; choose one with --model" in capsys.readouterr().err
    one = said(capsys, tmp_path / "two", *OTHERS, "--model", "toy")
    assert one["parts"]["Motion"]["videos"] == 3


def test_help_shows_examples_and_every_part(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["total", "--help"])
    out = capsys.readouterr().out
    assert "--part GmeScore=0.6766 --part NexusScore=37.43%" in out
    assert all(name in out for name in WEIGHTS["v1.1", "open"])
