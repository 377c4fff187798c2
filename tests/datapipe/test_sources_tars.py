"""A tar of strangers is walked as `tarfile` would, but within caps and with its damage told."""

from __future__ import annotations

import io
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2v.datapipe.base.media.errors import MediaErrorKind
from s2v.datapipe.sources.tars import MAX_EXTENDED, Member, TarDamagedError, members

NAMES = st.text(
    st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="\0/#"),
    min_size=1,
    max_size=120,
).filter(lambda name: name not in {".", ".."})


def tar_of(files: list[tuple[str, bytes]], form: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def walk(data: bytes) -> list[Member]:
    return list(members(io.BytesIO(data), len(data)))


def damage(data: bytes) -> tuple[list[Member], TarDamagedError]:
    found: list[Member] = []
    try:
        for member in members(io.BytesIO(data), len(data)):
            found.append(member)
    except TarDamagedError as error:
        return found, error
    pytest.fail("the damage was not seen")


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(NAMES, st.binary(max_size=1200)), max_size=6),
    st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
)
def test_every_member_is_found_where_it_lies(files: list[tuple[str, bytes]], form: int) -> None:
    data = tar_of(files, form)
    found = walk(data)
    assert [(m.name, data[m.offset : m.offset + m.size]) for m in found] == files
    assert all(m.refused is None for m in found)


def test_an_old_tar_with_a_long_prefix_is_read() -> None:
    name = "/".join(["folder" * 10, "x" * 60, "a.jpg"])
    [member] = walk(tar_of([(name, b"1")], tarfile.USTAR_FORMAT))
    assert member.name == name


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_tar_cut_anywhere_gives_its_whole_members_and_says_that_it_is_cut(
    data: st.DataObject,
) -> None:
    files = [(f"{n}.jpg", bytes([n]) * (700 * n)) for n in range(1, 5)]
    whole = tar_of(files)
    end = walk(whole)[-1]
    length = data.draw(st.integers(1, end.offset + end.size - 1))
    found, error = damage(whole[:length])
    assert error.kind in {MediaErrorKind.TRUNCATED, MediaErrorKind.NOT_MEDIA}
    assert [m.name for m in found] == [f"{n}.jpg" for n in range(1, len(found) + 1)]
    assert all(whole[m.offset : m.offset + m.size] == dict(files)[m.name] for m in found)
    assert all(m.offset + m.size <= length for m in found)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_damage_makes_the_walk_crash_or_read_beyond_the_file(data: st.DataObject) -> None:
    raw = bytearray(tar_of([("a.jpg", b"x" * 600), ("b" * 120 + ".txt", b"y" * 10)]))
    for _ in range(data.draw(st.integers(1, 8))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    found: list[Member] = []
    try:
        for member in members(io.BytesIO(bytes(raw)), len(raw)):
            found.append(member)
            assert 0 <= member.offset <= member.offset + member.size <= len(raw)
    except TarDamagedError:
        pass
    assert len(found) < 50


def test_a_tar_that_ends_between_members_is_told_although_tarfile_takes_it() -> None:
    whole = tar_of([("a.jpg", b"1" * 512), ("b.jpg", b"2" * 512)])
    cut = whole[: walk(whole)[1].offset - 512]
    found, error = damage(cut)
    assert [m.name for m in found] == ["a.jpg"]
    assert error.kind == MediaErrorKind.TRUNCATED
    assert "'a.jpg'" in error.message
    with tarfile.open(fileobj=io.BytesIO(cut)) as tar:
        assert len(tar.getmembers()) == 1  # no word from it


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", MediaErrorKind.EMPTY),
        (b"PK\x03\x04" + b"\0" * 2000, MediaErrorKind.NOT_MEDIA),
        (b"\x1f\x8b\x08" + b"\1" * 2000, MediaErrorKind.NOT_MEDIA),
        (b"short", MediaErrorKind.NOT_MEDIA),
    ],
)
def test_what_is_no_tar_is_told(data: bytes, kind: MediaErrorKind) -> None:
    assert damage(data)[1].kind == kind


@pytest.mark.parametrize(
    "name", ["/etc/passwd.jpg", "../../x.jpg", "a/../../x.jpg", "a\nb.jpg", "a#b.jpg"]
)
def test_a_name_that_leads_elsewhere_is_refused(name: str) -> None:
    [member] = walk(tar_of([(name, b"1")]))
    assert member.name == name
    assert member.refused


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (tarfile.SYMTYPE, "symbolic link"),
        (tarfile.LNKTYPE, "hard link"),
        (tarfile.CHRTYPE, "device"),
        (tarfile.FIFOTYPE, "pipe"),
        (tarfile.GNUTYPE_SPARSE, "sparse"),
    ],
)
def test_links_devices_and_sparse_files_are_refused(kind: bytes, told: str) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo("a.jpg")
        info.type, info.linkname = kind, "/etc/passwd"
        tar.addfile(info)
        tar.addfile(tarfile.TarInfo("b.jpg"))
    first, second = walk(buffer.getvalue())
    assert told in str(first.refused)
    assert (second.name, second.refused) == ("b.jpg", None)


def test_an_extended_header_of_gigabytes_is_not_read() -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, MAX_EXTENDED + 1
    data = info.tobuf(tarfile.GNU_FORMAT) + b"\0" * (MAX_EXTENDED + 1024)
    assert damage(data)[1].kind == MediaErrorKind.TOO_LARGE


def test_a_size_beyond_the_file_is_not_believed() -> None:
    info = tarfile.TarInfo("x.jpg")
    info.size = 1 << 40
    assert damage(info.tobuf(tarfile.GNU_FORMAT) + b"\0" * 2048)[1].kind == MediaErrorKind.TRUNCATED
