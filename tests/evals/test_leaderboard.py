"""A figure in the wrong column of a leaderboard is believed more than one in no column."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from s2v.evals import reference, show
from s2v.evals.cli import main
from s2v.evals.compare import compare
from s2v.evals.errors import EvalError
from s2v.evals.leaderboard import OURS, Board, leaderboard
from s2v.evals.metrics import SUITES, specs
from s2v.evals.reference.protocols import FOLLOWS, Follows, beside, follows
from s2v.evals.report.page import build_report
from s2v.evals.run import evaluate
from s2v.evals.summary import load_summary


@pytest.fixture
def finished(study: Any, tmp_path: Path) -> Path:
    evaluate(study.manifest, tmp_path / "o", "motion", progress=False, replicates=200,
             cache=study.shared_cache)  # fmt: skip
    return tmp_path / "o"


def renamed(run: Path, protocol: str, was: str = "motion.light.farneback") -> Path:
    """The same run as if a production protocol had measured it."""
    path = run / "summary.json"
    path.write_text(path.read_text().replace(was, protocol))
    table = pq.read_table(run / "per_sample.parquet")
    at = table.schema.get_field_index("protocol")
    names = [protocol if n == was else n for n in table.column(at).to_pylist()]
    renamed = table.set_column(at, table.schema.field(at), [names])
    pq.write_table(renamed, run / "per_sample.parquet")
    return run


def board(boards: list[Board], title: str) -> Board:
    return next(b for b in boards if title in b.title)


def test_every_published_figure_is_on_exactly_one_board() -> None:
    shown = [c.value for b in leaderboard() for line in b.lines for c in line.cells if c]
    assert len(shown) == len(reference.published())
    assert sum(shown) == pytest.approx(sum(r.value for r in reference.published()))


def test_published_figures_never_get_an_interval() -> None:
    cells = [c for b in leaderboard() for line in b.lines for c in line.cells if c]
    assert {(c.ci_low, c.ci_high, c.n) for c in cells} == {(None, None, None)}


def test_the_best_total_leads_and_totals_come_first() -> None:
    (got,) = leaderboard(source="v1.1", split="open")
    assert got.columns[0].name == "TotalScore"
    assert (got.lines[0].model, got.lines[0].cells[0].value) == ("RefAlign-14B", 60.42)
    totals = [line.cells[0].value for line in got.lines if line.cells[0]]
    assert totals == sorted(totals, reverse=True)


def test_a_light_figure_stands_in_no_published_table(finished: Path) -> None:
    ours, *published = leaderboard([finished])
    assert ours.source == OURS
    assert ours.lines[0].model == "toy"
    assert [c.name for c in ours.columns] == [
        "motion.light.farneback v1",
        "dynamic.light.farneback v1",
    ]
    assert all(line.origin == "published" for b in published for line in b.lines)


def test_no_light_protocol_can_follow_a_published_column(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not [p for p in FOLLOWS if ".light" in p]
    for spec in specs():
        if ".light" in spec.protocol:
            slip = Follows("Phantom", "facesim_arc", "high", "a slip in the table")
            monkeypatch.setitem(FOLLOWS, spec.protocol, (slip,))
            assert follows(spec.protocol, "Phantom ICCV2025", "facesim_arc") is None
    assert "light" in SUITES


def test_what_a_protocol_follows_is_a_published_column() -> None:
    for entries in FOLLOWS.values():
        for one in entries:
            assert any(
                r.source.startswith(one.source) and r.metric == one.metric
                for r in reference.published()
            )


def test_a_protocol_that_follows_a_column_enters_it_with_interval_and_doubt(
    finished: Path,
) -> None:
    boards = leaderboard([renamed(finished, "facesim.cur@ir101")], source="phantom iccv")
    table = board(boards, "Table 1")
    mine = next(line for line in table.lines if line.origin == OURS)
    arc, cur, glink, text = mine.cells
    assert (arc, glink, text) == (None, None, None)
    assert cur is not None
    assert cur.n == 4
    assert cur.ci_low is not None
    assert "medium certainty" in cur.note
    assert "toy *" in show.boards_text(boards)
    assert all(line.origin == "published" for line in board(boards, "Table 2").lines)


@pytest.mark.parametrize(
    ("protocol", "metric", "certainty"),
    [
        ("facesim.cur@ir101", "facesim_cur", "medium"),
        ("facesim.cur@ir101~1f2e3d4c", "facesim_cur", None),
        ("facesim.glint@antelopev2", "facesim_glink", "low"),
        ("viclip-t@internvid~1f2e3d4c", "viclip_t", "low"),
        ("viclip-t@vbench~1f2e3d4c", "viclip_t", "low"),
        ("clip-i@open_clip~1f2e3d4c", "clip_i", "low"),
        ("dino-i@dinov2~1f2e3d4c", "dino_i", "low"),
        ("clip-i@open_clip~1f2e3d4c", "clip_i_seg", None),
        ("clip-i.seg@open_clip+u2netp~1f2e3d4c", "clip_i_seg", None),
        ("dino-i.seg@dinov2+u2netp~1f2e3d4c", "dino_i_seg", None),
        ("aesthetic-quality@laion-linear.vbench~1f2e3d4c", "aesthetic", None),
        ("text.light.conse", "viclip_t", None),
    ],
)
def test_unknown_weights_stand_only_where_nobody_named_a_file(
    protocol: str, metric: str, certainty: str | None
) -> None:
    found = follows(protocol, "Phantom ICCV2025 / arXiv 2502.11079", metric)
    assert (found.certainty if found else None) == certainty
    columns = {column.metric: column for column in beside(protocol)}
    assert (metric in columns) == (certainty is not None)
    assert follows(protocol, "SkyReels-A2 arXiv 2504.02436 Table 1", metric) is None


def test_unknown_weights_cannot_be_followed_with_any_certainty() -> None:
    with pytest.raises(ValueError, match="low certainty"):
        Follows("Phantom", "clip_i", "high", "a slip in the table", any_weights=True)


def test_our_figure_stands_in_opens2vs_column_in_its_unit(finished: Path) -> None:
    mean = load_summary(finished).results[1].mean  # a share, as the face's cosine is
    run = renamed(finished, "facesim.cur@ir101.opens2v", was="dynamic.light.farneback")
    (table,) = leaderboard([run], source="v1.1", split="human")[1:]
    at = [c.name for c in table.columns].index("FaceSim")
    mine = next(line for line in table.lines if line.origin == OURS).cells[at]
    assert mine is not None
    assert mean is not None
    assert mine.value == pytest.approx(100 * mean)
    assert mine.ci_high is not None
    assert mine.value <= mine.ci_high <= 100
    column = next(c for c in beside("facesim.cur@ir101.opens2v") if "v1.1" in c.source)
    assert (column.unit, column.factor) == ("% normalised", 100)


def test_of_two_protocols_for_one_column_the_other_is_in_the_note(finished: Path) -> None:
    run = renamed(finished, "viclip-t@vbench~1f2e3d4c")
    run = renamed(run, "viclip-t@internvid~1f2e3d4c", was="dynamic.light.farneback")
    table = board(leaderboard([run], source="phantom iccv"), "Table 1")
    cell = next(line for line in table.lines if line.origin == OURS).cells[-1]
    assert cell is not None
    assert "low certainty" in cell.note
    assert "; by viclip-t@internvid~1f2e3d4c " in cell.note


def test_compare_and_report_set_published_rows_beside_a_followed_protocol_only(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    light = compare(finished, finished, replicates=50)
    assert light.published == {}
    page = build_report([finished], tmp_path / "light.html").read_text()
    assert "The same protocol" not in page
    renamed(finished, "clip-i@open_clip~1f2e3d4c")
    assert main(["compare", str(finished), str(finished)]) == 0
    out = capsys.readouterr().out
    assert "never compared" in out
    line = next(x for x in out.splitlines() if "Table 2" in x)
    assert line.strip().startswith("clip-i@open_clip~1f2e3d4c, low certainty: Phantom ICCV2025")
    assert "Kling1.6 0.732" in line
    assert main(["compare", str(finished), str(finished), "--json"]) == 0
    (columns,) = json.loads(capsys.readouterr().out)["published"].values()
    assert {c["metric"] for c in columns} == {"clip_i"}
    page = build_report([finished], tmp_path / "followed.html").read_text()
    assert "The same protocol" in page
    assert "names no checkpoint" in page
    assert "measured here, other videos" in page


def test_versions_of_one_protocol_are_different_columns(finished: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    summary = json.loads((finished / "summary.json").read_text())
    for entry in (*summary["metrics"], *summary["results"]):
        entry["version"] = 9
    (other / "summary.json").write_text(json.dumps(summary))
    ours = leaderboard([finished, other], source="consisid")[0]
    assert [c.name.rsplit(" ", 1)[1] for c in ours.columns] == ["v1", "v1", "v9", "v9"]
    assert [[c is None for c in line.cells] for line in ours.lines] == [
        [False, False, True, True],
        [True, True, False, False],
    ]


def test_one_name_in_two_runs_is_two_lines_and_the_ceiling_no_model(
    study: Any, tmp_path: Path
) -> None:
    study.lines[0] |= {"source": "real", "model": "toy"}
    runs = []
    for name in ("x", "y"):
        evaluate(study.save(), tmp_path / name, "motion", progress=False, replicates=50,
                 cache=study.shared_cache)  # fmt: skip
        runs.append(tmp_path / name)
    ours = leaderboard(runs, source="consisid")[0]
    ceiling = "toy (ceiling)"
    labels = ["toy · x", f"{ceiling} · x", "toy · y", f"{ceiling} · y"]
    assert [line.model for line in ours.lines] == labels
    assert [line.cells[0].n for line in ours.lines[:2] if line.cells[0]] == [3, 1]
    assert [line.model for line in leaderboard(runs[:1])[0].lines] == ["toy", ceiling]


def test_a_partial_run_says_so_on_the_board(
    study: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate(study.manifest, tmp_path / "o", "motion", progress=False, replicates=50, limit=2,
             cache=study.shared_cache)  # fmt: skip
    assert main(["leaderboard", str(tmp_path / "o"), "--source", "consisid"]) == 0
    assert "toy (PARTIAL)" in capsys.readouterr().out


def test_the_command_says_whose_figures_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["leaderboard", "--source", "opens2v", "--split", "human", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert "never compared" in found["notice"]
    assert [b["title"] for b in found["boards"]] == [
        f"OpenS2V-Eval leaderboard {v}, csv: Human-Domain" for v in ("v1.0", "v1.1")
    ]
    assert main(["leaderboard", "--source", "fantom"]) == 1
    assert "did you mean" in capsys.readouterr().err


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EvalError, match="s2v-eval run"):
        leaderboard([tmp_path])
