"""Exit codes that scripts rely on, and budgets that stop a run which loses too much."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from s2v.datapipe import measuring
from s2v.datapipe.base import records
from s2v.datapipe.cli import guarded, main
from s2v.datapipe.config import Settings
from s2v.datapipe.engine.stage import Row
from s2v.datapipe.engine.store import StageStore, StoreError
from s2v.datapipe.measuring import Item, Measuring, NothingUsableError, QuarantineBudgetError
from s2v.datapipe.serving import make_roles


def raising(error: BaseException) -> Callable[[], int]:
    def command() -> int:
        raise error

    return command


@pytest.mark.parametrize(
    "words",
    [[], ["run"], ["nonsense"], ["run", "--confg", "x"], ["plan", "--config"], ["verify"]],
)
def test_a_wrong_command_line_is_told_apart_from_a_failed_run(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    assert "usage: s2v-data" in capsys.readouterr().err


def test_a_run_that_was_stopped_by_hand_ends_with_130(capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded("s2v-data", raising(KeyboardInterrupt())) == 130
    assert "run the same command again" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error", [NothingUsableError("none of the 3 sources"), QuarantineBudgetError("too much")]
)
def test_every_known_failure_is_one_line_and_exit_code_one(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    assert guarded("s2v-data", raising(error)) == 1
    assert capsys.readouterr().err == f"s2v-data: {error}\n"


def test_every_failure_that_a_run_announces_is_known_to_the_command_line() -> None:
    for name, kind in vars(measuring).items():
        if isinstance(kind, type) and issubclass(kind, Exception) and name.endswith("Error"):
            assert guarded("s2v-data", raising(kind("said"))) == 1, name


def test_our_own_mistakes_keep_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        guarded("s2v-data", raising(ZeroDivisionError()))


def budgeted(tmp_path: Path, **budgets: float) -> Measuring:
    settings = Settings.model_validate({"folder": str(tmp_path), "engine": budgets})
    return Measuring(settings, make_roles(settings))


def refused(stage: str, names: list[str], error: str = "ValueError") -> Row:
    rows = [
        {"id": name, "stage": stage, "unit": "u", "error": error, "message": f"{name}: no"}
        for name in names
    ]
    return {"quarantine": records.table("quarantine", rows)}


def test_a_stage_that_loses_all_it_is_given_stops_the_run_whatever_gates_stopped(
    tmp_path: Path,
) -> None:
    """Of a hundred clips gates let four through, and the model fails on all of them."""
    ids = {"frames": {f"c{n}" for n in range(100)}, "detect": {"c1", "c2", "c3", "c4"}}
    run = budgeted(tmp_path, quarantine_budget=0.5)
    with pytest.raises(QuarantineBudgetError, match=r"detect: 4 of 4 .*ValueError: 4.*c1: no"):
        run._check_budget(ids, refused("detect", sorted(ids["detect"])))
    run._check_budget(ids, refused("detect", ["c1", "c2"]))
    with pytest.raises(QuarantineBudgetError, match="3 of 4"):
        run._check_budget(ids, refused("detect", ["c1", "c2", "c3"]))
    budgeted(tmp_path, quarantine_budget=1.0)._check_budget(
        ids, refused("detect", sorted(ids["detect"]))
    )


def test_a_single_bad_row_never_stops_a_run(tmp_path: Path) -> None:
    budgeted(tmp_path, quarantine_budget=0.0)._check_budget(
        {"caption": {"c1"}}, refused("caption", ["c1"])
    )


def test_a_row_quarantined_in_many_windows_counts_once(tmp_path: Path) -> None:
    ids = {"shots": {"film", "a", "b", "c"}}
    budgeted(tmp_path)._check_budget(ids, refused("shots", ["film"] * 30))


def test_files_that_are_not_there_stop_the_run_with_a_hint_at_the_mount(tmp_path: Path) -> None:
    items = [Item(f"u{n}", "video_id", [f"v{n}"], {}) for n in range(10)]
    run = budgeted(tmp_path, missing_budget=0.1)
    with pytest.raises(QuarantineBudgetError, match=r"2 of 10 sources are not there.*mounted"):
        run._check_missing(items, refused("probe", ["v1", "v2"], "missing"))
    run._check_missing(items, refused("probe", ["v1"], "missing"))
    run._check_missing(items, refused("probe", ["v1", "v2", "v3"], "corrupt"))


def test_units_whose_commits_lie_on_another_machine_are_missed_at_once(tmp_path: Path) -> None:
    """Without shared storage actors commit to disks of their own, and all looks done."""
    store = StageStore(tmp_path, "probe", "f")
    store.commit("u0", "video_id", ["v0"], {"probe": [{"video_id": "v0"}]}, 0)
    items = [Item(f"u{n}", "video_id", [f"v{n}"], {}) for n in range(2)]
    listed = StageStore.listed(tmp_path, "probe", "f")
    measuring._all_seen(listed, items[:1])
    with pytest.raises(StoreError, match=r"1 of 2 units have no commit here \(first: u1\).*share"):
        measuring._all_seen(listed, items)
