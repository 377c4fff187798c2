"""A run's files, read back after disks, editors and killed writers: named, refused, never mixed."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from s2v.evals.cli import main
from s2v.evals.compare import compare
from s2v.evals.errors import EvalError
from s2v.evals.report.page import build_report
from s2v.evals.run import evaluate


def scored(study: Any, out: Path, **options: Any) -> Path:
    options = {"cache": study.shared_cache, "replicates": 100, **options}
    evaluate(study.save(), out, "motion", progress=False, **options)
    return out


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line that a failing command says."""
    assert main([str(a) for a in arguments]) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len([line for line in lines if "error:" in line]) == 1
    return lines[-1]


def other_schema(path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), path)


def half_written(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def binary(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\x00")


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("per_sample.parquet", other_schema),
        ("per_sample.parquet", half_written),
        ("per_sample.parquet", empty),
        ("per_sample.parquet", Path.unlink),
        ("summary.json", binary),
        ("summary.json", empty),
        ("run.json", empty),
        ("run.json", binary),
        ("previews/index.json", binary),
    ],
)
def test_a_damaged_run_is_named_with_the_way_out_by_every_reader(
    study: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, damage: Any
) -> None:
    run = scored(study, tmp_path / "o")
    damage(run / name)
    line = said(capsys, "report", run, "--out", tmp_path / "page.html")
    assert name in line
    assert "again" in line
    if name == "per_sample.parquet":
        assert name in said(capsys, "compare", run, run)
    if name == "summary.json":
        assert name in said(capsys, "leaderboard", run)
    assert not (tmp_path / "page.html").exists()


def test_numbers_of_another_run_beside_a_summary_are_refused(study: Any, tmp_path: Path) -> None:
    first, second = scored(study, tmp_path / "a"), tmp_path / "b"
    evaluate(study.manifest, second, "motion.light.farneback", progress=False, replicates=50,
             cache=study.shared_cache)  # fmt: skip
    (second / "per_sample.parquet").write_bytes((first / "per_sample.parquet").read_bytes())
    with pytest.raises(EvalError, match=r"holds dynamic.* are of two runs"):
        build_report([second], tmp_path / "page.html")


def test_a_spoilt_preview_is_left_out_of_the_page(study: Any, tmp_path: Path) -> None:
    run = scored(study, tmp_path / "o")
    for picture in (run / "previews").glob("*.jpg"):
        picture.write_bytes(b"no picture")
    page = build_report([run], tmp_path / "page.html").read_text()
    assert "no preview" in page


def test_videos_that_one_side_did_not_score_are_told_with_the_comparison(
    study: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = scored(study, tmp_path / "a")
    (study.root / "videos" / "b-1.mp4").unlink()
    for line in study.lines:
        line["model"] = "other"
    second = scored(study, tmp_path / "b", on_problem="record")
    assert compare(first, second, replicates=50).differences[0].unpaired == 1
    assert main(["compare", str(first), str(second)]) == 0
    told = "1 video scored on one side only (motion.light.farneback, dynamic.light.farneback)"
    assert f"not paired: {told}" in capsys.readouterr().out
    assert told in build_report([first, second], tmp_path / "page.html").read_text()


def test_samples_that_a_metric_is_not_about_are_counted_by_reason(
    study: Any, tmp_path: Path, encode_video: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    encode_video(study.root / "videos" / "a-1.mp4", [np.full((64, 96, 3), 9, np.uint8)])
    out = tmp_path / "o"
    arguments = ("run", study.save(), "--out", out, "--suite", "motion", "--no-progress")
    assert main([str(a) for a in (*arguments, "--cache", study.shared_cache)]) == 0
    assert "motion.light.farneback, toy: 1 single_frame" in capsys.readouterr().out
    page = (out / "report.html").read_text()
    assert "Not asked, as the metric is not about them" in page
    assert "single_frame" in page
