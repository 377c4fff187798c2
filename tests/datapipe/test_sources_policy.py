"""Only addresses of the public internet are dialled, in whatever way another one is written."""

from __future__ import annotations

import ipaddress
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from s2v.datapipe.base.media.errors import MediaError, MediaErrorKind
from s2v.datapipe.sources.policy import check_allowed, check_target, host_allowed, is_public
from s2v.datapipe.sources.spec import DownloadSettings


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.255.0.3", "0.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1"),
        *("169.254.169.254", "100.64.0.1", "100.127.255.254", "192.0.0.8", "198.18.0.1"),
        *("224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255", "192.88.99.1"),
        *("::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12::3", "ff02::1", "fec0::1"),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1"),
        *("64:ff9b::7f00:1", "64:ff9b::a00:1", "64:ff9b:1::1", "2002:7f00:1::", "2002:a00:1::1"),
        *("2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:db8::1", "localhost", "", "1"),
    ],
)
def test_no_private_address_in_any_dress_is_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "93.184.215.14", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_public_addresses_are(address: str) -> None:
    assert is_public(address)


@given(st.ip_addresses(v=4))
def test_a_mapped_address_is_as_public_as_the_one_inside(inner: ipaddress.IPv4Address) -> None:
    assert is_public(f"::ffff:{inner}") == is_public(str(inner))
    if not inner.is_global:
        assert not is_public(str(inner))
        assert not is_public(str(ipaddress.IPv6Address((0x2002 << 112) | (int(inner) << 80))))


@pytest.mark.parametrize(
    ("host", "port", "scheme", "allowed"),
    [
        ("example.org", 443, "https", True),
        ("example.org", 80, "http", True),
        ("example.org", 8080, "http", False),
        ("www.example.org", 443, "https", False),
        ("a.cdn.example", 443, "https", True),
        ("a.b.cdn.example", 443, "https", True),
        ("cdn.example", 443, "https", False),
        ("evilcdn.example", 443, "https", False),
        ("example.org.evil.net", 443, "https", False),
        ("odd.example", 8443, "https", True),
        ("odd.example", 443, "https", False),
    ],
)
def test_the_list_means_what_it_says(host: str, port: int, scheme: str, allowed: bool) -> None:
    allow = ("example.org", "*.cdn.example", "odd.example:8443")
    assert host_allowed(host, port, scheme, allow) is allowed


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org\\@127.0.0.1/",
        "http://127.0.0.1#@example.org/",
        "http://example.org:80@10.0.0.1/",
        "http://example.org%2f@10.0.0.1/",
        "http://0x7f000001/",
        "http://2130706433/",
        "http://[::1]/",
        "http://example.org\r\nHost: inside/",
        "http://exa\tmple.org/",
        "gopher://example.org/",
        "http:///x",
        "http://example.org:99999/",
        "http://" + "a" * 300 + "/",
    ],
)
def test_no_spelling_of_a_url_gets_around_the_list(url: str) -> None:
    with pytest.raises(MediaError) as caught:
        check_allowed(url, ("example.org",))
    assert caught.value.kind == MediaErrorKind.REFUSED


def test_host_names_are_compared_without_case_dot_and_script() -> None:
    assert check_allowed("HTTPS://Example.ORG./x", ("example.org",))[1] == "example.org"
    assert check_allowed("https://bücher.example/x", ("xn--bcher-kva.example",))[1].startswith("xn")


def test_a_name_that_does_not_exist_is_missing_and_a_silent_resolver_is_not() -> None:
    def answer(code: int) -> MediaErrorKind:
        def resolve(host: str, port: int) -> list[str]:
            raise socket.gaierror(code, "no")

        with pytest.raises(MediaError) as caught:
            check_target("http://example.org/x", ("example.org",), resolve)
        return caught.value.kind

    assert answer(socket.EAI_NONAME) == MediaErrorKind.MISSING
    assert answer(socket.EAI_AGAIN) == MediaErrorKind.TRANSIENT


@pytest.mark.parametrize(
    "entry", ["*", "*.com", "https://example.org", "example.org/x", "a b.org", "", "Example.org"]
)
def test_a_list_entry_that_would_let_in_too_much_or_nothing_is_refused(entry: str) -> None:
    with pytest.raises(ValidationError, match="is no host"):
        DownloadSettings(allow=(entry,))
