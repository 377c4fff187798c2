"""A URL is fetched whole from an allowed public host, or refused with the reason; never else."""

from __future__ import annotations

import hashlib
import io
import socket
import threading
import time
from functools import partial
from pathlib import Path

import pytest
from http_servers import PUBLIC, Answer, downloader, path_of, redirect, reply, self_signed, serving
from PIL import Image

from s2v.datapipe.base.media.errors import MediaError, MediaErrorKind
from s2v.datapipe.sources.cache import Cache
from s2v.datapipe.sources.download import Downloader
from s2v.datapipe.sources.spec import DownloadSettings
from s2v.datapipe.sources.stager import Stager, StagingSettings

URL = "http://media.example.org/a/picture.jpg"


def jpeg(size: int = 96) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((size, size), 90).convert("RGB").save(buffer, "JPEG")
    return buffer.getvalue()


PICTURE = jpeg()
SHA = hashlib.sha256(PICTURE).hexdigest()


def refusal(answer: Answer, target: Path, url: str = URL, **given: object) -> MediaError:
    kind = str(given.pop("kind", "image"))
    sha = given.pop("sha256", None)
    with serving(answer) as server, pytest.raises(MediaError) as caught:
        downloader(server, **given).fetch(url, target, kind, sha)  # type: ignore[arg-type]  # of the test's keywords
    return caught.value


def test_a_file_arrives_whole_and_the_server_is_asked_by_its_name(tmp_path: Path) -> None:
    with serving(reply(PICTURE)) as server:
        digest = downloader(server).fetch(URL + "?size=large", tmp_path / "x", "image", SHA)
    assert (tmp_path / "x").read_bytes() == PICTURE
    assert digest == SHA
    [request] = server.requests
    assert request.startswith("GET /a/picture.jpg?size=large HTTP/1.1\r\n")
    assert "\r\nHost: media.example.org\r\n" in request
    assert "Accept-Encoding: identity" in request


def test_https_verifies_the_name_although_it_dials_an_address(tmp_path: Path) -> None:
    ours, client = self_signed(tmp_path, "media.example.org")
    with serving(reply(PICTURE), ours) as server:
        fetcher = downloader(server, tls=client)
        fetcher.fetch("https://media.example.org/x.jpg", tmp_path / "x", "image", SHA)
        with pytest.raises(MediaError) as caught:
            fetcher.fetch("https://other.cdn.example/x.jpg", tmp_path / "y", "image")
    assert caught.value.kind == MediaErrorKind.REFUSED
    assert "certificate" in str(caught.value)


def test_https_hides_no_slow_loris(tmp_path: Path) -> None:
    ours, client = self_signed(tmp_path, "media.example.org")

    def drip(connection: socket.socket, request: str) -> None:
        for byte in b"HTTP/1.1 200 OK\r\n" * 100:
            connection.sendall(bytes([byte]))
            time.sleep(0.1)

    with serving(drip, ours) as server, pytest.raises(MediaError) as caught:
        downloader(server, tls=client, idle_s=0.6).fetch(
            "https://media.example.org/x.jpg", tmp_path / "x", "image"
        )
    assert caught.value.kind == MediaErrorKind.TIMEOUT


@pytest.mark.parametrize(
    ("location", "told"),
    [
        ("http://inside.example.org/x.jpg", "not on the allow-list"),
        ("http://127.0.0.1/x.jpg", "not on the allow-list"),
        ("http://secret.cdn.example/x.jpg", "10.0.0.7"),
        ("http://half.cdn.example/x.jpg", "169.254.169.254"),
        ("ftp://media.example.org/x.jpg", "'ftp'"),
        ("file://localhost/etc/passwd", "'file'"),
        ("http://media.example.org:6379/x.jpg", "media.example.org:6379"),
        ("//user:word@media.example.org/x.jpg", "user name"),
    ],
)
def test_a_redirect_is_checked_like_the_first_address(
    tmp_path: Path, location: str, told: str
) -> None:
    names = {"secret.cdn.example": ["10.0.0.7"], "half.cdn.example": [PUBLIC, "169.254.169.254"]}
    error = refusal(redirect(location), tmp_path / "x", names=names)
    assert error.kind == MediaErrorKind.REFUSED
    assert told in str(error)
    assert "word" not in str(error)


def test_a_redirect_within_the_list_is_followed_relative_ones_too(tmp_path: Path) -> None:
    def answer(connection: socket.socket, request: str) -> None:
        where = {
            "/a/picture.jpg": redirect("http://b.cdn.example/b.jpg"),
            "/b.jpg": redirect("../c.jpg"),
        }
        where.get(path_of(request), reply(PICTURE))(connection, request)

    with serving(answer) as server:
        downloader(server).fetch(URL, tmp_path / "x", "image", SHA)
    assert [path_of(request) for request in server.requests] == [
        "/a/picture.jpg",
        "/b.jpg",
        "/c.jpg",
    ]


def test_a_redirect_loop_ends(tmp_path: Path) -> None:
    with serving(redirect(URL)) as server:
        with pytest.raises(MediaError, match="redirects more than 5 times") as caught:
            downloader(server).fetch(URL, tmp_path / "x", "image")
        assert len(server.requests) == 6
    assert caught.value.kind == MediaErrorKind.REFUSED


def test_https_never_falls_back_to_http(tmp_path: Path) -> None:
    ours, client = self_signed(tmp_path, "media.example.org")
    with (
        serving(redirect(URL), ours) as server,
        pytest.raises(MediaError, match="redirects from https to http"),
    ):
        downloader(server, tls=client).fetch(
            "https://media.example.org/x.jpg", tmp_path / "x", "image"
        )


def test_an_endless_body_stops_at_the_cap(tmp_path: Path) -> None:
    def endless(connection: socket.socket, request: str) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + PICTURE)
        while True:
            connection.sendall(b"\0" * 65536)

    error = refusal(endless, tmp_path / "x", max_gb=0.001)
    assert error.kind == MediaErrorKind.TOO_LARGE
    assert "downloads.max_gb = 0.001" in str(error)
    assert (tmp_path / "x").stat().st_size < 2_000_000


def test_an_announced_size_over_the_cap_is_refused_before_a_byte_is_kept(tmp_path: Path) -> None:
    error = refusal(reply(PICTURE, Content_Length="999999999999"), tmp_path / "x")
    assert error.kind == MediaErrorKind.TOO_LARGE
    assert not (tmp_path / "x").exists()


def test_a_body_that_drips_is_given_up(tmp_path: Path) -> None:
    def drip(connection: socket.socket, request: str) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        for byte in PICTURE:
            connection.sendall(bytes([byte]))
            time.sleep(0.02)

    error = refusal(drip, tmp_path / "x", idle_s=0.6)
    assert error.kind == MediaErrorKind.TIMEOUT
    assert "slower than 1024 bytes/s" in str(error)


def test_headers_that_drip_are_given_up(tmp_path: Path) -> None:
    def drip(connection: socket.socket, request: str) -> None:
        for byte in b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 100:
            connection.sendall(bytes([byte]))
            time.sleep(0.05)

    began = time.monotonic()
    error = refusal(drip, tmp_path / "x", idle_s=0.5)
    assert error.kind == MediaErrorKind.TIMEOUT
    assert time.monotonic() - began < 5


def test_silence_is_given_up(tmp_path: Path) -> None:
    def silent(connection: socket.socket, request: str) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + PICTURE[:100])
        time.sleep(3)

    assert refusal(silent, tmp_path / "x", idle_s=0.4).kind == MediaErrorKind.TIMEOUT


def test_the_whole_fetch_has_a_limit_however_lively_it_is(tmp_path: Path) -> None:
    def lively(connection: socket.socket, request: str) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + PICTURE)
        while True:
            connection.sendall(b"\0" * 2048)
            time.sleep(0.05)

    error = refusal(lively, tmp_path / "x", seconds=0.7, idle_s=0.5)
    assert error.kind == MediaErrorKind.TIMEOUT
    assert "downloads.seconds" in str(error)


def test_a_body_shorter_than_announced_is_tried_again_and_then_truncated(tmp_path: Path) -> None:
    with serving(reply(PICTURE, Content_Length=str(len(PICTURE) + 1))) as server:
        with pytest.raises(MediaError) as caught:
            downloader(server).fetch(URL, tmp_path / "x", "image")
        assert len(server.requests) == 2
    assert caught.value.kind == MediaErrorKind.TRUNCATED
    assert f"{len(PICTURE)} of {len(PICTURE) + 1} bytes" in str(caught.value)


def test_a_chunked_body_that_breaks_off_is_not_taken_for_whole(tmp_path: Path) -> None:
    def cut(connection: socket.socket, request: str) -> None:
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        size = f"{len(PICTURE):x}".encode()
        connection.sendall(head + size + b"\r\n" + PICTURE + b"\r\n")

    assert refusal(cut, tmp_path / "x").kind == MediaErrorKind.TRUNCATED


def test_a_lost_connection_is_tried_again(tmp_path: Path) -> None:
    tries: list[int] = []

    def second_time(connection: socket.socket, request: str) -> None:
        tries.append(1)
        reply(PICTURE, Content_Length=str(len(PICTURE) + (len(tries) == 1)))(connection, request)

    with serving(second_time) as server:
        downloader(server).fetch(URL, tmp_path / "x", "image", SHA)
    assert len(tries) == 2


def test_other_bytes_than_listed_are_refused(tmp_path: Path) -> None:
    error = refusal(reply(PICTURE), tmp_path / "x", sha256="0" * 64)
    assert error.kind == MediaErrorKind.CHANGED
    assert SHA in str(error)


@pytest.mark.parametrize(
    ("body", "kind", "expected"),
    [
        (b"<!doctype html><title>Sign in</title>", "video", MediaErrorKind.NOT_MEDIA),
        (b"<!doctype html>" * 1000, "image", MediaErrorKind.NOT_MEDIA),
        (b"#EXTM3U\nhttp://127.0.0.1/x.ts\n", "video", MediaErrorKind.UNSUPPORTED),
        (PICTURE, "video", MediaErrorKind.UNSUPPORTED),
        (b"", "image", MediaErrorKind.EMPTY),
        (b"", "video", MediaErrorKind.EMPTY),
    ],
)
def test_what_is_no_media_of_its_kind_is_refused(
    tmp_path: Path, body: bytes, kind: str, expected: MediaErrorKind
) -> None:
    error = refusal(reply(body), tmp_path / "x", kind=kind)
    assert error.kind == expected
    assert error.path == URL


@pytest.mark.parametrize(
    ("status", "kind", "asked"),
    [
        ("404 Not Found", MediaErrorKind.MISSING, 1),
        ("403 Forbidden", MediaErrorKind.MISSING, 1),
        ("206 Partial Content", MediaErrorKind.MISSING, 1),
        ("500 Oops", MediaErrorKind.TRANSIENT, 2),
        ("503 Busy", MediaErrorKind.TRANSIENT, 2),
        ("429 Too Many Requests", MediaErrorKind.TRANSIENT, 2),
    ],
)
def test_a_servers_refusal_is_told_and_only_a_passing_one_tried_again(
    tmp_path: Path, status: str, kind: MediaErrorKind, asked: int
) -> None:
    with serving(reply(b"no", status)) as server:
        with pytest.raises(MediaError, match=status[:3]) as caught:
            downloader(server).fetch(URL, tmp_path / "x", "image")
        assert len(server.requests) == asked
    assert caught.value.kind == kind


def test_a_compressed_body_is_refused_for_its_unbounded_size(tmp_path: Path) -> None:
    error = refusal(reply(PICTURE, Content_Encoding="gzip"), tmp_path / "x")
    assert error.kind == MediaErrorKind.UNSUPPORTED


def test_a_server_that_speaks_no_http_is_told(tmp_path: Path) -> None:
    def babble(connection: socket.socket, request: str) -> None:
        connection.sendall(b"+OK redis at your service\r\n")

    assert refusal(babble, tmp_path / "x").kind == MediaErrorKind.TRANSIENT


def test_production_refuses_this_machine_even_when_it_is_on_the_list(tmp_path: Path) -> None:
    with serving(reply(PICTURE)) as server:
        for host in ("127.0.0.1", "localhost.localdomain.example", "169.254.1.1"):
            settings = DownloadSettings(allow=(f"{host}:{server.port}",))
            fetcher = Downloader(
                settings,
                **({"resolve": lambda *_: ["127.0.0.1"]} if "example" in host else {}),
            )
            with pytest.raises(MediaError, match="no address of the public internet"):
                fetcher.fetch(f"http://{host}:{server.port}/x.jpg", tmp_path / "x", "image")
        assert server.requests == []


def test_the_name_is_looked_up_once_per_hop_so_that_it_cannot_change(tmp_path: Path) -> None:
    answers = iter([[PUBLIC], ["127.0.0.1"]])
    with serving(reply(PICTURE)) as server:
        fetcher = downloader(server, resolve=lambda *_: next(answers))
        fetcher.fetch(URL, tmp_path / "x", "image", SHA)
        with pytest.raises(MediaError, match=r"127\.0\.0\.1"):
            fetcher.fetch(URL, tmp_path / "x", "image", SHA)


def test_many_fetches_ask_one_host_politely(tmp_path: Path) -> None:
    def slow(connection: socket.socket, request: str) -> None:
        time.sleep(0.15)
        reply(PICTURE)(connection, request)

    settings = DownloadSettings(allow=("media.example.org",), per_host=2, cache=str(tmp_path / "c"))
    with serving(slow) as server:
        caches = [Cache(tmp_path / "c", 10**9) for _ in range(6)]
        stagers = [
            Stager(
                StagingSettings(downloads=settings),
                cache=cache,
                downloader=downloader(server, slots=partial(cache.slot, places=2)),
            )
            for cache in caches
        ]
        threads = [
            threading.Thread(
                target=stager.local_path, args=({"path": f"{URL}?{n}", "kind": "image"},)
            )
            for n, stager in enumerate(stagers)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(server.requests) == 6
        assert server.most_at_once == 2


def test_a_fetch_that_fails_leaves_nothing_under_the_final_name(tmp_path: Path) -> None:
    settings = DownloadSettings(allow=("media.example.org",), cache=str(tmp_path / "cache"))
    with serving(reply(PICTURE, Content_Length=str(len(PICTURE) + 9))) as server:
        stager = Stager(StagingSettings(downloads=settings), downloader=downloader(server))
        with pytest.raises(MediaError):
            stager.local_path({"path": URL, "kind": "image"})
    files = [p for p in (tmp_path / "cache").rglob("*") if p.is_file() and "locks" not in p.parts]
    assert [p for p in files if p.name != ".evicting"] == []


def test_a_url_fetched_again_must_bring_the_same_bytes(tmp_path: Path) -> None:
    settings = DownloadSettings(allow=("media.example.org",), cache=str(tmp_path / "cache"))
    body = [PICTURE]

    def now(connection: socket.socket, request: str) -> None:
        reply(body[0])(connection, request)

    with serving(now) as server:
        stager = Stager(StagingSettings(downloads=settings), downloader=downloader(server))
        first = stager.local_path({"path": URL, "kind": "image"})
        assert first.read_bytes() == PICTURE
        first.unlink()  # as eviction does
        body[0] = jpeg(64)
        with pytest.raises(MediaError) as caught:
            stager.local_path({"path": URL, "kind": "image"})
    assert caught.value.kind == MediaErrorKind.CHANGED
