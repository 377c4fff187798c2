"""Before a run users want to know what it takes: calls, hours, bytes, and whether it fits."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2v.datapipe import pipeline
from s2v.datapipe.backends import registry
from s2v.datapipe.base.assets import asset
from s2v.datapipe.base.settings import SettingsError
from s2v.datapipe.cli import main
from s2v.datapipe.config import Settings
from s2v.datapipe.engine.pools import Need, Node
from s2v.datapipe.planning import doctor
from s2v.datapipe.planning.estimate import Estimate, StageEstimate, estimate
from s2v.datapipe.planning.plan import nodes_of
from s2v.datapipe.planning.rates import Cost, Rates, StageRate, of_run, shipped
from s2v.datapipe.planning.sizes import Done, Sizes
from s2v.datapipe.serving import make_roles

SETTINGS = Settings()
ROLES = make_roles(SETTINGS)
RUNS = pipeline.plan(SETTINGS, ROLES)
MODELS = pipeline.stage_models(ROLES)

#: Of every stage 100 clips, a quarter of them photographs; gates let 40 through to the models.
BEHIND_GATES = ("caption", "phrases", "detect", "check", "segment", "faces", "embed")
RATES = Rates(
    conditions="made up",
    source_seconds=150.0,
    clips=100,
    images=25,
    stages={
        name: StageRate(
            model=MODELS.get(name),
            ids=40 if name in BEHIND_GATES else 100,
            cpu_seconds=36.0,
            wall_seconds=72.0,
            bytes=1000,
            of_videos=Cost(75, 30.0, 60.0),
            of_images=Cost(25, 6.0, 12.0),
        )
        for name in RUNS
    },
    rows={"frames": 250, "captions": 40, "masks": 80, "embeddings": 60, "clips": 100},
    frame_bytes=10_000,
    clip_bytes=5_000,
    clips_encoded=10,
    shard_bytes=5_000,
)


def planned(
    hours: float, *, images: int = 0, nodes: tuple[Node, ...] = (Node(16),), **changed: Any
) -> Estimate:
    sizes = Sizes(videos=100, images=images, seconds=hours * 3600, known=50, unreadable=0)
    given: dict[str, Any] = {"runs": RUNS, "models": MODELS, "rates": RATES, **changed}
    return estimate(sizes=sizes, nodes=nodes, unit_clips=64, **given)


def row(made: Estimate, stage: str) -> StageEstimate:
    return next(one for one in made.stages if one.stage == stage)


@given(st.floats(1, 1e6))
def test_twice_the_film_is_planned_to_take_twice_the_hours_and_bytes(hours: float) -> None:
    once, twice = planned(hours), planned(2 * hours)
    assert twice.hours == pytest.approx(2 * once.hours, rel=0.02)
    assert twice.bytes["frames"] == pytest.approx(2 * once.bytes["frames"], rel=0.02)
    calls = {one.stage: one.calls for one in once.stages}
    for one in twice.stages:
        if calls[one.stage]:
            assert one.calls == pytest.approx(2 * calls[one.stage], rel=0.05, abs=2)


def test_what_gates_stop_is_neither_called_for_nor_paid_for() -> None:
    made = planned(1.0)
    assert made.clips == 1800, "75 clips of 150 s of video"
    assert row(made, "frames").to_do == 1800
    assert row(made, "caption").to_do == row(made, "caption").calls == 720
    assert row(made, "detect").calls == 1800, "2.5 frames of 40 %"
    for stage in ("frames", "caption"):
        assert row(made, stage).cpu_hours == pytest.approx(1800 / 100 * 36 / 3600)


def test_a_photograph_costs_what_photographs_cost_and_gives_one_clip() -> None:
    none, many = planned(1.0), planned(1.0, images=1000)
    assert many.clips - none.clips == 1000
    extra = row(many, "shots").cpu_hours - row(none, "shots").cpu_hours
    assert extra == pytest.approx(1000 * 6 / 25 / 3600)


def test_what_is_done_is_not_planned_again() -> None:
    measured = dict.fromkeys(RUNS, 1800) | dict.fromkeys(BEHIND_GATES, 300)
    done = Done(
        {**measured, "probe": 100, "shots": 100}, 1800, 0, 100, dict.fromkeys(RUNS, 1800), {}
    )
    made = planned(1.0, done=done)
    assert [one.to_do for one in made.stages] == [0] * len(made.stages)
    assert made.hours == 0
    assert sum(made.bytes.values()) == 0
    half = Done(done.measured, 1800, 0, 100, dict.fromkeys(RUNS, 900), {})
    caption = row(planned(1.0, done=half), "caption")
    assert caption.to_do == 300, "a third of the half that is left, as of the half that is done"


def test_a_stage_that_waits_for_a_gpu_or_a_server_takes_its_wall_time() -> None:
    one, asking = Need(actors=1), Need(actors=1, served=True)
    alone, served = ({**RUNS, "caption": replace(RUNS["caption"], need=n)} for n in (one, asking))
    gpu = {**RUNS, "detect": replace(RUNS["detect"], need=Need(gpus=1, actors=1))}
    waited = planned(10, nodes=(Node(64, 8),), runs=served).hours
    assert waited > 18_000 / 100 * 72 / 3600
    assert waited != planned(10, nodes=(Node(64, 8),), runs=alone).hours
    detect = row(made := planned(10, nodes=(Node(64, 8),), runs=gpu), "detect")
    assert detect.gpu_hours == pytest.approx(18_000 / 100 * 72 / 3600)
    assert made.hours > detect.gpu_hours, "one actor has all of it to do"


def test_servers_of_the_runs_own_are_counted_in_gpu_hours_and_kept_from_the_actors() -> None:
    made = planned(10, nodes=(Node(8, 2),), reserved=[Need(cpus=1, gpus=1)] * 2)
    assert made.servers is not None
    assert made.servers.gpu_hours == pytest.approx(
        2 * (made.hours - sum(row(made, n).cpu_hours for n in ("probe", "shots")) / 8)
    )
    assert made.placement.phases[0][0].actors == 6


def test_a_model_that_was_never_timed_gets_its_calls_counted_and_no_invented_hours() -> None:
    made = planned(1, models={**MODELS, "caption": "some-vlm"})
    caption = row(made, "caption")
    assert caption.calls == 720
    assert caption.cpu_hours is caption.gpu_hours is caption.bytes is None
    assert made.hours is None
    assert made.as_dict()["wall_hours"] is None


def test_the_shipped_rates_are_of_the_models_that_the_demo_uses() -> None:
    made = planned(1, rates=shipped())
    assert not [one.stage for one in made.stages if one.why]
    assert made.hours is not None
    assert made.clips > 100


def test_a_plan_is_refused_before_the_sources_are_looked_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "my.toml"
    sources = '[[sources]]\nfolder = "/no/such/folder"\n'
    for text, said in (
        ("[roles.detector]\ngpus = 2\n", r"stage detect: .*2 GPU.*1 machine .*1 GPUs"),
        ('[roles.detector]\ngpus = 0.5\n[engine]\nmode = "stream"\ncpus = 2\n', "does not fit"),
        ("[engine]\nactors = 99\n", r"engine\.actors = 99"),
        (
            '[roles.captioner]\nbackend = "vlm"\n[serve]\nmodel = "m"\ncount = 2\n',
            r"\[serve\]: 2 servers .* holds 1",
        ),
    ):
        config.write_text(sources + text, encoding="utf-8")
        assert main(["plan", "--config", str(config), "--cluster", "2cpu,1gpu"]) == 1
        line = capsys.readouterr().err
        assert re.search(said, line), line
        assert line.count("\n") == 1


def test_production_is_planned_on_a_machine_without_its_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "my.toml"
    config.write_text(
        f'folder = "{tmp_path}/run"\n[[sources]]\npath = "{asset("man-clip")}"\n'
        f'[roles.detector]\nbackend = "grounding_dino"\nweights = "{tmp_path}/gdino"\ngpus = 1\n'
    )
    words = ["plan", "--config", str(config), "--cluster", "8cpu,1gpu", "--quiet"]
    assert main([*words, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    detect = next(one for one in said["stages"] if one["stage"] == "detect")
    assert detect["model_calls"] is not None
    assert detect["gpu_hours"] is None
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "roles.detector" in out
    assert f"{tmp_path}/gdino: no such folder" in out.replace("\n", "")


def test_a_verifier_is_planned_by_the_pairs_that_passed_the_rules(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "my.toml"
    sources = f'folder = "{tmp_path}/run"\n[[sources]]\npath = "{asset("man-clip")}"\n'
    served = 'backend = "vlm"\nurls = ["http://127.0.0.1:9"]\nmodel = "m"\n'
    words = ["plan", "--config", str(config), "--cluster", "8cpu", "--quiet", "--json"]
    config.write_text(sources)
    assert main(words) == 0
    without = json.loads(capsys.readouterr().out)
    assert "verify" not in {one["stage"] for one in without["stages"]}
    config.write_text(f"{sources}[roles.verifier]\n{served}")
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    verify = next(one for one in found["stages"] if one["stage"] == "verify")
    assert verify["model"] == "vllm:m"
    pairs = round(shipped().passed_rules / shipped().clips * found["clips"])
    assert verify["model_calls"] == verify["to_do"] == pairs
    assert found["wall_hours"] is None, "nobody measured how fast it answers"
    measured = planned(10, rates=replace(RATES, passed_rules=50), models={**MODELS, "verify": "m"})
    assert row(measured, "verify").ids == round(0.5 * measured.clips)


def test_keys_of_a_plan_in_json_stay_as_they_are() -> None:
    made = planned(1, reserved=[Need(cpus=1)]).as_dict()
    assert sorted(made) == [
        "bytes", "clips", "phases", "rates_of", "servers", "sources", "stages", "wall_hours",
    ]  # fmt: skip
    assert sorted(made["sources"]) == ["hours", "images", "lengths_known", "unreadable", "videos"]
    assert sorted(made["stages"][0]) == [
        "bytes", "cpu_hours", "done", "gpu_hours", "ids", "missing", "model", "model_calls",
        "stage", "to_do",
    ]  # fmt: skip
    assert sorted(made["phases"][0][0]) == ["actors", "cpus", "gpus", "memory_gb", "stages"]
    assert sorted(made["servers"]) == ["count", "cpus", "gpu_hours", "gpus"]
    assert sorted(made["bytes"]) == ["clips_and_shards", "frames", "tables"]


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


@pytest.mark.ray
def test_the_doctor_starts_a_real_ray_and_gives_it_back() -> None:
    import ray

    found = doctor._ray()
    assert found.state == "ok", found.found
    assert not ray.is_initialized()


def test_the_doctor_names_every_model_that_is_missing_and_what_does_not_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "my.toml"
    config.write_text(
        f'folder = "{tmp_path}"\n[roles.detector]\nbackend = "grounding_dino"\ngpus = 8\n'
        f'weights = "{tmp_path}/gdino"\n[roles.faces]\nbackend = "insightface"\n'
        f'weights = "{tmp_path}/faces"\n[roles.captioner]\nbackend = "vlm"\n[serve]\n'
        f'model = "{tmp_path}/vlm"\n'
    )
    assert main(["doctor", "--config", str(config), "--no-ray", "--json"]) == 1
    findings = {f["check"]: f for f in json.loads(capsys.readouterr().out)}
    for check, words in (
        ("role detector", f"{tmp_path}/gdino: no such folder"),
        ("role faces", f"{tmp_path}/faces: no such folder"),
        ("servers of the run", f"{tmp_path}/vlm: no such folder"),
        ("pools", "1 GPU"),
    ):
        assert findings[check]["state"] == "failed"
        assert words in findings[check]["found"]
    assert findings["role captioner"]["state"] == "ok"
    assert findings["role embedder"]["state"] == "ok"
