"""A run to labels to bounds in a configuration, by the command line, on a small whole run."""

from __future__ import annotations

import csv
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from report_run import build_run

from s2v.datapipe.base.media.images import load_image
from s2v.datapipe.calibrate.pool import read_run
from s2v.datapipe.cli import main


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The planted film world: subjects of known identity, with stored frames."""
    return build_run(tmp_path_factory.mktemp("run"), shards=False)


def asked(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    """What a command prints as JSON."""
    assert main(["calibrate", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def label_by_score(run: Path, out: Path) -> tuple[Path, str]:
    """Labels of every pair of the largest pool: its upper half is right."""
    pools = read_run(run).pools
    name = max(pools, key=lambda key: len(pools[key].candidates))
    scores = [one.score for one in pools[name].candidates]
    cut = float(np.median(scores))
    rows = [
        [one.reference, one.target, "same" if one.score > cut else "different"]
        for one in pools[name].candidates
    ]
    with out.open("w", newline="") as handle:
        csv.writer(handle).writerows([["target", "reference", "label"], *rows])
    return out, name


def test_a_page_and_sheets_hold_every_pair_drawn(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = asked(capsys, "page", str(run), "--out", str(tmp_path), "--per", "14", "--sheets")
    for name, one in made.items():
        page = Path(one["page"])
        folder = page.parent / "sheets"
        with (folder / "pairs.csv").open() as handle:
            rows = list(csv.DictReader(handle))
        assert len(rows) == one["pairs"] == min(14, len(read_run(run).pools[name].candidates))
        assert [row["number"] for row in rows] == [str(n + 1) for n in range(len(rows))]
        assert one["sheets"] == -(-len(rows) // 12)
        assert load_image(folder / "sheet-01.jpg").std() > 10
        text = page.read_text(encoding="utf-8")
        stored = json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])  # type: ignore[index]
        shown = [[stored["subjects"][n][0] for n in pair] for pair in stored["pairs"]]
        assert shown == [[row["target"], row["reference"]] for row in rows]


def test_the_same_seed_writes_the_same_page(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bank = sorted(read_run(run).pools)[0]
    pages = []
    for name in ("a", "b"):
        words = ("page", str(run), "--out", str(tmp_path / name), "--bank", bank, "--per", "5")
        pages.append(Path(asked(capsys, *words)[bank]["page"]).read_bytes())
    assert pages[0] == pages[1]


def test_labels_become_bounds_in_the_configuration_and_a_page(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels, name = label_by_score(run, tmp_path / "labels.csv")
    config = tmp_path / "my.toml"
    config.write_text('folder = "runs/mine"  # mine\n')
    page = tmp_path / "report.html"
    made = asked(
        capsys, str(run), "--labels", str(labels), "--write", str(config), "--unsupported",
        "--report", str(page),
    )  # fmt: skip
    found = made["bounds"][name]
    assert found["proposed"]["precision"]["estimate"] == 1
    assert found["identity auc"]["estimate"] == 1
    pool = read_run(run).pools[name]
    section = tomllib.loads(config.read_text())
    for key in pool.bound.section:
        section = section[key]
    assert section["lower"] == found["proposed"]["lower"]
    assert section["upper"] == found["proposed"]["upper"]
    assert "# calibrated: " in config.read_text()
    assert "# mine" in config.read_text()
    text = page.read_text(encoding="utf-8")
    assert text.count("<svg") >= 4
    assert f"Around the lower bound {found['proposed']['lower']:g}" in text
    assert "http:" not in text.replace("http://www.w3.org", "")


def test_an_unsupported_bound_is_not_written_unasked(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels, name = label_by_score(run, tmp_path / "labels.csv")
    config = tmp_path / "my.toml"
    config.write_text("")
    words = (str(run), "--labels", str(labels), "--report", str(tmp_path / "r.html"),
             "--precision", "0.999", "--write", str(config))  # fmt: skip
    made = asked(capsys, *words)
    assert "do not support it" in made["written"][name]
    assert config.read_text() == ""


def test_a_pair_refused_one_way_counts_once_and_as_refused(run: Path) -> None:
    for pool in read_run(run).pools.values():
        assert len({one.key for one in pool.candidates}) == len(pool.candidates)
        rows = pq.read_table(run / "tables" / "pairs.parquet").to_pylist()
        own = {"below_lower", "above_upper", "face_mismatch", "face_too_similar",
               "living_across_sources_without_verified_face"}  # fmt: skip
        for one in pool.candidates:
            both = [
                set(row["rules"]) - own
                for row in rows
                if {row["target_subject_id"], row["reference_subject_id"]} == set(one.key)
            ]
            assert set(one.guards) == set().union(*both)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["calibrate", "{run}"], "give --labels"),
        (["calibrate", "page", "nowhere"], "no run.json"),
        (["calibrate", "{run}", "--labels", "gone.csv"], "gone.csv"),
        (["calibrate", "page", "{run}", "--bank", "car"], "no pairs of car"),
        (["calibrate", "one", "two"], "expected [page] RUN"),
        (["calibrate", "page", "{run}", "--per", "0"], "at least one pair"),
    ],
)
def test_what_is_wrong_is_one_line(
    run: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([word.format(run=run) for word in words]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
