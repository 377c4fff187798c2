"""Before a run users want to know what it takes: calls, hours, bytes, and whether it fits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2v.datapipe import pipeline
from s2v.datapipe.backends import registry
from s2v.datapipe.base.assets import asset
from s2v.datapipe.base.settings import SettingsError, load
from s2v.datapipe.cli import main
from s2v.datapipe.config import Settings
from s2v.datapipe.engine.pools import AdmissionError, Node
from s2v.datapipe.planning.estimate import Sizes, estimate
from s2v.datapipe.planning.plan import nodes_of
from s2v.datapipe.planning.rates import of_run, shipped
from s2v.datapipe.serving import make_roles

SETTINGS = Settings()
ROLES = make_roles(SETTINGS)
RUNS = pipeline.plan(SETTINGS, ROLES)
MODELS = pipeline.stage_models(ROLES)


def planned(tmp_path: Path, hours: float, nodes: list[Node] | None = None, **changed: str | None):  # type: ignore[no-untyped-def]  # a long type that says nothing here
    sizes = Sizes(videos=100, images=0, seconds=hours * 3600, known=50, unreadable=0)
    models = {**MODELS, **changed}
    return estimate(tmp_path, RUNS, models, sizes, shipped(), nodes or [Node(16)], unit_clips=64)


@given(st.floats(1, 1e6))
def test_twice_the_film_is_planned_to_take_twice_the_hours_and_bytes(hours: float) -> None:
    once, twice = planned(Path("/nowhere"), hours), planned(Path("/nowhere"), 2 * hours)
    assert twice.hours == pytest.approx(2 * once.hours, rel=0.02)
    assert twice.bytes["frames"] == pytest.approx(2 * once.bytes["frames"], rel=0.02)
    calls = {row.stage: row.calls for row in once.stages}
    for row in twice.stages:
        if calls[row.stage]:
            assert row.calls == pytest.approx(2 * calls[row.stage], rel=0.05, abs=2)


def test_the_shipped_rates_are_of_the_models_that_the_demo_uses(tmp_path: Path) -> None:
    made = planned(tmp_path, 1)
    assert not [row.stage for row in made.stages if row.why]
    assert made.hours is not None
    assert made.clips > 100


def test_a_model_that_was_never_timed_gets_its_calls_counted_and_no_invented_hours(
    tmp_path: Path,
) -> None:
    made = planned(tmp_path, 1, caption="some-vlm")
    caption = next(row for row in made.stages if row.stage == "caption")
    assert caption.calls == made.clips
    assert caption.cpu_hours is None
    assert "--rates" in caption.why
    assert made.hours is None


def test_a_plan_for_gpus_that_are_not_there_is_refused_with_the_numbers(tmp_path: Path) -> None:
    settings = load(Settings, None, ["roles.detector.gpus=2"])
    runs = pipeline.plan(settings, ROLES)
    sizes = Sizes(10, 0, 3600.0, 10, 0)
    with pytest.raises(AdmissionError, match=r"detect: .*2 GPU"):
        estimate(tmp_path, runs, MODELS, sizes, shipped(), [Node(64, 1)], unit_clips=64)


def test_a_cluster_to_be_is_read_as_it_is_written() -> None:
    nodes = nodes_of("2x16cpu,4gpu,256gb + 64cpu", SETTINGS)
    assert [(n.cpus, n.gpus, n.memory_gb) for n in nodes] == [
        (16, 4, 256), (16, 4, 256), (64, 0, float("inf")),
    ]  # fmt: skip
    with pytest.raises(SettingsError, match="8x16cpu"):
        nodes_of("sixteen", SETTINGS)


def test_rates_are_read_off_finished_runs_only(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="run it to its end"):
        of_run(tmp_path)


def test_dry_run_and_plan_print_the_same_and_measure_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "my.toml"
    config.write_text(
        f'folder = "{tmp_path}/run"\n[[sources]]\npath = "{asset("man-clip")}"\n', encoding="utf-8"
    )
    said = []
    for words in (["plan"], ["run", "--dry-run"]):
        assert main([*words, "--config", str(config), "--json", "--cluster", "4cpu"]) == 0
        said.append(json.loads(capsys.readouterr().out))
    assert said[0] == said[1]
    assert said[0]["sources"]["videos"] == 1
    assert not (tmp_path / "run" / "measure").exists()


def test_an_unknown_backend_names_the_nearest_known_one() -> None:
    with pytest.raises(SettingsError, match="did you mean 'grounding_dino'"):
        registry.fill("embedded", {"detector": ("grounding_dno", {})})
    with pytest.raises(SettingsError, match="cannot stay empty"):
        registry.fill("embedded", {"captioner": ("none", {})})
    with pytest.raises(SettingsError, match=r"roles\.faces.*unknown key"):
        registry.fill("embedded", {"faces": (None, {"weigths": "x"})})


def test_the_doctor_fails_with_the_way_out_when_a_model_cannot_be_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "my.toml"
    config.write_text(f'folder = "{tmp_path}"\n[roles.detector]\nbackend = "nothing"\n')
    assert main(["doctor", "--config", str(config), "--no-ray", "--json"]) == 1
    findings = {f["check"]: f for f in json.loads(capsys.readouterr().out)}
    assert findings["models"]["state"] == "failed"
    assert "nothing" in findings["models"]["found"]
    assert findings["decoder limits"]["state"] == "ok"
    assert findings["ffmpeg and decoders"]["state"] == "ok"
