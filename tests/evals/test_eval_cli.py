"""What a person at the terminal sees: results on stdout, one line for an error, right status."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from s2v.evals.cli import main


def motion_run(study: Any, out: Path) -> list[str]:
    """Motion needs no weights; its measurements are shared between these tests."""
    cache = ["--cache", str(study.shared_cache)]
    return ["run", str(study.manifest), "--out", str(out), "--suite", "motion", *cache]


def test_run_prints_the_table_and_keeps_the_published_rows_apart(
    study: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(motion_run(study, tmp_path / "o")) == 0
    captured = capsys.readouterr()
    ours, published = captured.out.split("Published by others")
    assert "Motion magnitude (Farneback)" in ours
    assert "toy" in ours
    assert "dynamic_degree" in published
    assert "check: 4/4" in captured.err
    assert "evaluate: 4/4" in captured.err


def test_json_goes_alone_to_stdout(
    study: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = motion_run(study, tmp_path / "o")
    assert main([*arguments, "--limit", "2", "--json", "--no-progress"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    found = json.loads(captured.out)
    assert found == json.loads((tmp_path / "o" / "summary.json").read_text())
    assert found["partial"] is True
    assert found["schema"] == "s2v-eval-summary/1"


def test_a_partial_result_is_marked_in_the_table(
    study: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = motion_run(study, tmp_path / "o")
    assert main([*arguments, "--limit", "1"]) == 0
    assert capsys.readouterr().out.startswith("PARTIAL: 1 of 4 samples")


def test_validate_lists_every_problem_and_fails(
    study: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["validate", str(study.manifest)]) == 0
    assert "4 of 4 samples can be scored" in capsys.readouterr().out
    (study.root / "videos" / "a-1.mp4").unlink()
    (study.root / "videos" / "b-1.mp4").write_text("no video")
    assert main(["validate", str(study.manifest), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [p["kind"] for p in found["problems"]] == ["video_missing", "video_not_media"]
    assert (found["usable"], found["extra"]) == (2, [])


def test_a_video_that_no_line_names_is_noticed_before_anything_is_measured(
    study: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = study.root / "videos" / "a-1 (1).MP4"
    more.write_bytes((study.root / "videos" / "a-1.mp4").read_bytes())
    (study.root / "videos" / "notes.txt").write_text("no video")
    assert main(["validate", str(study.manifest)]) == 1
    assert "extra: videos/a-1 (1).MP4: no line" in capsys.readouterr().out
    arguments = ["run", str(study.manifest), "--out", str(tmp_path), "--suite", "motion"]
    assert main([*arguments, "--no-progress", "--limit", "1"]) == 0
    assert "no line names videos/a-1 (1).MP4" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "{root}/absent.jsonl", "--out", "{out}"], "absent.jsonl: cannot read"),
        (["run", "{root}/refs/r.png", "--out", "{out}"], "not a UTF-8 text file"),
        (["run", "{m}", "--out", "{out}", "--suite", "ligth"], "did you mean 'light'?"),
        (["run", "{m}", "--out", "{out}", "--limit", "-1"], "at least one sample"),
        (["run", "{m}", "--out", "{m}", "--suite", "motion"], "manifest.jsonl: is a file; --out"),
        (["report", "{root}", "--out", "{root}"], "summary.json: No such file"),
        (["leaderboard", "--split", "zzz"], "contains 'zzz'; known: "),
        (["validate", "{root}"], "cannot read the manifest: Is a directory"),
        (["compare", "{root}", "{root}"], "summary.json: No such file"),
        (["ls", "facesim.light.dlob"], "did you mean 'facesim.light.dlib'?"),
    ],
)
def test_wrong_input_is_one_clear_line_and_status_one(
    study: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    names = {"root": study.root, "m": study.manifest, "out": tmp_path / "o"}
    assert main([a.format(**names) for a in arguments]) == 1
    lines = [x for x in capsys.readouterr().err.splitlines() if "error:" in x]
    assert len(lines) == 1
    assert message in lines[0]


def test_missing_weights_are_named_before_a_frame_is_decoded(
    study: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("S2V_ASSETS", str(tmp_path / "empty"))
    arguments = ["run", str(study.manifest), "--out", str(tmp_path / "o"), "--no-progress"]
    assert main([*arguments, "--suite", "subjectsim.light.mobilenet"]) == 1
    err = capsys.readouterr().err
    assert "'mobilenet-v2' is missing" in err
    assert "s2v-data assets fetch" in err
    assert err.count("\n") == 1


def test_a_full_disk_is_an_error_not_a_traceback(
    study: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    # Where a full disk shows itself at the latest; the disk itself is not ours to fill.
    monkeypatch.setattr(os, "fsync", no_space)
    arguments = ["run", str(study.manifest), "--out", str(tmp_path / "o"), "--suite", "motion"]
    assert main([*arguments, "--no-progress"]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"s2v-eval: error: {tmp_path / 'o'}/")  # the file that did not fit
    assert ": No space left on device; free some space" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "o" / "summary.json").exists()


def test_compare_prints_the_change_with_its_doubt(
    study: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one", "two"):
        assert main([*motion_run(study, tmp_path / name), "--no-progress"]) == 0
    capsys.readouterr()
    both = [str(tmp_path / "one"), str(tmp_path / "two")]
    assert main(["compare", *both]) == 0
    out = capsys.readouterr().out
    assert "4 over 3 refs" in out
    assert "too few references to show any difference (six at least): motion.light" in out
    assert main(["compare", *both, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["differences"][0]["difference"] == 0
    assert found["differences"][0]["metric"]["protocol"] == "motion.light.farneback"


def test_ls_says_what_each_protocol_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ls"]) == 0
    out = capsys.readouterr().out
    assert "facesim.light.dlib (version 2)" in out
    assert "not ViCLIP-T" in out
    assert main(["ls", "faces", "--json"]) == 0
    names = [s["protocol"] for s in json.loads(capsys.readouterr().out)]
    assert names == [
        "facesim.light.dlib", "facesim.light.sface", "identity.light.dlib", "identity.light.sface",
    ]  # fmt: skip


def test_an_interrupted_run_says_how_to_go_on(
    study: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("s2v.evals.media.read_frames", interrupted)
    arguments = ["run", str(study.manifest), "--out", str(tmp_path / "o"), "--suite", "motion"]
    assert main([*arguments, "--no-progress"]) == 130
    assert "the same command goes on where it was" in capsys.readouterr().err


def test_wrong_usage_is_status_two() -> None:
    with pytest.raises(SystemExit) as caught:
        main(["run"])
    assert caught.value.code == 2


def test_the_installed_program_stops_quietly_when_its_reader_does() -> None:
    program = Path(sys.executable).with_name("s2v-eval")
    reader, writer = os.pipe()
    os.close(reader)
    broken = subprocess.run(
        [str(program), "ls"], stdout=writer, stderr=subprocess.PIPE, check=False, timeout=60
    )
    os.close(writer)
    assert (broken.returncode, broken.stderr) == (0, b"")
