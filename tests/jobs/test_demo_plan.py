"""A plan made with the demo's own rates says what the demo took, and of a finished run nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from finished_run import ROOT, Run

from s2v.datapipe.cli import main

pytestmark = [pytest.mark.ray, pytest.mark.assets]


def planned(demo: Run, folder: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    manifest = demo.folder.parent / "input" / "manifest.jsonl"
    code = main(
        [
            *("plan", "--json", "--config", str(ROOT / "jobs/configs/demo.toml")),
            *("--set", f"folder={folder}", "--set", f'sources=[{{manifest="{manifest}"}}]'),
            *("--rates", str(demo.folder), "--cluster", "2cpu"),
        ]
    )
    assert code == 0
    made: dict[str, Any] = json.loads(capsys.readouterr().out)
    return made


def test_a_finished_run_has_nothing_left_to_do(
    demo: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    made = planned(demo, demo.folder, capsys)
    assert {stage["stage"]: stage["to_do"] for stage in made["stages"]} == {
        stage["stage"]: 0 for stage in made["stages"]
    }
    assert made["clips"] == len(demo.rows("clips"))
    assert made["wall_hours"] == 0
    assert set(made["bytes"].values()) == {0}


def test_the_plan_of_the_same_again_is_what_it_took(
    demo: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = planned(demo, tmp_path / "run", capsys)
    assert made["clips"] == pytest.approx(len(demo.rows("clips")), rel=0.1)
    commits = [json.loads(path.read_text()) for path in demo.folder.glob("measure/*/*.json")]
    took = sum(commit["cpu_seconds"] for commit in commits) / 3600
    assert sum(s["cpu_hours"] for s in made["stages"]) == pytest.approx(took, rel=0.1)
    captions = next(s for s in made["stages"] if s["stage"] == "caption")
    assert captions["model_calls"] == pytest.approx(len(demo.rows("captions")), rel=0.1)
    # Stills that the scan kept, and the frames of what it did not serve.
    tars = [*demo.folder.glob("stills/*.tar"), *demo.folder.glob("frames/*.tar")]
    frames = sum(path.stat().st_size for path in tars)
    assert made["bytes"]["frames"] == pytest.approx(frames, rel=0.1)
