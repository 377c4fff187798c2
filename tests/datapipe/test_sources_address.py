"""An address means one place, one member, one part, and is read back as it was written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2v.datapipe.sources.address import Address, bucket_and_key, parse_address, without_secrets
from s2v.datapipe.sources.errors import SourceError

NAMES = st.text(
    st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), min_size=1, max_size=20
)
BOXES = st.none() | st.tuples(*(st.integers(0, 10**6),) * 2, *(st.integers(1, 10**6),) * 2)


@given(NAMES, BOXES)
def test_a_local_name_survives_whatever_it_holds(name: str, box: tuple[int, ...] | None) -> None:
    if "://" in name or ".tar#" in name.lower() or ".parquet#" in name.lower():
        return
    address = Address(name, None, box)  # type: ignore[arg-type]  # four of them
    assert parse_address(str(address)) == address


@given(NAMES, NAMES, BOXES, st.sampled_from(["tar", "TAR", "parquet"]))
def test_a_member_survives_whatever_it_is_called(
    folder: str, member: str, box: tuple[int, ...] | None, kind: str
) -> None:
    if "://" in folder or ".tar#" in folder.lower() or ".parquet#" in folder.lower():
        return
    address = Address(f"{folder}.{kind}", member, box)  # type: ignore[arg-type]  # four of them
    assert parse_address(str(address)) == address
    assert address.archive == kind.lower()


@given(st.text(max_size=60))
def test_any_text_is_an_address_or_refused_in_one_line(text: str) -> None:
    try:
        address = parse_address(text)
    except SourceError:
        return
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a#b.mp4", Address("a#b.mp4")),
        ("x.tar#a/b.jpg", Address("x.tar", "a/b.jpg")),
        ("x.tar#y.tar#z", Address("x.tar", "y.tar#z")),
        ("s3://bucket/x.parquet#17/image", Address("s3://bucket/x.parquet", "17/image")),
        ("s3://bucket/a b?c#d.mp4", Address("s3://bucket/a b?c#d.mp4")),
        ("w.jpg#xywh=8,8,512,512", Address("w.jpg", None, (8, 8, 512, 512))),
        ("x.tar#a.jpg#xywh=0,0,1,1", Address("x.tar", "a.jpg", (0, 0, 1, 1))),
        ("file://localhost/a/b%20c.mp4", Address("/a/b c.mp4")),
        ("https://h.example/x.tar#frag", Address("https://h.example/x.tar#frag")),
        ("target.tarot#x", Address("target.tarot#x")),
    ],
)
def test_the_documented_spellings(text: str, expected: Address) -> None:
    assert parse_address(text) == expected


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("ftp://host/x", "unknown scheme 'ftp'"),
        ("s3:///key", "s3://bucket/key"),
        ("s3://AKIAKEY:secret@bucket/key", "credentials belong in the environment"),
        ("https://me:secret@host.example/x", "carries credentials"),
        ("https://h.example/x?X-Amz-Signature=secret", "carries credentials"),
        ("https:///x", "names no host"),
        ("file://host/x", "another machine"),
        ("x.tar#", "names no member"),
        ("x.jpg#xywh=1,1,0,5", "width or height is 0"),
        ("a\0b", "no path"),
        ("", "no path"),
    ],
)
def test_what_is_no_address_is_told_without_its_secrets(text: str, told: str) -> None:
    with pytest.raises(SourceError) as caught:
        parse_address(text)
    assert told in str(caught.value)
    assert "secret" not in str(caught.value)


def test_suffixes_are_of_the_member_and_not_of_a_query() -> None:
    assert parse_address("bank.tar#a/b.JPG").suffix == ".jpg"
    assert parse_address("https://h.example/a.mp4?v=1.jpg").suffix == ".mp4"
    assert parse_address("folder.d/file").suffix == ""


def test_messages_show_no_credentials() -> None:
    assert without_secrets("https://u:p@h.example/a?sig=x") == "https://h.example/a"
    assert without_secrets("s3://k:s@bucket/a?b#c") == "s3://bucket/a?b#c"
    assert without_secrets("a/b?c@d") == "a/b?c@d"
    assert bucket_and_key("s3://bucket/a/b") == ("bucket", "a/b")
