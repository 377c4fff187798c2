"""Where the time went is told beside the results, and never moves a byte of them."""

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from s2v.evals import timings
from s2v.evals.encoders import Vectors
from s2v.evals.encoders.production import Encoders
from s2v.evals.run import evaluate

MOTION = "motion.light.farneback"


def run(study: Any, out: Path, **options: Any) -> dict[str, Any]:
    evaluate(study.save(), out, "motion", progress=False, replicates=50, **options)
    found: dict[str, Any] = json.loads((out / "timings.json").read_text())
    return found


def others(out: Path) -> dict[str, bytes]:
    """Every file of a run but the one that is about the hour."""
    return {
        str(p.relative_to(out)): p.read_bytes()
        for p in sorted(out.rglob("*"))
        if p.is_file() and p.name != "timings.json"
    }


def test_a_run_says_what_each_step_and_metric_took_and_how_much_memory(
    study: Any, tmp_path: Path
) -> None:
    found = run(study, tmp_path / "o")
    assert found["schema"] == "s2v-eval-timings/1"
    assert set(found["steps"]) == {"check", "measure", "aggregate", "previews", "report"}
    assert found["videos"] == {"measured": 4, "from_cache": 0, "unusable": 0}
    assert found["decode"]["videos"] == 4
    assert set(found["metrics"]) == {MOTION, "dynamic.light.farneback"}
    assert {m["measured"] for m in found["metrics"].values()} == {4}
    # Farneback runs for real: it has taken time, and no more than the step it is part of.
    spent = sum(m["cpu_s"] for m in found["metrics"].values()) + found["decode"]["cpu_s"]
    assert found["metrics"][MOTION]["wall_s"] > 0
    assert spent <= found["steps"]["measure"]["cpu_s"] + 0.01
    assert sum(s["wall_s"] for s in found["steps"].values()) <= found["wall_s"] + 0.01
    assert found["peak_memory_bytes"]["process"] > 20_000_000
    assert found["machine"]["cpus"] >= 1


def test_two_runs_are_the_same_in_every_file_but_the_timings(study: Any, tmp_path: Path) -> None:
    for name in ("one", "two"):
        run(study, tmp_path / name)
    one, two = (others(tmp_path / name) for name in ("one", "two"))
    assert one == two
    assert {"report.html", "summary.json", "per_sample.parquet", "run.json"} <= set(one)


def test_a_second_run_says_what_the_cache_spared_it(study: Any, tmp_path: Path) -> None:
    first = run(study, tmp_path / "o", limit=3)
    assert first["videos"] == {"measured": 3, "from_cache": 0, "unusable": 0}
    whole = run(study, tmp_path / "o")
    assert whole["videos"] == {"measured": 1, "from_cache": 3, "unusable": 0}
    assert whole["metrics"][MOTION]["from_cache"] == 3
    assert (whole["metrics"][MOTION]["measured"], whole["decode"]["videos"]) == (1, 1)
    before = others(tmp_path / "o")
    again = run(study, tmp_path / "o")
    assert again["videos"] == {"measured": 0, "from_cache": 4, "unusable": 0}
    assert (again["metrics"][MOTION]["measured"], again["metrics"][MOTION]["cpu_s"]) == (0, 0.0)
    assert again["decode"] == {"videos": 0, "wall_s": 0.0, "cpu_s": 0.0}
    assert others(tmp_path / "o") == before


def test_videos_that_cannot_be_scored_are_counted_apart(study: Any, tmp_path: Path) -> None:
    (study.root / "videos" / "b-1.mp4").write_bytes(b"no video")
    found = run(study, tmp_path / "o", on_problem="record", cache=study.shared_cache)
    assert found["videos"]["unusable"] == 1
    assert found["videos"]["measured"] + found["videos"]["from_cache"] == 3


class Busy:
    """An encoder that works for a while, or fails after it."""

    id = "busy"

    def __init__(self) -> None:
        self.asked = 0

    def embed(self, images: list[Any]) -> Vectors:
        self.asked += 1
        total = np.zeros(1, np.float32)
        for n in range(20_000):
            total += n
        if not images:
            raise ValueError("nothing to see")
        return total[None]


class Own(Encoders):
    @cached_property
    def image(self) -> Any:
        return Busy()


def test_each_encoder_is_timed_by_name_and_answers_as_it_would_untimed() -> None:
    watch, own = timings.begin(), Own()
    shared = timings.timed(own)
    assert shared.image.id == "busy"
    assert shared.image is shared.image
    picture = np.zeros((2, 2, 3), np.uint8)
    assert np.array_equal(shared.image.embed([picture]), Busy().embed([picture]))
    with pytest.raises(ValueError, match="nothing to see"):
        shared.image.embed([])
    lap = watch.of("encoder")["image"]
    assert (lap.calls, own.image.asked) == (2, 2)
    assert lap.cpu_s > 0
    assert watch.of("load")["image"].calls == 1
    assert shared.weights is own.weights


def test_what_another_process_measured_is_added_once() -> None:
    there, here = timings.Stopwatch(), timings.Stopwatch()
    for _ in range(2):
        with there.measure("metric", MOTION):
            pass
    here.absorb(there.drain())
    here.absorb(there.drain())
    assert here.of("metric")[MOTION].calls == 2
    with here.measure("metric", MOTION):
        pass
    found = timings.content(here, timings.Videos(1, 0, 0), {}, [MOTION])
    assert found["metrics"][MOTION]["measured"] == 3  # type: ignore[index]  # JSON, by its keys
