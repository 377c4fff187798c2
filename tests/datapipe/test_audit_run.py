"""The audit of a run: it finds what was planted, makes up nothing, and gives the same bytes."""

from __future__ import annotations

import csv
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from report_run import HOSTILE, build_run, hostile_world
from synthetic_tables import World
from synthetic_vectors import rng

from s2v.datapipe.audit.copies import Picture, fit
from s2v.datapipe.audit.draw import draw
from s2v.datapipe.audit.pairs import accepted_pairs
from s2v.datapipe.cli import main
from s2v.datapipe.report.run import RunFolder

FILES = ["audit.json", "blind.html", "labels.csv", "pairs.csv", "sheet.html"]


def detailed(name: str) -> np.ndarray:
    """A picture with enough to see in it, and never the same twice."""
    blocks = rng("detailed", name).integers(0, 256, (12, 20, 3), dtype=np.uint8)
    return np.ascontiguousarray(np.kron(blocks, np.ones((16, 16, 1), np.uint8)))


def world() -> World:
    made = hostile_world()
    for frame in made.pictures:
        made.pictures[frame] = detailed(frame)
    return made


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_run(tmp_path_factory.mktemp("run"), world(), shards=False)


def audit(run: Path, out: Path, *more: str) -> tuple[int, dict[str, Any]]:
    count = () if "--pairs" in more else ("--pairs", "6")
    code = main(["audit", str(run), "--out", str(out), "--quiet", *count, *more])
    return code, json.loads((out / "audit.json").read_text())


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as handle:
        return list(csv.DictReader(handle))


def write(path: Path, lines: list[dict[str, str]]) -> Path:
    with path.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    return path


def estimate(found: dict[str, Any], kind: str, fault: str, by: str) -> dict[str, Any]:
    (one,) = [
        e for e in found["estimates"] if (e["kind"], e["fault"], e["by"]) == (kind, fault, by)
    ]
    return dict(one)


def test_the_same_run_and_seed_give_the_same_bytes(run: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert audit(run, tmp_path / name)[0] == 0
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == FILES
    for name in FILES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_no_number_is_made_up_where_there_is_no_judge(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, found = audit(run, tmp_path)
    creatures = estimate(found, "animal", "wrong", "judges")
    assert creatures["share"]["estimate"] is None
    assert creatures["unjudged"] == creatures["drawn"] > 0
    assert "animal, wrong subject, judges: no judge; label" in capsys.readouterr().out
    drawn = [row for row in rows(tmp_path / "pairs.csv") if row["class"] != "human"]
    assert {row["judge_wrong"] for row in drawn} == {"no judge"}
    assert not [e for e in found["estimates"] if e["kind"] == "all" and e["fault"] == "wrong"]


def test_a_phrase_that_is_markup_stays_text(run: Path, tmp_path: Path) -> None:
    audit(run, tmp_path)
    for name in ("sheet.html", "blind.html"):
        page = (tmp_path / name).read_text()
        assert HOSTILE not in page
        assert "&lt;script&gt;document.title=" in page, "it is shown, as text"
        assert "default-src &#x27;none&#x27;" in page
        assert "http://" not in page.replace("http-equiv", "")
        assert "https://" not in page
    assert "<script" not in (tmp_path / "sheet.html").read_text()


def test_a_planted_near_copy_is_found_and_comes_first(tmp_path: Path) -> None:
    """Other hashes and vectors, the same pixels mirrored: what selection cannot see."""
    made = world()
    samples = build_run(tmp_path / "plain", made, shards=False) / "tables" / "samples.parquet"
    cross = [r for r in pq.read_table(samples).to_pylist() if r["pair_type"] == "cross"]
    ref = min((s["references"][0] for s in cross), key=lambda r: str(r["detection_id"]))
    source = next(
        r["frame_id"] for r in made.rows["detections"] if r["detection_id"] == ref["detection_id"]
    )
    target = next(
        r["frame_id"] for r in made.rows["detections"] if r["subject_id"] == ref["subject_id"]
    )
    made.pictures[target] = np.ascontiguousarray(made.pictures[source][:, ::-1] // 4 * 3 + 20)
    run = build_run(tmp_path / "copied", made, shards=False)
    code, found = audit(run, tmp_path / "out", "--max-copies", "0.01", "--pairs", "400")
    assert code == 1
    assert found["budgets"][0]["state"] == "exceeded"
    copied = [row for row in rows(tmp_path / "out" / "pairs.csv") if row["judge_copy"] == "yes"]
    assert copied
    shown = {(row["target_subject_id"], row["reference_subject_id"]) for row in copied}
    assert (ref["subject_id"], ref["reference_subject_id"]) in shown
    page = (tmp_path / "out" / "sheet.html").read_text()
    assert page.index("the frames lie on each other, mirrored") < page.index("no copy</b>")
    assert estimate(found, "all", "copy", "judges")["share"]["hits"] == len(copied)
    # A person who looked at one other pair does not outvote the judge, who looked at all.
    kind = copied[0]["class"]
    judged = [row for row in rows(tmp_path / "out" / "pairs.csv") if row["class"] == kind]
    fine = next(row for row in judged if row["judge_copy"] == "no")
    label = {"pair_id": fine["pair_id"], "same_subject": "", "near_copy": "no"}
    path = write(tmp_path / "one.csv", [label])
    told = ("--max-copies", "0", "--pairs", "400", "--labels", str(path))
    code, found = audit(run, tmp_path / "out", *told)
    assert code == 1
    assert found["budgets"][0]["state"] == "exceeded"


def test_what_people_label_stands_beside_the_judges_and_decides_the_budget(
    run: Path, tmp_path: Path
) -> None:
    code, found = audit(run, tmp_path, "--max-wrong", "0.2")
    assert code == 1, "a limit that nobody checked is not kept"
    assert found["budgets"][0]["state"] == "unknown"
    blank = rows(tmp_path / "labels.csv")
    ids = [row["pair_id"] for row in blank]
    assert ids == sorted(ids), "an order that says nothing of the verdicts"
    good = [{**row, "same_subject": "yes", "near_copy": "no"} for row in blank]
    path = write(tmp_path / "good.csv", good)
    code, found = audit(run, tmp_path, "--max-wrong", "0.2", "--labels", str(path))
    assert code == 0
    assert found["budgets"][0] | {"state": "met", "shown": False} == found["budgets"][0]
    people = estimate(found, "animal", "wrong", "people")
    assert people["share"]["hits"] == 0
    assert people["share"]["three_over_n"] > 0.2, "too few pairs to show it, and it says so"
    assert estimate(found, "animal", "wrong", "judges")["share"]["judged"] == 0
    bad = [{**row, "same_subject": "No", "near_copy": ""} for row in good]
    path = write(tmp_path / "bad.csv", bad)
    code, found = audit(run, tmp_path, "--max-wrong", "0.2", "--labels", str(path))
    assert code == 1
    assert estimate(found, "animal", "wrong", "people")["share"]["estimate"] == 1.0
    assert [e for e in found["estimates"] if e["by"] == "people" and e["fault"] == "copy"] == []


def test_two_people_are_merged_and_where_they_differ_it_is_said(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    audit(run, tmp_path)
    blank = rows(tmp_path / "labels.csv")
    ann = write(tmp_path / "ann.csv", [{**row, "same_subject": "yes"} for row in blank])
    said = [{**row, "same_subject": "no" if n == 0 else "yes"} for n, row in enumerate(blank)]
    bob = write(tmp_path / "bob.csv", said)
    name = blank[0]["pair_id"]
    code, found = audit(run, tmp_path, "--labels", str(ann), "--labels", str(bob))
    assert code == 0
    assert found["disputed"] == {name: {"wrong": {str(ann): "no", str(bob): "yes"}}}
    assert found["labels"] == {"pairs": len(blank), "in this sample": len(blank)}
    people = estimate(found, blank[0]["class"], "wrong", "people")
    assert (people["unsure"], people["share"]["hits"]) == (1, 0)
    assert people["at_worst"] > 0
    assert f"people differ on {name}" in capsys.readouterr().out
    page = (tmp_path / "sheet.html").read_text()
    assert "people differ: " in page
    assert "People differ on 1 pairs" in page
    assert main(["audit", str(run), "--labels", str(ann), "--labels", str(ann)]) == 1
    assert "given twice" in capsys.readouterr().err


def test_labels_that_lie_in_the_folder_are_never_written_over(run: Path, tmp_path: Path) -> None:
    audit(run, tmp_path, "--pairs", "2")
    filled = [{**row, "same_subject": "yes"} for row in rows(tmp_path / "labels.csv")]
    kept = write(tmp_path / "labels.csv", filled).read_bytes()
    audit(run, tmp_path)
    assert (tmp_path / "labels.csv").read_bytes() == kept
    fresh = {row["pair_id"] for row in rows(tmp_path / "labels-new.csv")}
    assert fresh
    assert not fresh & {row["pair_id"] for row in filled}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pair_id,same_subject,near_copy\np1,maybe,\n", "line 2: same_subject is 'maybe'"),
        ("pair_id,same_subject\np1,yes\n", r"no column \['near_copy'\]"),
        ("pair_id,same_subject,near_copy\np1,yes,\np1,no,\n", "line 3: pair 'p1' was labelled"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"pair_id,same_subject,near_copy\np1," + b"x" * 200_000 + b",\n", "line"),
    ],
)
def test_a_label_that_cannot_be_read_is_named(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | bytes, said: str
) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    code = main(["audit", str(run), "--labels", str(path), "--out", str(tmp_path / "o")])
    error = capsys.readouterr().err
    assert code == 1
    assert str(path) in error
    assert len(error.splitlines()) == 1
    assert re.search(said, error)


@pytest.mark.parametrize(
    ("damage", "said"), [("gone", "frames are missing"), ("cut", "cut short"), ("noise", "damaged")]
)
def test_frames_that_are_gone_or_damaged_stop_the_audit_with_the_way_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str, said: str
) -> None:
    run = build_run(tmp_path / "run", world(), shards=False)
    tar = run / "frames" / "all.tar"
    whole = tar.read_bytes()
    if damage == "gone":
        tar.unlink()
    else:
        tar.write_bytes(whole[:4096] if damage == "cut" else b"\x07" * len(whole))
    assert main(["audit", str(run), "--out", str(tmp_path / "o"), "--quiet"]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert str(tar) in error
    assert "to make it again" in error
    assert not (tmp_path / "o").exists(), "nothing half-judged is left"


def test_a_run_without_cross_pairs_and_a_limit_out_of_range_say_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = build_run(tmp_path / "run", world(), shards=False)
    assert main(["audit", str(run), "--max-wrong", "5"]) == 1
    assert "--max-wrong 5.0" in capsys.readouterr().err
    path = run / "tables" / "samples.parquet"
    samples = pq.read_table(path)
    kept = [row for row in samples.to_pylist() if row["pair_type"] == "in"]
    pq.write_table(pa.Table.from_pylist(kept, schema=samples.schema), path)
    assert main(["audit", str(run)]) == 1
    assert "no cross pair was accepted" in capsys.readouterr().err


def test_without_dlib_faces_have_no_judge_and_the_page_says_what_is_missing(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "dlib", None)
    _, found = audit(run, tmp_path)
    assert "dlib is not installed" in found["judges"]["wrong, faces"]
    assert estimate(found, "human", "wrong", "judges")["share"]["estimate"] is None


def test_a_larger_sample_holds_the_smaller_ones_pairs(run: Path) -> None:
    pairs = accepted_pairs(RunFolder(run), "accepted")
    assert len(pairs) > 8
    for seed in range(3):
        drawn = {count: draw(pairs[::-1], count, seed) for count in (3, 6, len(pairs))}
        names = {count: {p.pair_id for p in one.pairs} for count, one in drawn.items()}
        assert names[3] < names[6] < names[len(pairs)]
        assert draw(pairs, 6, seed) == drawn[6], "whatever the order of the tables"
        part = drawn[6]
        weight = sum(part.weight(pair) for pair in part.pairs)
        met = {pair.stratum for pair in part.pairs}
        assert weight == pytest.approx(sum(part.population[stratum] for stratum in met))
    assert {p.pair_id for p in draw(pairs, 6, 0).pairs} != {
        p.pair_id for p in draw(pairs, 6, 7).pairs
    }


@pytest.mark.parametrize("turned", [False, True])
def test_a_cut_scaled_and_brightened_copy_is_told_from_another_picture(turned: bool) -> None:
    whole = detailed("whole")
    copy = np.clip(whole[30:, 40:].astype(int) * 1.2 + 10, 0, 255).astype(np.uint8)
    copy = np.ascontiguousarray(copy[::2, ::2][:, :: -1 if turned else 1])
    found = fit(Picture(whole), Picture(copy))
    assert found.matches >= 15
    assert found.correlation > 0.5
    assert found.mirrored == turned
    other = fit(Picture(whole), Picture(detailed("another")))
    assert other.matches < 15 or other.correlation < 0.3
    blank = np.full((100, 100, 3), 200, np.uint8)
    assert fit(Picture(whole), Picture(blank)).matches == 0
