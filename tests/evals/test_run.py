"""A run must give the same bytes every time, lose no sample, and survive being killed."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from s2v.evals import run as run_module
from s2v.evals.compare import compare
from s2v.evals.errors import EvalError
from s2v.evals.metrics import motion
from s2v.evals.run import evaluate
from s2v.evals.summary import load_summary

FILES = ("per_sample.parquet", "summary.json", "run.json", "failures.csv")


def run(study: Any, out: Path, **options: Any) -> Any:
    """Motion only, with measurements shared between the tests that are not about the cache."""
    options = {"suite": "motion", "progress": False, "replicates": 200, **options}
    return evaluate(study.save(), out, **{"cache": study.shared_cache, **options})


def files(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in FILES}


def rows(out: Path, protocol: str = "motion.light.farneback") -> dict[str, dict[str, Any]]:
    table = pq.read_table(out / "per_sample.parquet").to_pylist()
    return {r["sample_id"]: r for r in table if r["protocol"] == protocol}


def test_faster_clips_score_more_motion_and_the_mean_is_theirs(study: Any, tmp_path: Path) -> None:
    summary = run(study, tmp_path / "out")
    found = {k: r["score"] for k, r in rows(tmp_path / "out").items()}
    assert found["a-1"] < found["a-2"] < found["c-1"] < found["b-1"]
    # 3 pixels of 96 per frame at 8 frames a second
    assert found["a-2"] == pytest.approx(3 / 96 * 8, rel=0.25)
    row = next(r for r in summary.table() if r["protocol"] == "motion.light.farneback")
    assert row["mean"] == pytest.approx(sum(found.values()) / 4, abs=1e-6)
    assert (row["n"], row["n_expected"], row["clusters"]) == (4, 4, 3)
    assert row["ci_low"] <= row["mean"] <= row["ci_high"]
    assert summary == load_summary(tmp_path / "out")


def test_two_runs_give_identical_bytes_whatever_the_order_of_lines(
    study: Any, tmp_path: Path
) -> None:
    run(study, tmp_path / "one", cache=None)
    again = run(study, tmp_path / "two", cache=None)
    assert files(tmp_path / "one") == files(tmp_path / "two")
    study.lines.reverse()
    turned = run(study, tmp_path / "three")
    assert turned.results == again.results
    assert (
        files(tmp_path / "one")["per_sample.parquet"]
        == files(tmp_path / "three")["per_sample.parquet"]
    )


def test_a_killed_run_goes_on_where_it_was_and_ends_with_the_same_bytes(
    study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(study, tmp_path / "whole", cache=None)
    measure, measured = motion.MotionMagnitude.measure, []

    def dies_at_the_third(self: Any, case: Any) -> Any:
        if len(measured) == 2:
            raise KeyboardInterrupt
        measured.append(1)
        return measure(self, case)

    monkeypatch.setattr(motion.MotionMagnitude, "measure", dies_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        run(study, tmp_path / "out", cache=None)
    assert not (tmp_path / "out" / "summary.json").exists()

    def counts(self: Any, case: Any) -> Any:
        measured.append(1)
        return measure(self, case)

    monkeypatch.setattr(motion.MotionMagnitude, "measure", counts)
    run(study, tmp_path / "out", cache=None)
    assert len(measured) == 4
    assert files(tmp_path / "whole") == files(tmp_path / "out")


def test_a_second_run_decodes_and_measures_nothing(
    study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(study, tmp_path / "out", cache=None)
    before = files(tmp_path / "out")
    monkeypatch.setattr(run_module.media, "read_frames", lambda *a: pytest.fail("decoded again"))
    run(study, tmp_path / "out", cache=None)
    assert files(tmp_path / "out") == before


def test_another_video_under_the_same_name_is_measured_anew(study: Any, tmp_path: Path) -> None:
    run(study, tmp_path / "out")
    slow = rows(tmp_path / "out")["a-2"]["score"]
    videos = study.root / "videos"
    shutil.copy(videos / "b-1.mp4", videos / "a-2.mp4")
    run(study, tmp_path / "out")
    assert rows(tmp_path / "out")["a-2"]["score"] > 2 * slow


def test_a_damaged_cache_entry_is_measured_again(study: Any, tmp_path: Path) -> None:
    run(study, tmp_path / "out", cache=None)
    before = files(tmp_path / "out")
    for entry in (tmp_path / "out" / "cache" / "motion.light.farneback").iterdir():
        entry.write_text('{"status": "scored"')
    run(study, tmp_path / "out", cache=None)
    assert files(tmp_path / "out") == before


def test_broken_media_stop_the_run_before_anything_is_measured(
    study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (study.root / "videos" / "b-1.mp4").unlink()
    monkeypatch.setattr(run_module.media, "read_frames", lambda *a: pytest.fail("measured"))
    monkeypatch.setattr(study, "shared_cache", None)
    with pytest.raises(EvalError, match="1 of 4 samples cannot be scored: b-1: video_missing"):
        run(study, tmp_path / "out")
    assert not (tmp_path / "out" / "summary.json").exists()


def test_recorded_failures_stay_expected_and_keep_their_reason(study: Any, tmp_path: Path) -> None:
    clip = study.root / "videos" / "b-1.mp4"
    clip.write_bytes(clip.read_bytes()[:2000])
    summary = run(study, tmp_path / "out", on_problem="record")
    result = summary.results[0]
    assert (result.n, result.n_expected) == (3, 4)
    assert sum(result.failed.values()) == 1
    with (tmp_path / "out" / "failures.csv").open() as handle:
        lines = list(csv.DictReader(handle))
    assert {(x["sample_id"], x["protocol"]) for x in lines} == {
        ("b-1", "motion.light.farneback"),
        ("b-1", "dynamic.light.farneback"),
    }
    assert lines[0]["message"].startswith("videos/b-1.mp4: ")
    kept = rows(tmp_path / "out")["b-1"]
    assert (kept["status"], kept["score"]) == ("failed", None)


def test_a_metrics_error_on_one_sample_costs_that_number_only(
    study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = motion.DynamicRate.measure

    def stumbles(self: Any, case: Any) -> Any:
        if case.prompt.endswith("a-2"):
            raise ValueError("bad value")
        return measure(self, case)

    monkeypatch.setattr(motion.DynamicRate, "measure", stumbles)
    summary = run(study, tmp_path / "out", cache=None)
    assert {(r.protocol, r.n) for r in summary.results} == {
        ("motion.light.farneback", 4),
        ("dynamic.light.farneback", 3),
    }
    assert "bad value" in (tmp_path / "out" / "failures.csv").read_text()
    monkeypatch.setattr(motion.DynamicRate, "measure", measure)
    assert run(study, tmp_path / "out", cache=None).results[1].n == 4


def test_a_limited_run_says_that_it_is_partial(study: Any, tmp_path: Path) -> None:
    summary = run(study, tmp_path / "out", limit=2)
    assert summary.partial
    assert (summary.n_samples, summary.n_manifest) == (2, 4)
    assert sorted(rows(tmp_path / "out")) == ["a-1", "a-2"]
    assert not run(study, tmp_path / "all", limit=4).partial
    with pytest.raises(EvalError, match="--limit 0"):
        run(study, tmp_path / "none", limit=0)


def test_real_clips_are_a_group_of_their_own_never_mixed_in(study: Any, tmp_path: Path) -> None:
    study.lines[2] |= {"source": "real", "model": None, "seed": None}
    summary = run(study, tmp_path / "out")
    table = [r for r in summary.table() if r["protocol"] == "motion.light.farneback"]
    assert [(r["source"], r["model"], r["n"]) for r in table] == [
        ("generated", "toy", 3),
        ("real (ceiling)", "real", 1),
    ]
    assert (table[1]["ci_low"], table[1]["ci_high"]) == (None, None)


def test_scenarios_are_sliced_only_where_there_are_several(study: Any, tmp_path: Path) -> None:
    assert [r.scenario for r in run(study, tmp_path / "one").results] == [None, None]
    study.lines[0]["scenario"] = "other"
    summary = run(study, tmp_path / "two")
    assert {r.scenario: r.n for r in summary.results if r.protocol.startswith("motion")} == {
        None: 4,
        "plain": 3,
        "other": 1,
    }
    assert [r["n"] for r in summary.table(scenario="plain")] == [3, 3]


def test_the_rate_of_moving_videos_has_a_wilson_interval(study: Any, tmp_path: Path) -> None:
    result = run(study, tmp_path / "out").results[1]
    scores = [r["score"] for r in rows(tmp_path / "out", "dynamic.light.farneback").values()]
    assert set(scores) <= {0.0, 1.0}
    assert result.mean == sum(scores) / 4
    assert result.interval.startswith("Wilson")


def test_published_rows_stand_apart_without_intervals(study: Any, tmp_path: Path) -> None:
    summary = run(study, tmp_path / "out")
    published = summary.published_table()
    assert {r["metric"] for r in published} == {"dynamic_degree"}
    assert {r["model"] for r in published} >= {"Pika2.1", "SkyReels-A2"}
    assert all("ci_low" not in r for r in published)
    assert "never compared" in summary.published.notice


def test_the_record_names_weights_and_versions_but_no_clock_or_place(
    study: Any, tmp_path: Path
) -> None:
    run(study, tmp_path / "out")
    text = (tmp_path / "out" / "run.json").read_text()
    record = json.loads(text)
    assert record["packages"]["opencv-python-headless"].startswith("5.")
    assert record["manifest"]["name"] == "manifest.jsonl"
    assert str(tmp_path) not in text
    assert str(tmp_path) not in (tmp_path / "out" / "summary.json").read_text()


def test_a_summary_of_another_schema_is_refused(study: Any, tmp_path: Path) -> None:
    run(study, tmp_path / "out")
    path = tmp_path / "out" / "summary.json"
    path.write_text(path.read_text().replace("s2v-eval-summary/1", "s2v-eval-summary/9"))
    with pytest.raises(EvalError, match="not a summary of this version: schema"):
        load_summary(tmp_path / "out")
    with pytest.raises(EvalError, match="s2v-eval run"):
        load_summary(tmp_path)


# Comparing two runs


def second_model(study: Any, tmp_path: Path) -> None:
    """The same references, prompts and seeds by a model whose videos all move faster."""
    videos = study.root / "videos"
    for line, faster in zip(study.lines, ("a-2", "c-1", "b-1", "b-1"), strict=True):
        shutil.copy(videos / f"{faster}.mp4", videos / f"new-{line['sample_id']}.mp4")
        line |= {"video": f"videos/new-{line['sample_id']}.mp4", "model": "fast"}
    study.lines[2]["video"] = "videos/b-1.mp4"


def test_runs_are_compared_pair_by_pair(study: Any, tmp_path: Path) -> None:
    run(study, tmp_path / "a")
    first = {k: r["score"] for k, r in rows(tmp_path / "a").items()}
    second_model(study, tmp_path)
    run(study, tmp_path / "b")
    second = {k: r["score"] for k, r in rows(tmp_path / "b").items()}
    got = compare(tmp_path / "a", tmp_path / "b", replicates=200)
    assert (got.model_a, got.model_b, got.partial) == ("toy", "fast", False)
    change = got.differences[0]
    expected = sum(second[k] - first[k] for k in first) / 4
    assert change.difference == pytest.approx(expected, abs=1e-6)
    assert (change.n, change.clusters, change.unpaired) == (4, 3, 0)
    assert change.exact
    assert change.p_holm >= change.p_value == 0.5  # b-1 is unchanged: 4 of 8 sign patterns


def test_numbers_of_different_protocol_versions_are_never_compared(
    study: Any, tmp_path: Path
) -> None:
    run(study, tmp_path / "a")
    second_model(study, tmp_path)
    run(study, tmp_path / "b")
    path = tmp_path / "b" / "summary.json"
    summary = json.loads(path.read_text())
    summary["metrics"][0]["version"] = 99
    path.write_text(json.dumps(summary))
    got = compare(tmp_path / "a", tmp_path / "b", replicates=50)
    assert [d.metric.protocol for d in got.differences] == ["dynamic.light.farneback"]
    assert "version 1 in A, 99 in B" in got.skipped["motion.light.farneback"]


def test_runs_without_common_pairs_are_refused(study: Any, tmp_path: Path) -> None:
    run(study, tmp_path / "a")
    for line in study.lines:
        line["seed"] = 77
    run(study, tmp_path / "b")
    with pytest.raises(EvalError, match=r"nothing to compare: .*no pair"):
        compare(tmp_path / "a", tmp_path / "b", replicates=50)


def test_a_run_with_two_models_asks_which(study: Any, tmp_path: Path) -> None:
    study.lines[3]["model"] = "other"
    run(study, tmp_path / "a")
    with pytest.raises(EvalError, match="choose one with --model-a"):
        compare(tmp_path / "a", tmp_path / "a")
    with pytest.raises(EvalError, match="no generated videos of 'nobody'"):
        compare(tmp_path / "a", tmp_path / "a", model_a="toy", model_b="nobody")
