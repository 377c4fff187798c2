"""What a mean stands on: whose videos, how many of how many, and ends that a mean can have."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from s2v.datapipe.base.media.errors import MediaError, MediaErrorKind
from s2v.evals import aggregate, media, statistics
from s2v.evals.aggregate import Row
from s2v.evals.compare import compare
from s2v.evals.inspection import inspect
from s2v.evals.manifest import Sample, load_manifest
from s2v.evals.metrics import specs
from s2v.evals.metrics.base import Measurement, failed, not_applicable, scored
from s2v.evals.run import evaluate

SPEC = replace(specs()[0], low=0.0, high=1.0, kind="mean", rate=None)


def rows(*said: tuple[str, Measurement]) -> list[Row]:
    return [
        Row(
            Sample(sample_id=f"{ref}-{n}", video="v", prompt="p", refs=(), source="generated",
                   reference_id=ref),
            SPEC,
            measurement,
        )
        for n, (ref, measurement) in enumerate(said)
    ]  # fmt: skip


def test_failures_stay_expected_and_what_is_not_asked_does_not() -> None:
    said = rows(("a", scored(0.5)), ("b", failed("x")), ("c", not_applicable("y")))
    (got,) = aggregate.results([SPEC], said, seed=0, replicates=10)
    assert (got.n, got.n_expected, got.failed, got.not_applicable) == (1, 2, {"x": 1}, {"y": 1})


def test_no_interval_ends_where_no_mean_can_be() -> None:
    said = rows(("a", scored(0.02)), ("b", scored(0.05)), ("c", scored(0.99)))
    (got,) = aggregate.results([SPEC], said, seed=0, replicates=10)
    assert (got.ci_low, got.ci_high) == (0.0, 1.0)  # Student's t alone would reach from -1 to 2
    unbounded = replace(SPEC, high=None)
    (got,) = aggregate.results(
        [unbounded], [replace(r, spec=unbounded) for r in said], seed=0, replicates=10
    )
    assert got.ci_low == 0.0
    assert got.ci_high is not None
    assert got.ci_high > 1.0


def test_of_a_run_with_two_models_the_chosen_ones_videos_are_compared(
    study: Any, tmp_path: Path
) -> None:
    # The same reference, prompt and seed by two models; those of the second move faster.
    slow, fast = study.lines[0], study.lines[2]
    fast |= {k: slow[k] for k in ("reference_id", "prompt", "seed")} | {"model": "fast"}
    study.lines = [slow, fast]
    evaluate(study.save(), tmp_path / "o", "motion.light.farneback", progress=False,
             replicates=50, cache=study.shared_cache)  # fmt: skip
    got = compare(tmp_path / "o", tmp_path / "o", model_a="toy", model_b="fast", replicates=50)
    (change,) = got.differences
    assert (change.n, change.mean_a < change.mean_b) == (1, True)
    assert change.difference == pytest.approx(change.mean_b - change.mean_a)
    turned = compare(tmp_path / "o", tmp_path / "o", model_a="fast", model_b="toy", replicates=50)
    assert turned.differences[0].difference == pytest.approx(-change.difference)


def test_no_difference_is_sure_to_be_larger_than_a_difference_can_be(
    study: Any, tmp_path: Path
) -> None:
    # Two references, one that begins to move and one that does not: Student's t reaches far.
    a1, b1, c1 = study.lines[0], study.lines[2], study.lines[3]
    for line, model, reference in ((a1, "x", "r"), (b1, "y", "r")):
        line |= {"model": model, "reference_id": reference, "prompt": "p"}
    still = {**a1, "sample_id": "d-1", "reference_id": "s", "prompt": "q"}
    again = {**c1, "sample_id": "d-2", "reference_id": "s", "prompt": "q", "model": "y"}
    study.lines = [a1, b1, still, {**again, "video": a1["video"]}]
    evaluate(study.save(), tmp_path / "o", "dynamic.light.farneback", progress=False,
             replicates=50, cache=study.shared_cache)  # fmt: skip
    (change,) = compare(
        tmp_path / "o", tmp_path / "o", model_a="x", model_b="y", replicates=50
    ).differences
    assert change.difference == 0.5
    assert (change.ci_low, change.ci_high) == (-1.0, 1.0)


def test_the_machines_fault_stops_a_run_and_is_no_fault_of_the_sample(
    study: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(path: Path) -> Any:
        raise MediaError(MediaErrorKind.TRANSIENT, path, "Input/output error")

    manifest = load_manifest(study.save())
    monkeypatch.setattr(media, "frame_times", breaks)
    with pytest.raises(MediaError, match="Input/output error"):
        inspect(manifest, manifest.samples)


def test_a_sampled_test_never_claims_a_p_of_nothing() -> None:
    p, exact = statistics.sign_flip_p(np.ones(60), replicates=99)
    assert not exact
    assert p == pytest.approx(1 / 100)
