"""Figures of a run: they add up, they say what is wrong, and they print anywhere."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_run import build_run, hostile_world
from synthetic_tables import film_world

from s2v.datapipe.base.markup import clean
from s2v.datapipe.cli import main
from s2v.datapipe.pair.evidence import RULES
from s2v.datapipe.report.figures import spread
from s2v.datapipe.report.run import RunFolder, RunFolderError
from s2v.datapipe.report.stats import print_stats, run_stats
from s2v.datapipe.report.wording import RULE_TEXT, moment, share


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_run(tmp_path_factory.mktemp("run"))


@pytest.fixture
def unwritten(tmp_path: Path) -> Path:
    return build_run(tmp_path, film_world(), shards=False)


def test_every_line_of_the_funnel_adds_up(run: Path) -> None:
    found = run_stats(run)
    assert found["conservation"] == "holds"
    assert [row["table"] for row in found["funnel"]] == [
        *("sources", "time", "clips", "subjects", "boxes", "faces", "pairs"),
        *("samples", "clips with a sample", "samples written"),
    ]
    for row in found["funnel"]:
        assert row["entered"] == row["kept"] + sum(row["dropped"].values()) + row["quarantined"]
        assert row["keep_rate"] == pytest.approx(row["kept"] / row["entered"], abs=1e-6)
    clips = next(row for row in found["funnel"] if row["table"] == "clips")
    assert clips["dropped"] == {"clip: duplicate": 1}  # the trailer's copy of a film shot


def test_figures_are_those_of_the_tables(run: Path) -> None:
    found = run_stats(run)
    tables = run / "tables"
    samples = pq.read_table(tables / "samples.parquet").to_pylist()
    pairs = pq.read_table(tables / "pairs.parquet").to_pylist()
    subjects = pq.read_table(tables / "subjects.parquet").to_pylist()
    kinds = [row["pair_type"] for row in samples]
    assert found["samples"]["by_type"] == {k: kinds.count(k) for k in ("cross", "in")}
    assert found["samples"]["in_to_cross"] == pytest.approx(
        kinds.count("in") / kinds.count("cross"), abs=1e-6
    )
    assert sum(map(len, (row["references"] for row in samples))) == sum(
        int(n) * count for n, count in found["samples"]["references"].items()
    )
    assert found["pairs"]["accepted"] == sum(row["accepted"] for row in pairs)
    assert found["pairs"]["refused_by_rule"] == {
        rule: sum(rule in row["rules"] for row in pairs)
        for rule in RULES
        if any(rule in row["rules"] for row in pairs)
    }
    persons = [row for row in subjects if row["bank"] == "person"]
    assert found["subjects"]["by_bank"]["person"]["phrases"] == len(persons) > 0
    assert found["subjects"]["by_bank"]["person"]["with_face"] == len(persons)
    on_disk = sum(path.stat().st_size for path in (run / "shards").glob("*.tar"))
    assert found["shards"]["bytes"] == on_disk > 0
    assert found["shards"]["samples"] == len(samples)


def test_the_broken_source_is_counted_where_it_was_put_aside(run: Path) -> None:
    found = run_stats(run)
    assert [row["id"] for row in found["quarantine"]] == ["broken"]
    assert found["funnel"][0]["quarantined"] == 1
    assert found["sources"]["quarantined"] == 1
    probes = pq.read_table(run / "tables" / "probe.parquet").to_pylist()
    assert {row["video_id"] for row in probes} >= {"broken"}
    whole = sum(row["duration_us"] for row in probes if row["video_id"] != "broken") / 1e6
    assert found["sources"]["seconds_of_video"] == pytest.approx(whole)


def test_figures_survive_json_without_nan(run: Path) -> None:
    found = run_stats(run)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_cpu_seconds_are_those_of_the_current_stages_only(unwritten: Path) -> None:
    stale = unwritten / "measure" / "probe-old" / "film-1.000.json"
    stale.parent.mkdir()
    stale.write_text('{"cpu_seconds": 1000}')
    torn = unwritten / "measure" / "probe-abc" / "film-2.000.json"
    torn.write_text('{"cpu_sec')
    assert run_stats(unwritten)["cpu_seconds"] == {
        "stages": {"probe": 3.8, "shots": 0.0},
        "total": 3.8,
    }


def test_a_run_without_shards_still_has_figures(unwritten: Path) -> None:
    found = run_stats(unwritten)
    assert found["shards"] is None
    assert found["samples"]["total"] > 0


def test_a_sample_missing_from_the_shards_is_noticed(tmp_path: Path) -> None:
    run = build_run(tmp_path, film_world())
    index = run / "shards" / "index" / "samples.parquet"
    pq.write_table(pq.read_table(index).slice(1), index)
    last = run_stats(run)["funnel"][-1]
    assert last["entered"] - last["kept"] == 1
    assert sum(last["dropped"].values()) == 1


def test_lost_rows_are_said_and_not_papered_over(unwritten: Path) -> None:
    path = unwritten / "tables" / "subjects.parquet"
    pq.write_table(pq.read_table(path).slice(1), path)
    found = run_stats(unwritten)
    assert "was lost" in found["conservation"]
    assert found["samples"]["total"] > 0  # the rest is still there to be looked at


def test_runs_of_before_marks_and_concepts_can_still_be_looked_at(unwritten: Path) -> None:
    before = run_stats(unwritten)
    for name, later in (("clips", "marks"), ("clip_reasons", "concept")):
        path = unwritten / "tables" / f"{name}.parquet"
        pq.write_table(pq.read_table(path).drop_columns([later]), path)
    assert run_stats(unwritten) == before
    run = RunFolder(unwritten)
    assert {row["marks"] for row in run.rows("clips")} == {None}
    assert set(run.tables["clip_reasons"]["concept"].to_pylist()) == {None}


def test_vectors_are_not_carried_but_their_absence_is(unwritten: Path) -> None:
    run = RunFolder(unwritten)
    assert {len(row["subject"]) for row in run.rows("embeddings")} == {1}
    assert {len(row["embedding"]) for row in run.rows("faces")} == {1}
    rows = run.rows("subjects")
    assert not {"embedding", "background", "joint", "face_embedding"} & rows[0].keys()
    assert {row["face"] is None for row in rows if row["bank"] == "thing"} == {True}
    assert {row["face"] is None for row in rows if row["bank"] == "person"} == {False}


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda run: (run / "run.json").unlink(), "no run.json"),
        (lambda run: (run / "run.json").write_text("{"), "not JSON"),
        (lambda run: (run / "run.json").write_text("[]"), "has no settings"),
        (lambda run: (run / "tables" / "pairs.parquet").unlink(), "s2v-data run"),
        (lambda run: (run / "tables" / "pairs.parquet").write_text("x"), "s2v-data select"),
    ],
)
def test_a_folder_that_is_no_run_gets_one_clear_line(
    unwritten: Path, break_it: object, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    break_it(unwritten)  # type: ignore[operator]  # a lambda of the parameters
    with pytest.raises(RunFolderError):
        run_stats(unwritten)
    assert main(["stats", str(unwritten)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert said in err


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="no such run folder"):
        run_stats(tmp_path / "nowhere")


def test_the_command_prints_plain_text_into_a_pipe(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["stats", str(run)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "\x1b" not in out
    assert not set(out) & set("│┃━─╭")
    lines = {line.split("  ")[0].strip(): line for line in out.splitlines()}
    assert "near_copy_frame" in lines
    assert "conservation: holds" in out
    assert "<b>240</b> frames are declared, 120 are there" in out  # never cut


def test_json_is_all_the_command_prints_when_asked(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["stats", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == run_stats(run)


def test_names_from_strangers_do_not_reach_the_terminal_raw(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = hostile_world()
    world.rows["quarantine"][0]["message"] = "\x1b[31mred\x1b[0m [bold]loud[/bold] \u202eback"
    print_stats(run_stats(build_run(tmp_path, world, shards=False)))
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert "[bold]loud[/bold]" in out  # shown, not obeyed


def test_every_rule_has_a_sentence_for_readers() -> None:
    assert RULE_TEXT.keys() == set(RULES)


@given(st.integers(0, 10_000), st.integers(1, 10_000))
def test_a_share_never_says_all_of_less_or_none_of_some(part: int, whole: int) -> None:
    part = min(part, whole)
    said = share(part, whole)
    assert (said == "100 %") == (part == whole)
    assert (said == "0 %") == (part == 0)


@given(st.text())
def test_cleaned_text_has_no_control_characters(text: str) -> None:
    cleaned = clean(text)
    assert len(cleaned) == len(text)
    assert all(letter.isprintable() or letter in "\n\t" or letter.isspace() or ord(letter) > 0x9F
               for letter in cleaned)  # fmt: skip
    assert clean(cleaned) == cleaned
    cleaned.encode()


@given(st.lists(st.none() | st.floats(-1e6, 1e6)))
def test_a_spread_counts_what_was_not_measured(values: list[float | None]) -> None:
    found = spread(values)
    assert found["n"] + found["unmeasured"] == len(values)
    if found["n"]:
        assert found["min"] <= found["p05"] <= found["p50"] <= found["p95"] <= found["max"]
    else:
        assert found["p50"] is None


def test_moments_are_minutes_and_seconds() -> None:
    assert [moment(us) for us in (0, 59_900_000, 61_500_000)] == ["0:00.0", "0:59.9", "1:01.5"]
