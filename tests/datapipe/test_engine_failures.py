"""A fault of the machine stops a run with its cause and the way out, and costs no clip."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from engine_stages import DiesWhenLoadedStage, FaultyStage, LengthStage, clip, item
from PIL import Image

from s2v.datapipe import cutting
from s2v.datapipe.base.media import sandbox
from s2v.datapipe.base.media.errors import MediaError, MediaErrorKind
from s2v.datapipe.cli import guarded
from s2v.datapipe.engine import runner as runner_module
from s2v.datapipe.engine.attempts import Attempts
from s2v.datapipe.engine.errors import raise_failure
from s2v.datapipe.engine.execute import UnitFailedError
from s2v.datapipe.engine.runner import StageRun, UnitRunner
from s2v.datapipe.engine.stage import Row, Stage, Unit
from s2v.datapipe.engine.store import StageStore, StoreError
from s2v.datapipe.measure.frames import FrameStage
from s2v.datapipe.measure.sampling import FrameSettings
from s2v.datapipe.roles import RoleUnavailableError, WeightsError

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/part")


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_module, "FIRST_WAIT_S", 0.0)


def report_of(run: Path, stage: Stage, clips: list[Row], sources: list[Row]) -> dict[str, Row]:
    work = item("u", clips)
    work["tables"]["sources"] = sources
    batch = {"item": [json.dumps(work)], "report": ["{}"]}
    answer = UnitRunner(str(run), [StageRun(stage, "f")])(batch)
    report: dict[str, Row] = json.loads(answer["report"][0])
    return report


def said_by(failed: Row, capsys: pytest.CaptureFixture[str]) -> str:
    def run() -> int:
        raise_failure("unit u", failed)
        return 0

    assert guarded("s2v-data", run) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


def cut_job(run: Path, target: Path) -> Row:
    source = {"video_id": "a", "kind": "video", "path": str(run / "a.mp4"), "sha256": "0" * 64}
    span = {"start_us": 0, "end_us": 1_000_000, "crop": None}
    where = {"folder": str(run), "target": str(target), "encoding": {}}
    return {"clip_id": "a", "source": source, **span, **where}


def test_a_file_where_the_frames_belong_is_named_with_the_way_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "frames").write_text("not a folder")
    photo = tmp_path / "a.png"
    Image.new("RGB", (64, 48)).save(photo)
    times = {"start_us": 0, "end_us": 0}
    still = {**clip("a"), **times, "video_id": "v", "kind": "image"}
    sources = [{"video_id": "v", "path": str(photo)}]
    report = report_of(tmp_path, FrameStage(FrameSettings()), [still], sources)
    line = said_by(report["failed"], capsys)
    assert f"{tmp_path}/frames" in line
    assert "unit u" in line
    assert "run again; what was committed is kept" in line
    assert not StageStore(tmp_path, "frames", "f").commits("u")


def test_a_full_disk_is_called_that_and_leaves_the_unit_open(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = FaultyStage([FULL] * runner_module.TRIES)
    line = said_by(report_of(tmp_path, stage, [clip("a")], [])["failed"], capsys)
    assert "no space left for /data/part; free space and run again" in line
    assert not StageStore(tmp_path, "length", "f").commits("u")


def test_a_full_disk_that_a_decoder_saw_is_called_that_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = MediaError(MediaErrorKind.TRANSIENT, "a.mp4", f"OSError: {FULL}")
    stage = FaultyStage([seen] * runner_module.TRIES)
    line = said_by(report_of(tmp_path, stage, [clip("a")], [])["failed"], capsys)
    assert "no space left for a.mp4" in line


@pytest.mark.parametrize("passing", [FULL, ConnectionError("gone"), MemoryError()])
def test_a_fault_that_passes_costs_no_run(tmp_path: Path, passing: Exception) -> None:
    stage = FaultyStage([passing] * (runner_module.TRIES - 1))
    report = report_of(tmp_path, stage, [clip("a")], [])
    assert report["failed"]["kind"] == ""
    rows = StageStore(tmp_path, "length", "f").rows("u")
    assert [row["clip_id"] for row in rows["quality"]] == ["a"]


def test_a_damaged_store_never_puts_a_clip_in_quarantine(tmp_path: Path) -> None:
    report = report_of(tmp_path, FaultyStage([StoreError("tar is short")]), [clip("a")], [])
    assert report["failed"]["kind"] == "StoreError"
    with pytest.raises(UnitFailedError, match="tar is short; then run again"):
        raise_failure("unit u", report["failed"])


def test_a_cut_that_has_no_place_to_go_says_where_and_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "clips").write_text("not a folder")
    job = cut_job(tmp_path, tmp_path / "clips" / "key" / "a.mp4")
    answer = cutting._cut({"job": json.dumps(job)})  # what Ray maps over the jobs
    assert answer["message"] == ""  # not the clip's fault
    line = said_by(answer["failed"], capsys)
    assert f"{tmp_path}/clips" in line
    assert "run again" in line


def lives(run: Path, work: Row, stage: StageRun, session: str = "s") -> int:
    """Start processes for the unit, as Ray does, until one lives; return how many died."""
    for died in range(12):
        pid = os.fork()
        if not pid:
            batch = {"item": [json.dumps(work)], "report": ["{}"]}
            answer = UnitRunner(str(run), [stage], session=session)(batch)
            (run / "report.json").write_text(answer["report"][0])
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        if os.WIFEXITED(status):
            return died
    raise AssertionError("it never came to an end")


def test_a_row_that_kills_its_process_is_found_and_costs_no_other(tmp_path: Path) -> None:
    work = item("u", [clip(name) for name in "abcd"])
    died = lives(tmp_path, work, StageRun(LengthStage(fatal="c"), "f"))
    assert died == 4, "twice with the others, twice alone"
    rows = StageStore(tmp_path, "length", "f").rows("u")
    assert sorted(row["clip_id"] for row in rows["quality"]) == ["a", "b", "d"]
    assert [(row["id"], row["error"]) for row in rows["quarantine"]] == [("c", "worker_died")]
    assert not list(tmp_path.glob("measure/*/.*"))


def test_deaths_of_an_earlier_run_put_nothing_into_quarantine(tmp_path: Path) -> None:
    store = StageStore(tmp_path, "length", "f")
    note = Attempts(store.folder / ".u.attempts.tmp", "yesterday")
    for what in ("+whole", "+whole", "a", "a"):
        Attempts(note.path, "yesterday").begin(what)
    assert Attempts(note.path, "yesterday").deaths["a"] == 2
    assert lives(tmp_path, item("u", [clip("a")]), StageRun(LengthStage(), "f"), "today") == 0
    assert store.rows("u").get("quarantine", []) == []


def test_a_model_that_kills_its_process_while_it_loads_is_the_models_fault(tmp_path: Path) -> None:
    stage = StageRun(DiesWhenLoadedStage(tmp_path), "f", roles=("detector",))
    assert lives(tmp_path, item("u", [clip("a")]), stage) == 3
    failed = json.loads((tmp_path / "report.json").read_text())["failed"]
    with pytest.raises(UnitFailedError, match=r"roles\.detector: loading it killed its process 3"):
        raise_failure("unit u", failed)
    assert not StageStore(tmp_path, "length", "f").commits("u")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (WeightsError("/w/sam.pth: cut short"), "unit u: roles.detector: /w/sam.pth: cut short;"),
        (WeightsError("roles.detector: bad"), "unit u: roles.detector: bad;"),
        (RoleUnavailableError("http://x does not answer"), "roles.detector: http://x does not"),
    ],
)
def test_a_model_that_cannot_be_loaded_names_its_role_and_never_the_run_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], error: Exception, said: str
) -> None:
    class Unloadable(LengthStage):
        def setup(self) -> None:
            raise error

    batch = {"item": [json.dumps(item("u", [clip("a")]))], "report": ["{}"]}
    runner = UnitRunner(str(tmp_path), [StageRun(Unloadable(), "f", roles=("detector",))])
    line = said_by(json.loads(runner(batch)["report"][0])["failed"], capsys)
    assert said in line
    assert str(tmp_path) not in line


def test_a_source_that_cannot_be_cut_still_goes_to_quarantine(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("no film")
    job = cut_job(tmp_path, tmp_path / "clips" / "a.mp4")
    answer = cutting._cut({"job": json.dumps(job)})
    assert answer["failed"]["kind"] == ""
    assert "a.mp4" in answer["message"]


@pytest.mark.parametrize(
    "text",
    [
        "the model said no\nFailed to map after 1/1 attempts (total backoff 0.0s).\n{hint}",
        "ray::Map()\n  File 'x.py', line 1\nValueError: the model said no\n{hint}",
    ],
)
def test_what_a_worker_raised_is_shown_and_not_rays_advice(
    capsys: pytest.CaptureFixture[str], text: str
) -> None:
    from ray.exceptions import UserCodeException

    hint = "To change retry attempts, backoff, or which errors are retried, configure `x`"

    def run() -> int:
        raise UserCodeException("UDF failed") from ValueError(text.format(hint=hint))

    assert guarded("s2v-data", run) == 1
    line = capsys.readouterr().err
    assert "the model said no" in line
    assert "To change retry" not in line


def test_a_decoder_that_cannot_start_is_the_machines_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(MediaError, match="the media worker did not start") as caught:
        sandbox.Worker()
    assert caught.value.transient


def test_deleting_an_older_commit_costs_no_newer_one(tmp_path: Path) -> None:
    work = item("u", [clip("a", 5), clip("b", 50), clip("c", 60)])
    for longest in (10, 55):
        UnitRunner(str(tmp_path), [StageRun(LengthStage(longest=longest), "f")]).measure(work)
    store = StageStore(tmp_path, "length", "f")
    kept = {path: path.read_bytes() for path in store.folder.glob("u.001.*")}
    (store.folder / "u.000.json").unlink()
    UnitRunner(str(tmp_path), [StageRun(LengthStage(longest=100), "f")]).measure(work)
    assert sorted(row["clip_id"] for row in store.rows("u")["quality"]) == ["a", "b", "c"]
    assert {path: path.read_bytes() for path in store.folder.glob("u.001.*")} == kept
    assert len(kept) == 2


def test_commits_that_vanish_during_a_run_are_noticed(tmp_path: Path) -> None:
    first = item("u", [clip("a", 5), clip("b", 50)])
    UnitRunner(str(tmp_path), [StageRun(LengthStage(longest=10), "f")]).measure(first)
    commit = StageStore(tmp_path, "length", "f").folder / "u.000.json"

    class Deleting(LengthStage):
        def run(self, unit: Unit) -> dict[str, list[Row]]:
            commit.unlink()
            return super().run(unit)

    with pytest.raises(StoreError, match=r"do not cover 1 of its ids \(first: a\)"):
        UnitRunner(str(tmp_path), [StageRun(Deleting(), "f")]).measure(first)
