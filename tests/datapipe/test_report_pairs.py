"""What the report says of pairs, verdicts and kinds of samples, against the run's tables."""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from page_reader import Page
from report_run import HOSTILE, SETTINGS, build_run, hostile_world, write_tables

from s2v.datapipe.base import records
from s2v.datapipe.base.ids import stable_hash
from s2v.datapipe.pair.evidence import RULES
from s2v.datapipe.pair.select import select
from s2v.datapipe.report.figures import figures
from s2v.datapipe.report.page import build_report
from s2v.datapipe.report.pair_cards import PairCards
from s2v.datapipe.report.pairs import doubt, make_accepted
from s2v.datapipe.report.refusals import BY_VERIFIER, NEAR_COPY, OTHER_SUBJECT
from s2v.datapipe.report.run import RunFolder
from s2v.datapipe.report.selected import STEPS

SAID = (("yes", "yes"), ("no", "yes"), ("yes", "no"), ("unsure", "yes"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose verifier was asked about every pair, and could not answer one of them."""
    folder = build_run(tmp_path_factory.mktemp("run"), world := hostile_world(), shards=False)
    tables = world.tables()
    said: dict[str, dict[str, Any]] = {}
    while True:
        tables["verdicts"] = records.table("verdicts", list(said.values()))
        made = select(tables, SETTINGS, verdicts=tables["verdicts"])
        subjects = {row["subject_id"]: row for row in made.subjects.to_pylist()}
        waiting = [row for row in made.pairs.to_pylist() if row["rules"] == ["not_verified"]]
        if not waiting:
            break
        for row in waiting:
            ends = [subjects[row[f"{side}_subject_id"]] for side in ("target", "reference")]
            one, other = sorted(ends, key=lambda end: end["detection_id"])
            key = stable_hash([one["detection_id"], other["detection_id"]])
            said.setdefault(key, _verdict(key, one, other, len(said)))  # one for both directions
    write_tables(folder, tables, made)
    return folder


def _verdict(key: str, one: dict[str, Any], other: dict[str, Any], n: int) -> dict[str, Any]:
    same, elsewhere = SAID[n % len(SAID)] if n else (None, None)
    return {
        "verdict_id": key,
        "target_detection_id": one["detection_id"],
        "reference_detection_id": other["detection_id"],
        "target_subject_id": one["subject_id"],
        "reference_subject_id": other["subject_id"],
        "class": one["class"],
        "verifier": "vllm:test",
        "prompt": f"verify_{one['class']}-1",
        "prompt_sha256": "0" * 64,
        "same_identity": same,
        "different_context": elsewhere,
        "note": f"{HOSTILE} reason {n}" if n else None,
        "attempts": 2 if n == 3 else 1,
        "reason": None if n else "quarantined: answer",
    }


@pytest.fixture(scope="module")
def opened(run: Path) -> RunFolder:
    return RunFolder(run)


@pytest.fixture(scope="module")
def html(run: Path) -> str:
    return build_report(run, run / "report.html").read_text()


def test_every_candidate_goes_at_one_step_or_is_accepted(opened: RunFolder) -> None:
    assert sorted(rule for rules in STEPS.values() for rule in rules) == sorted(RULES)
    found = figures(opened)["pairs"]
    steps = found["steps"]
    assert steps[0]["left"] == found["candidates"] == opened.tables["pairs"].num_rows
    assert steps[-1]["left"] == found["accepted"] > 0
    for before, after in pairwise(steps):
        assert before["left"] == after["left"] + after["lost"]
        assert after["left"] == sum(after["by_bank"].values())
        assert sum(after["reasons"].values()) >= after["lost"]
    names = [step["step"] for step in steps]
    assert names == ["candidates looked at", *list(STEPS)[: len(names) - 1]]
    lost = {step["step"]: step["lost"] for step in steps}
    assert lost["answered by the verifier"] == sum(
        "verdict_quarantined" in row["rules"] for row in opened.rows("pairs")
    )


def test_verdicts_are_counted_as_the_table_has_them(opened: RunFolder) -> None:
    by_class = figures(opened)["pairs"]["verdicts"]
    rows = opened.rows("verdicts")
    assert {name: one["asked"] for name, one in by_class.items()} == Counter(
        row["class"] for row in rows
    )
    for name, one in by_class.items():
        mine = [row for row in rows if row["class"] == name]
        assert sum(one["same_identity"].values()) + one["no_answer"] == one["asked"]
        assert one["passed"] == sum(
            (row["same_identity"], row["different_context"]) == ("yes", "yes") for row in mine
        )
    assert sum(one["no_answer"] for one in by_class.values()) == 1
    assert sum(one["repeated"] for one in by_class.values()) == 1


def test_the_verifiers_words_are_shown_as_words(html: str, opened: RunFolder) -> None:
    page = Page(html)
    notes = [text for text in page.text("blockquote") if "reason" in text]
    assert notes
    assert all(note.startswith(HOSTILE) for note in notes)
    assert "<script>document" not in html
    told = {row["note"] for row in opened.rows("verdicts")}
    assert set(notes) <= told
    # A refused pair shows which of the two answers refused it.
    refused = [text for text in page.text("article") if "does not say" in text]
    assert refused
    assert all(re.search(r"(no|unsure) fails", text) for text in refused)
    assert all("vllm:test, verify_" in text for text in refused)
    assert {NEAR_COPY, OTHER_SUBJECT, BY_VERIFIER}  # three kinds of cards, no rule in two
    assert not set(BY_VERIFIER) & {*NEAR_COPY, *OTHER_SUBJECT}


def test_accepted_pairs_come_class_by_class_the_doubtful_first(opened: RunFolder) -> None:
    accepted = [row for row in opened.rows("pairs") if row["accepted"]]
    made = make_accepted(opened, PairCards(opened), 1000, lambda size: size > 0)
    clips = {frozenset((r["target_clip_id"], r["reference_clip_id"])) for r in accepted}
    assert (len(made.cards), made.total) == (len(clips), len(accepted))
    heads = [Page(card).text("h4")[0] for card in made.cards]
    assert len(set(heads)) > 1
    assert set(heads[: len(set(heads))]) == set(heads), "the classes take turns"
    for row in accepted:
        own = opened.settings.pair.of(row["bank"])
        assert 0 <= doubt(opened, row) <= (own.upper - own.lower) / 2 + 1e-6
    few = make_accepted(opened, PairCards(opened), 1, lambda size: size > 0)
    assert few.cards == made.cards[:1]
    full = make_accepted(opened, PairCards(opened), 9, lambda size: size < 0)
    assert (full.cards, full.total) == ([], made.total)


def test_kinds_of_samples_add_up_to_the_samples(run: Path, opened: RunFolder, html: str) -> None:
    kinds = figures(opened)["samples"]["by_kind"]
    samples = pq.read_table(run / "tables" / "samples.parquet").to_pylist()
    assert {name: one["kept"] for name, one in kinds.items()} == Counter(
        row["scenario"] for row in samples
    )
    for name, one in kinds.items():
        mine = [row for row in samples if row["scenario"] == name]
        assert one["types"] == Counter(row["pair_type"] for row in mine)
    said = Page(html).text("th")
    assert all(name.replace("-", " ") in said for name in kinds)


def test_without_a_verifier_the_page_says_so_and_shows_no_verdict(tmp_path: Path) -> None:
    run = build_run(tmp_path, shards=False)
    found = figures(RunFolder(run))["pairs"]
    assert found["verdicts"] == {}
    assert not [step for step in found["steps"] if "verifier" in step["step"]]
    page = Page(build_report(run, run / "report.html").read_text())
    assert any("the rules alone decided" in text for text in page.text("p"))
    assert not page.text("blockquote")
