"""The manifest itself, safe extraction, and the page generated from it."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from s2v.datapipe.base import assets
from s2v.datapipe.base.assets.document import document
from s2v.datapipe.base.assets.extract import extract
from s2v.datapipe.base.assets.manifest import GROUPS, Member, parse_manifest, select

DATA = b"payload"
ROOT = Path(__file__).parents[2]


def member(name: str, data: bytes = DATA) -> Member:
    return Member("out.bin", name, hashlib.sha256(data).hexdigest(), len(data))


def tar_with(path: Path, info: tarfile.TarInfo, data: bytes = b"") -> Path:
    info.size = len(data)
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(info, io.BytesIO(data))
    return path


def test_a_symlink_in_a_tarball_is_not_followed(tmp_path: Path) -> None:
    info = tarfile.TarInfo("pkg/model.bin")
    info.type, info.linkname = tarfile.SYMTYPE, "/etc/hostname"
    archive = tar_with(tmp_path / "a.tar.gz", info)
    with pytest.raises(assets.UpstreamChanged, match="not a plain file"):
        extract(archive, member("pkg/model.bin"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_symlink_in_a_wheel_is_not_taken_for_a_file(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("pkg/model.bin")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as archive:
        archive.writestr(info, DATA)
    with pytest.raises(assets.UpstreamChanged, match="not a plain file"):
        extract(tmp_path / "a.whl", member("pkg/model.bin"), tmp_path / "out")


def test_a_decompression_bomb_stops_at_the_pinned_size(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.whl", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb", bytes(50_000_000))
    with pytest.raises(assets.UpstreamChanged, match="differs from its pin"):
        extract(tmp_path / "a.whl", member("bomb"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_absent_member_and_a_broken_archive_are_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as archive:
        archive.writestr("there", DATA)
    with pytest.raises(assets.UpstreamChanged, match=r"a\.whl: gone"):
        extract(tmp_path / "a.whl", member("gone"), tmp_path / "out")
    (tmp_path / "b.whl").write_bytes(b"PK no archive")
    with pytest.raises(assets.UpstreamChanged, match=r"b\.whl"):
        extract(tmp_path / "b.whl", member("there"), tmp_path / "out")


def entry(path: str = "a", name: str = "ok", sha256: str = "0" * 64) -> str:
    return (
        f'[packages.p]\nversion="1"\nindex="npm"\narchive="p"\nsha256="{"0" * 64}"\nsize=1\n'
        f'[[assets]]\nname="{name}"\nrole="r"\nkind="media"\ngroups=["demo"]\npackage="p"\n'
        f'licence="MIT"\nsource="s"\nfiles=[{{path="{path}", member="m", sha256="{sha256}", '
        "size=1}]\n"
    )


@pytest.mark.parametrize("path", ["../a", "/etc/passwd", "a/../../b", "", "a\\\\b", "C:/a"])
def test_the_manifest_cannot_write_outside_the_cache(path: str) -> None:
    assert parse_manifest(entry())  # the rest of it is well-formed
    with pytest.raises(assets.AssetError, match="outside its folder"):
        parse_manifest(entry(path))


def test_the_manifest_cannot_list_a_file_without_a_digest() -> None:
    with pytest.raises(assets.AssetError, match="not pinned"):
        parse_manifest(entry(sha256="abc"))
    with pytest.raises(assets.AssetError, match="asset name"):
        parse_manifest(entry(name="../ok"))


def test_every_asset_states_licence_source_and_a_group() -> None:
    for asset in assets.load_manifest().values():
        assert asset.licence, asset.name
        assert asset.source, asset.name
        assert asset.groups, asset.name
        assert asset.package.size > 0


@pytest.mark.parametrize("prefix", ["man-", "obama-", "biden", "group-photo", "women-", "bikes"])
def test_media_that_show_people_record_what_is_known_of_consent(prefix: str) -> None:
    entries = [a for name, a in assets.load_manifest().items() if name.startswith(prefix)]
    assert entries
    assert all("consent" in a.note.lower() for a in entries)


def test_the_film_credit_is_recorded() -> None:
    for name in ("bbb-film", "bbb-trailer", "bbb-shot"):
        asset = assets.load_manifest()[name]
        assert asset.licence == "CC-BY-3.0"
        assert "Blender Foundation" in asset.source


def test_nothing_but_optional_assets_needs_npm() -> None:
    assert all(a.optional for a in select("all") if a.package.index == "npm")
    for group in ("demo", "weights", "media", "evals", "lite"):
        assert all(a.package.index != "npm" for a in select(group)), group


def test_groups_hold_together() -> None:
    names = {group: {a.name for a in select(group)} for group in GROUPS}
    assert all(names.values())
    assert names["weights"] | names["media"] | names["optional"] == names["all"]
    assert names["weights"] | names["media"] == names["demo"]
    assert names["evals"] <= names["weights"]
    assert names["lite"] < names["demo"]


def test_the_page_of_assets_is_the_manifest() -> None:
    page = (ROOT / "docs" / "assets.md").read_text(encoding="utf-8")
    assert page == document(), "run `s2v-data assets doc --output docs/assets.md`"


@pytest.mark.assets
def test_the_real_packages_still_give_the_pinned_files() -> None:
    assets.fetch("lite")
    assert assets.verify("lite") == []
