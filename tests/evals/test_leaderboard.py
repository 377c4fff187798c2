"""A figure in the wrong column of a leaderboard is believed more than one in no column."""

import json
from pathlib import Path
from typing import Any

import pytest

from s2v.evals import reference, show
from s2v.evals.cli import main
from s2v.evals.errors import EvalError
from s2v.evals.leaderboard import OURS, Board, leaderboard
from s2v.evals.metrics import SUITES, specs
from s2v.evals.reference.protocols import FOLLOWS, Follows, follows
from s2v.evals.run import evaluate


@pytest.fixture
def finished(study: Any, tmp_path: Path) -> Path:
    evaluate(study.manifest, tmp_path / "o", "motion", progress=False, replicates=200,
             cache=study.shared_cache)  # fmt: skip
    return tmp_path / "o"


def renamed(run: Path, protocol: str) -> Path:
    """The same run as if a production protocol had measured it."""
    path = run / "summary.json"
    path.write_text(path.read_text().replace("motion.light.farneback", protocol))
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
