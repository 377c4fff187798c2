"""The page must show what the files say, to the last digit, and nothing that a stranger wrote."""

import html
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from s2v.evals import previews
from s2v.evals.errors import EvalError
from s2v.evals.report import charts
from s2v.evals.report.page import build_report
from s2v.evals.report.runs import Run, methods
from s2v.evals.run import evaluate

HOSTILE = "<script>alert(1)</script>"


def scored(study: Any, out: Path, **options: Any) -> Path:
    study.save()
    evaluate(study.manifest, out, "motion", progress=False, replicates=100,
             cache=study.shared_cache, **options)  # fmt: skip
    return out


def as_model(study: Any, name: str) -> None:
    for line in study.lines:
        line["model"] = name


def text_of(page: Path) -> str:
    return re.sub(r"<[^>]+>", " ", page.read_text())


def test_every_figure_of_the_summary_is_on_the_page(study: Any, tmp_path: Path) -> None:
    run = scored(study, tmp_path / "o")
    page = text_of(run / "report.html")
    for result in Run.load(run).summary.results:
        assert f"{result.mean:.4f}" in page
        assert f"[{result.ci_low:.4f}, {result.ci_high:.4f}]" in page
    assert "never compared" in page
    assert "Every sample that should have been scored was" in page


def test_the_words_of_the_page_are_said_where_they_stand(study: Any, tmp_path: Path) -> None:
    page = text_of(scored(study, tmp_path / "a") / "report.html")
    assert "Light: measured with small open networks" in page
    assert "Real (ceiling):" not in page
    study.lines[0] |= {"source": "real", "model": None}
    assert "Real (ceiling):" in text_of(scored(study, tmp_path / "b") / "report.html")


@pytest.mark.parametrize(("direction", "first"), [("higher", "a-1"), ("lower", "b-1")])
def test_the_worst_samples_are_the_worst_whichever_way_is_better(
    study: Any, tmp_path: Path, direction: str, first: str
) -> None:
    run = scored(study, tmp_path / "o")  # a-1 stands still, b-1 is the fastest
    path = run / "summary.json"
    path.write_text(
        path.read_text().replace('"direction": "neither"', f'"direction": "{direction}"')
    )
    page = build_report([run], tmp_path / "p.html").read_text()
    cards = re.findall(r'<article class="card">.*?</article>', page)
    assert f"> {first}<" in cards[0]


def test_models_whose_names_begin_alike_are_told_apart_in_a_chart() -> None:
    names = ("phantom-mmdit-small-lr1e-4-step-5000", "phantom-mmdit-small-lr1e-4-step-9000")
    shown = charts.whiskers("m", "u", [charts.Whisker(n, 0.5, 0.4, 0.6, None, 0) for n in names])
    labels = re.findall(r'class="name">([^<]+)<', shown)
    assert labels[0].endswith("step-5000")
    assert labels[1].endswith("step-9000")
    assert all(len(label) <= 18 for label in labels)


def test_no_score_of_a_panel_is_left_out_in_silence(
    study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = scored(study, tmp_path / "o")
    assert "more in per_sample.parquet" not in (run / "report.html").read_text()
    monkeypatch.setattr("s2v.evals.report.panels._CHIPS", 1)
    page = build_report([run], tmp_path / "p.html").read_text()
    assert page.count("and 1 more in per_sample.parquet") == 4


def test_two_runs_leave_the_same_page_and_the_same_files(study: Any, tmp_path: Path) -> None:
    runs = [scored(study, tmp_path / name) for name in ("a", "b")]
    kept = [
        {
            p.relative_to(run): p.read_bytes()
            for p in sorted(run.rglob("*"))
            if p.is_file() and p.name != "timings.json"
        }
        for run in runs
    ]
    assert kept[0] == kept[1]
    assert {"report.html", "run.json", "summary.json", "per_sample.parquet", "failures.csv"} <= {
        str(p) for p in kept[0]
    }


def test_the_page_needs_no_videos_and_no_network(study: Any, tmp_path: Path) -> None:
    run = scored(study, tmp_path / "o")
    before = (run / "report.html").read_bytes()
    shutil.rmtree(study.root)
    again = build_report([run], tmp_path / "again.html", title="manifest")
    assert again.read_bytes() == before
    page = before.decode()
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)
    assert "<script" not in page
    assert "default-src 'none'" in html.unescape(page)


def test_models_of_several_runs_stand_under_each_other_and_are_compared(
    study: Any, tmp_path: Path
) -> None:
    runs = []
    for name in ("first", "second"):
        as_model(study, name)
        runs.append(scored(study, tmp_path / name))
    page = build_report(runs, tmp_path / "both.html").read_text()
    panels = re.findall(r'<article class="panel">.*?</article>', page)
    assert len(panels) == 4
    for panel in panels:
        assert panel.index("reference 1") < panel.index("<h4>first") < panel.index("<h4>second")
        assert panel.count('class="strip"') == 2
    assert "second against first" in page
    assert "too few references to show any" in page  # three cannot reach 5 %


def test_one_name_in_two_runs_is_two_methods(study: Any, tmp_path: Path) -> None:
    runs = [Run.load(scored(study, tmp_path / name)) for name in ("x", "y")]
    assert [m.label for m in methods(runs)] == ["toy · x", "toy · y"]


def test_real_clips_are_the_ceiling_and_never_a_model(study: Any, tmp_path: Path) -> None:
    for line in study.lines[:2]:
        line |= {"source": "real", "model": None}
    run = Run.load(scored(study, tmp_path / "o"))
    assert [m.label for m in methods([run])] == ["toy", "real (ceiling)"]
    page = (tmp_path / "o" / "report.html").read_text()
    assert "There is one model" in page


def test_what_strangers_wrote_stays_text(study: Any, tmp_path: Path) -> None:
    for line in study.lines:
        line |= {"prompt": f"{HOSTILE} {line['sample_id']}", "model": HOSTILE, "scenario": HOSTILE}
    study.lines[0]["scenario"] = "other"
    page = (scored(study, tmp_path / "o") / "report.html").read_text()
    assert HOSTILE not in page
    assert "&lt;script&gt;alert(1)" in page


def test_failures_and_partial_results_say_so(study: Any, tmp_path: Path) -> None:
    (study.root / "videos" / "b-1.mp4").write_text("no video")
    run = scored(study, tmp_path / "o", on_problem="record", limit=3)
    page = text_of(run / "report.html")
    assert "Partial:" in page
    assert "video_not_media" in page
    assert "no preview" not in page or "b-1" in page


def test_a_page_has_a_limit_and_says_what_it_left_out(study: Any, tmp_path: Path) -> None:
    run = scored(study, tmp_path / "o")
    whole = (run / "report.html").stat().st_size
    small = build_report([run], tmp_path / "small.html", max_bytes=15_000)
    assert small.stat().st_size < whole
    assert "There are no previews" in small.read_text() or " of 4 prompts" in small.read_text()
    (full,) = re.findall(r"(\d) of 4 prompts", (run / "report.html").read_text())
    assert full == "4"


def test_previews_are_optional_and_made_once(study: Any, tmp_path: Path) -> None:
    plain = scored(study, tmp_path / "plain", report=False)
    assert not (plain / "previews").exists()
    assert not (plain / "report.html").exists()
    run = scored(study, tmp_path / "o")
    index = previews.load(run)
    assert set(index) == {"a-1", "a-2", "b-1", "c-1"}
    strip = run / "previews" / index["a-1"]["video"][0]
    stamp = strip.stat().st_mtime_ns
    scored(study, tmp_path / "o")
    assert strip.stat().st_mtime_ns == stamp


def test_an_index_that_leads_out_of_its_folder_is_refused(study: Any, tmp_path: Path) -> None:
    run = scored(study, tmp_path / "o")
    path = run / "previews" / "index.json"
    content = json.loads(path.read_text())
    content["samples"]["a-1"]["refs"] = ["../../secret.jpg"]
    path.write_text(json.dumps(content))
    with pytest.raises(EvalError, match="damaged"):
        build_report([run], tmp_path / "r.html")


def test_a_report_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EvalError, match="needs a run"):
        build_report([], tmp_path / "r.html")
    with pytest.raises(EvalError, match="s2v-eval run"):
        build_report([tmp_path], tmp_path / "r.html")


def corners(svg: str) -> list[tuple[float, float]]:
    (points,) = re.findall(r'<polygon points="([^"]+)" class="outline', svg)
    return [tuple(map(float, p.split(","))) for p in points.split()]  # type: ignore[misc]


def test_a_radar_puts_the_best_at_the_rim_whichever_way_is_better() -> None:
    spokes = [charts.Spoke("up", 0, 1), charts.Spoke("down", 1, 0), charts.Spoke("x100", 0, 40),
              charts.Spoke("half", 0, 1)]  # fmt: skip
    svg = charts.radar("r", spokes, [("m", [1.0, 0.0, 50.0, 0.5], 0)])
    (x0, y0), (x1, y1), (x2, y2), (x3, y3) = corners(svg)
    middle, radius = 215.0, 120.0
    assert (x0, y0) == pytest.approx((middle, middle - radius))
    assert (x1, y1) == pytest.approx((middle + radius, middle))
    assert (x2, y2) == pytest.approx((middle, middle + radius))  # beyond the rim is the rim
    assert (x3, y3) == pytest.approx((middle - radius / 2, middle))
    assert "1 to 0" in svg


def test_a_missing_value_is_a_gap_and_not_a_zero() -> None:
    spokes = [charts.Spoke(str(n), 0, 1) for n in range(4)]
    svg = charts.radar("r", spokes, [("m", [0.5, None, 0.5, 0.5], 0)])
    assert 'class="outline' in svg
    assert not re.findall(r'<polygon points="[^"]+" class="outline', svg)
    assert svg.count("<circle") == 3
    assert "1 missing" in svg
    with pytest.raises(ValueError, match="three at least"):
        charts.radar("r", spokes[:2], [])


def test_an_unknown_interval_is_drawn_as_a_dot_alone() -> None:
    entries = [
        charts.Whisker("a", 0.5, None, None, None, 0),
        charts.Whisker("b", 0.6, 0.4, 0.8, 0.1, 1),
        charts.Whisker("c", None, None, None, None, 2),
    ]
    svg = charts.whiskers("t", "u", entries)
    assert svg.count("<circle") == 2
    assert svg.count('class="interval') == 1
    assert "not scored" in svg
    assert "a 0.5; b 0.6; c not scored" in svg


def test_the_papers_radar_has_its_dynamic_degree_too() -> None:
    from s2v.evals.metrics import protocols, specs
    from s2v.evals.report import tables
    from s2v.evals.summary import MetricInfo, Result

    infos = [MetricInfo.of(s) for s in specs() if s.protocol in protocols("radar")]
    results = {f"{i.protocol} v{i.version}": Result.model_construct(mean=i.low) for i in infos}

    class One:
        label = "mine"

        def results(self) -> dict[str, Result]:
            return results

    page = tables.radar(dict(zip(results, infos, strict=True)), [One()])  # type: ignore[list-item]
    drawn = [i.title for i in infos if f"{i.title} " in page.split("<desc", 1)[1]]
    assert drawn == [i.title for i in infos if i.high is not None]
    assert any(i.direction == "neither" for i in infos if i.title in drawn)
