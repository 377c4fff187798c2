"""Wrong input gives one clear line and a non-zero exit, never a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from s2v.datapipe.cli import guarded, main


def config(tmp_path: Path, text: str) -> str:
    path = tmp_path / "c.toml"
    path.write_text(f'folder = "{tmp_path / "run"}"\n{text}')
    return str(path)


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) != 0
    err = capsys.readouterr().err
    assert "Traceback" not in err
    lines = [line for line in err.splitlines() if line.startswith("s2v-data:")]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.assets
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[[sources]]\nfolder = "/nowhere"', ("/nowhere", "no such folder")),
        ('[[sources]]\nmanifest = "/nowhere.csv"', ("/nowhere.csv", "no such manifest")),
        ("", ("no videos or images found", "[[sources]]")),
        ("[shots]\nmax_second = 3", ("shots.max_second", "did you mean 'max_seconds'")),
        ("[shots]\nmax_seconds = 'x'", ("shots.max_seconds", "'x'")),
        ("[shots]\nmax_seconds = ", ("not valid TOML",)),
        ('[[sources]]\npath = "a.mp4"\nvideo_id = "a b"', ("'a b'", "[A-Za-z0-9_-]")),
        ('[[sources]]\npath = "a.mp4"\nfolder = "b"', ("exactly one of path, folder, manifest",)),
    ],
)
def test_a_wrong_configuration_names_the_value_and_the_way_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, words: tuple[str, ...]
) -> None:
    line = complaint(capsys, "run", "--config", config(tmp_path, text))
    for word in words:
        assert word in line


def test_a_missing_configuration_file_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert "nowhere.toml: no such" in complaint(capsys, "run", "--config", "nowhere.toml")


def test_missing_weights_name_their_role_and_the_command_that_fetches_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("S2V_ASSETS", str(tmp_path / "empty"))
    line = complaint(capsys, "run", "--config", config(tmp_path, "[[sources]]\npath='a.mp4'"))
    assert "s2v-data assets fetch" in line


def test_two_files_with_one_id_are_both_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_text(name)
    rows = "\n".join(
        f'[[sources]]\npath = "{tmp_path / name}"\nvideo_id = "same"' for name in ("a.mp4", "b.mp4")
    )
    line = complaint(capsys, "run", "--config", config(tmp_path, rows))
    assert "a.mp4" in line
    assert "b.mp4" in line


def test_selecting_before_measuring_says_what_to_run_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.mp4").write_text("no film")
    line = complaint(
        capsys, "select", "--config", config(tmp_path, f"[[sources]]\npath='{tmp_path}/a.mp4'")
    )
    assert "not measured" in line
    assert "s2v-data run" in line


def test_a_full_disk_is_said_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def fill() -> int:
        with Path("/dev/full").open("wb", buffering=0) as disk:  # the kernel's own full disk
            disk.write(b"x")
        return 0

    assert guarded("s2v-data", fill) == 1
    assert "no space left" in capsys.readouterr().err


def test_an_unknown_run_folder_is_named_by_verify_and_stats(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "nothing" in complaint(capsys, "verify", str(tmp_path / "nothing"))
    assert "nothing" in complaint(capsys, "stats", str(tmp_path / "nothing"))
