"""Ablations: the same questions for every variant, a table that says how sure, and going on."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import ablate
import pytest
import scores
import train
from ablate_report import COLUMNS, Row, markdown, scatter
from finished_run import ROOT

from s2v.datapipe.base.assets import AssetMissing


def drawing() -> ModuleType:
    """The drawn shards of the model's tests."""
    spec = importlib.util.spec_from_file_location("drawn", ROOT / "tests/model/conftest.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two identities, in- and cross-pairs, two held out."""
    draw = drawing()
    samples = [draw.Drawn(i, n) for i in range(2) for n in range(2)]
    samples += [draw.Drawn(i, n, pair="cross") for i in range(2) for n in range(2)]
    samples += [draw.Drawn(i, 50, heldout=True) for i in range(2)]
    return Path(draw.write_shards(tmp_path_factory.mktemp("ablate"), samples))


def test_a_variant_is_the_base_a_recipe_over_it_or_overrides() -> None:
    found = ablate.variants("base,no_clip,long:train.steps=9;optim.lr=1e-3", "ci_tiny", ["a.b=1"])
    assert [(v.name, v.recipe, v.overrides) for v in found] == [
        ("base", "ci_tiny", ("a.b=1",)),
        ("no_clip", "ci_tiny+no_clip", ("a.b=1",)),
        ("long", "ci_tiny", ("a.b=1", "train.steps=9", "optim.lr=1e-3")),
    ]
    for wrong in ("base,base", "../x", ""):
        with pytest.raises(SystemExit, match="ablate: --variants"):
            ablate.variants(wrong, "ci_tiny", [])


def row(name: str, paste: dict[str, float]) -> Row:
    scores = {"copy.light.paste": paste, "subjectsim.light.mobilenet.seg": paste}
    return Row(name, scores, {question: question.partition("-s")[0] for question in paste}, None)


def test_a_difference_is_paired_by_question_and_bold_only_where_it_is_sure() -> None:
    one = row("base", {f"q{n}": 0.1 * n for n in range(8)})
    more = row("more", {f"q{n}": 0.1 * n + 0.2 for n in range(1, 9)})
    unsure = row("unsure", {f"q{n}": 0.1 * n + (0.2 if n % 2 else -0.2) for n in range(8)})
    found = more.beyond(one, "copy.light.paste")
    assert found is not None
    sure = found.difference
    assert (sure.estimate, sure.low, sure.high) == pytest.approx((0.2, 0.2, 0.2))
    text = markdown([one, more, unsure], one)
    assert "**+0.200 [+0.200, +0.200] (7)**" in text  # of eight questions seven are common
    assert text.count("**+") == 2  # of one variant, in two columns
    assert more.mean("facesim.light.dlib") is None
    svg = ElementTree.fromstring(scatter([one, more, unsure]))  # noqa: S314 - we made it
    assert [e.text for e in svg.iter() if e.text in ("base", "more", "unsure")] == [
        "base", "more", "unsure",
    ]  # fmt: skip


def test_one_reference_has_no_interval_and_chance_among_many_columns_is_not_bold() -> None:
    one = row("base", {"q-s0": 0.5, "q-s1": 0.7})
    other = row("other", {"q-s0": 0.6, "q-s1": 0.9})
    assert "| other | 0.750<br>+0.150 |" in markdown([one, other], one)
    # Six references: p is 1 in 32 for a column alone, twice that for two of them.
    base = row("base", {f"q{n}": 0.1 * n for n in range(6)})
    more = row("more", {f"q{n}": 0.1 * n + 0.2 for n in range(6)})
    assert more.sure(base) == pytest.approx(dict.fromkeys(more.scores, 0.0625))
    assert "**" not in markdown([base, more], base)
    # No interval says what cannot be: a correlation below nothing.
    few = row("few", {"a": 0.0, "b": 0.0, "c": 0.9})
    found = few.mean("copy.light.paste")
    assert found is not None
    assert found.low == 0.0
    assert found.high == 1.0


@pytest.mark.assets
def test_variants_are_trained_sampled_and_tabled_and_a_second_start_does_nothing(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    arguments = [
        "--shards", str(shards), "--out", str(tmp_path), "--base", "ci_tiny", "--variants",
        "base,in_only", "--set", "train.steps=3", "--limit", "1", "--seeds", "0,1", "--quiet",
        "--json",
    ]  # fmt: skip
    assert ablate.main(arguments) == 0
    first = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [r["name"] for r in first["rows"]] == ["base", "in_only", "real clips"]
    for line in first["rows"][:2]:
        assert line["copy.light.paste"]["n"] == 2  # one question, two seeds
        assert line["swapped_minus_right"] is not None
    assert first["rows"][2]["copy.light.paste"]["n"] == 1
    assert (tmp_path / "ablation.svg").is_file()
    assert "in_only" in (tmp_path / "ablation.md").read_text()

    def never(*_: object) -> None:
        raise AssertionError("what is done is done again")

    for name in ("_train", "_heldout", "_scores"):
        monkeypatch.setattr(ablate, name, never)
    assert ablate.main(arguments) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == first


def test_every_column_is_a_protocol_that_is_measured() -> None:
    from s2v.evals.metrics import protocols

    assert {protocol for protocol, _ in COLUMNS} <= set(protocols(scores.SUITE))


@pytest.mark.assets
def test_the_trainer_gets_scores_of_its_samples_from_here(
    shards: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "--shards", str(shards), "--out", str(tmp_path / "run"), "--recipe", "ci_tiny", "--quiet",
        "--set", "train.steps=2", "--set", "validation.sample_every=2", "--set",
        "validation.samples=1",
    ]  # fmt: skip
    assert train.main(arguments) == 0, capfd.readouterr().err
    last = json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[-1])
    assert {"copy.light.paste", "copy.light.paste/in"} <= set(last["scores"])


def test_missing_weights_are_said_before_the_first_step(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(name: str) -> Path:
        raise AssetMissing(f"{name}: not here; run s2v-data assets fetch")

    monkeypatch.setattr(scores, "asset", missing)
    arguments = ["--shards", "none", "--out", str(tmp_path), "--recipe", "ci_tiny"]
    assert train.main([*arguments, "--set", "validation.sample_every=2"]) == 2
    assert "assets fetch" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
