"""Fetching one file from a URL that the allow-list lets in.

Every hop is checked (:mod:`.policy`) and made to an address that was checked: the name is not
resolved a second time. Size, time and speed are bounded; a body shorter than it was announced
is a lost connection; what comes must look like what was listed before it gets its name.
"""

from __future__ import annotations

import hashlib
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Final
from urllib.parse import urljoin

from s2v.datapipe.base.media.errors import MediaError, MediaErrorKind
from s2v.datapipe.base.media.sniff import sniff
from s2v.datapipe.sources.address import without_secrets
from s2v.datapipe.sources.policy import Resolver, Target, check_target, system_resolver
from s2v.datapipe.sources.spec import DownloadSettings

MAX_REDIRECTS: Final = 5
_CHUNK: Final = 1 << 16
_SNIFF_BYTES: Final = 4096
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_PASSING: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_HEADERS: Final = {"User-Agent": "s2v-datapipe", "Accept": "*/*", "Accept-Encoding": "identity"}
_IMAGE_MAGIC: Final = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM")

Dial = Callable[[str, int, float], socket.socket]
Slots = Callable[[str], AbstractContextManager[object]]


def dial(address: str, port: int, timeout_s: float) -> socket.socket:
    """Connect to an IP address."""
    return socket.create_connection((address, port), timeout_s)


def _no_slots(host: str) -> AbstractContextManager[object]:
    return nullcontext()


class Downloader:
    """Fetches files from URLs, one call at a time; safe to use from several threads."""

    def __init__(
        self,
        settings: DownloadSettings,
        *,
        resolve: Resolver = system_resolver,
        connect: Dial = dial,
        tls: ssl.SSLContext | None = None,
        slots: Slots = _no_slots,
        idle_s: float = 30.0,
        slowest_bytes_s: float = 1024.0,
        attempts: int = 3,
        pause_s: float = 1.0,
    ) -> None:
        """Set up; asks no network.

        Args:
            settings: allow-list and caps.
            resolve: host and port to all its addresses.
            connect: opens a connection to a checked address.
            tls: how servers are verified, by default against the system's authorities.
            slots: per host, holds one of the places for fetches at the same time.
            idle_s: longest silence of a server, and the longest wait for its headers.
            slowest_bytes_s: a body slower than this over ``idle_s`` is given up.
            attempts: how often a fetch that broke off is begun again, in all.
            pause_s: before the second attempt; doubled for each further one.
        """
        self.settings = settings
        self._resolve = resolve
        self._connect = connect
        self._tls = tls
        self._slots = slots
        self.idle_s = idle_s
        self.slowest_bytes_s = slowest_bytes_s
        self.attempts = attempts
        self.pause_s = pause_s

    def fetch(self, url: str, target: Path, kind: str, sha256: str | None = None) -> str:
        """Fetch ``url`` into ``target``, a temporary file of the caller's.

        Args:
            url: as listed.
            target: written from its beginning; undefined when this raises.
            kind: ``video`` or ``image``: what it must look like.
            sha256: what the bytes must be, if that is known.

        Returns:
            Hex sha256 of the bytes.

        Raises:
            MediaError: ``refused`` (list, address, redirects), ``missing`` (4xx), ``transient``
                (5xx, connection), ``truncated``, ``too_large``, ``timeout``, ``not_media`` and
                its like, ``changed`` (sha256).
        """
        deadline = time.monotonic() + self.settings.seconds
        for attempt in range(1, self.attempts + 1):
            try:
                digest = self._follow(url, target, kind, deadline)
            except MediaError as error:
                again = error.kind in {MediaErrorKind.TRANSIENT, MediaErrorKind.TRUNCATED}
                wait = self.pause_s * 2.0 ** (attempt - 1)
                if not again or attempt == self.attempts or time.monotonic() + wait > deadline:
                    raise
                time.sleep(wait)
                continue
            if sha256 is not None and digest != sha256:
                raise MediaError(
                    MediaErrorKind.CHANGED,
                    without_secrets(url),
                    f"its sha256 is {digest}, listed is {sha256}",
                )
            return digest
        raise ValueError(f"attempts must be at least 1, not {self.attempts}")

    def _follow(self, url: str, target: Path, kind: str, deadline: float) -> str:
        first = url
        for _ in range(MAX_REDIRECTS + 1):
            hop = check_target(url, self.settings.allow, self._resolve)
            with self._slots(hop.host), self._request(hop, deadline) as response:
                if response.status not in _REDIRECTS:
                    return self._receive(response, hop, target, kind, deadline)
                location = response.getheader("Location")
            if not location:
                raise self._error(MediaErrorKind.MISSING, hop, "redirects to nowhere")
            url = urljoin(hop.url, location)
            if hop.scheme == "https" and not url.lower().startswith("https:"):
                raise self._error(
                    MediaErrorKind.REFUSED,
                    hop,
                    f"redirects from https to {without_secrets(url)[:200]}",
                )
        raise MediaError(
            MediaErrorKind.REFUSED,
            without_secrets(first),
            f"redirects more than {MAX_REDIRECTS} times",
        )

    @contextmanager
    def _request(self, hop: Target, deadline: float) -> Iterator[http.client.HTTPResponse]:
        """Send the request and read the headers; both within ``idle_s``."""
        connection = http.client.HTTPConnection(hop.host, hop.port)
        try:
            connection.sock = self._open(hop)
            yield self._answer(connection, hop, deadline)
        finally:
            connection.close()

    def _answer(
        self, connection: http.client.HTTPConnection, hop: Target, deadline: float
    ) -> http.client.HTTPResponse:
        # A server that sends its headers byte by byte never lets a read time out.
        expired = threading.Event()
        seconds = max(0.01, min(self.idle_s, deadline - time.monotonic()))
        watch = threading.Timer(seconds, _cut, (connection, expired))
        watch.daemon = True
        watch.start()
        try:
            self._secure(connection, hop)
            connection.request("GET", hop.resource, headers=_HEADERS)
            return connection.getresponse()
        except ssl.SSLCertVerificationError as error:
            raise self._error(
                MediaErrorKind.REFUSED, hop, f"its certificate is not valid: {error.verify_message}"
            ) from None
        except (OSError, ValueError, http.client.HTTPException) as error:
            if expired.is_set() or isinstance(error, TimeoutError):
                raise self._error(
                    MediaErrorKind.TIMEOUT, hop, f"no answer within {seconds:g} s"
                ) from None
            raise self._error(MediaErrorKind.TRANSIENT, hop, _plain(error)) from None
        finally:
            watch.cancel()

    def _open(self, hop: Target) -> socket.socket:
        refusal = OSError("no address")
        for address in hop.addresses:
            try:
                return self._connect(address, hop.port, self.idle_s)
            except OSError as error:
                refusal = error
        raise self._error(
            MediaErrorKind.TRANSIENT, hop, f"cannot connect: {_plain(refusal)}"
        ) from None

    def _secure(self, connection: http.client.HTTPConnection, hop: Target) -> None:
        if hop.scheme == "https":
            context = self._tls or ssl.create_default_context()
            # The handshake comes second, so that the watch can cut it short.
            secured = context.wrap_socket(
                connection.sock, server_hostname=hop.host, do_handshake_on_connect=False
            )
            connection.sock = secured
            secured.do_handshake()

    def _receive(
        self,
        response: http.client.HTTPResponse,
        hop: Target,
        target: Path,
        kind: str,
        deadline: float,
    ) -> str:
        self._check_headers(response, hop)
        length = response.getheader("Content-Length")
        announced = int(length) if length and length.isdigit() and not response.chunked else None
        limit = int(self.settings.max_gb * 1e9)
        if announced is not None and announced > limit:
            raise self._too_large(hop, announced)
        digest, received, looked = hashlib.sha256(), 0, False
        speed = _Speed(self.idle_s, self.slowest_bytes_s)
        with target.open("wb") as file:
            for block in self._blocks(response, hop, deadline, speed):
                received += len(block)
                if received > limit:
                    raise self._too_large(hop, received)
                digest.update(block)
                file.write(block)
                if not looked and received >= _SNIFF_BYTES:
                    file.flush()
                    looked = _look(target, kind, hop)
        if announced is not None and received < announced:
            raise self._error(
                MediaErrorKind.TRUNCATED, hop, f"{received} of {announced} bytes came"
            )
        if not looked:
            _look(target, kind, hop)
        return digest.hexdigest()

    def _check_headers(self, response: http.client.HTTPResponse, hop: Target) -> None:
        status = response.status
        if status != http.client.OK:
            kind = MediaErrorKind.TRANSIENT if status in _PASSING else MediaErrorKind.MISSING
            raise self._error(kind, hop, f"the server answers {status} {response.reason}"[:200])
        encoding = response.getheader("Content-Encoding", "identity").lower()
        if encoding != "identity":
            raise self._error(
                MediaErrorKind.UNSUPPORTED, hop, f"comes with Content-Encoding {encoding!r}"
            )

    def _blocks(
        self, response: http.client.HTTPResponse, hop: Target, deadline: float, speed: _Speed
    ) -> Iterator[bytes]:
        while True:
            try:
                block = response.read1(_CHUNK)
            except TimeoutError:
                raise self._error(
                    MediaErrorKind.TIMEOUT, hop, f"silent for {self.idle_s:g} s"
                ) from None
            except http.client.HTTPException as error:
                raise self._error(
                    MediaErrorKind.TRUNCATED, hop, f"the connection broke off: {_plain(error)}"
                ) from None
            except OSError as error:
                raise self._error(MediaErrorKind.TRANSIENT, hop, _plain(error)) from None
            if not block:
                return
            yield block
            if time.monotonic() > deadline:
                raise self._error(
                    MediaErrorKind.TIMEOUT,
                    hop,
                    f"not there after {self.settings.seconds:g} s (downloads.seconds)",
                )
            if speed.too_slow(len(block)):
                raise self._error(
                    MediaErrorKind.TIMEOUT,
                    hop,
                    f"slower than {self.slowest_bytes_s:g} bytes/s over {self.idle_s:g} s",
                )

    def _too_large(self, hop: Target, size: int) -> MediaError:
        return self._error(
            MediaErrorKind.TOO_LARGE,
            hop,
            f"{size} bytes or more pass downloads.max_gb = {self.settings.max_gb:g}",
        )

    def _error(self, kind: MediaErrorKind, hop: Target, message: str) -> MediaError:
        return MediaError(kind, without_secrets(hop.url), message)


class _Speed:
    """Watches that a body comes faster than a floor, over windows of a length."""

    def __init__(self, window_s: float, floor: float) -> None:
        self.window_s, self.floor = window_s, floor
        self.began, self.bytes = time.monotonic(), 0

    def too_slow(self, received: int) -> bool:
        self.bytes += received
        spent = time.monotonic() - self.began
        if spent < self.window_s:
            return False
        slow = self.bytes < self.floor * spent
        self.began, self.bytes = time.monotonic(), 0
        return slow


def _look(path: Path, kind: str, hop: Target) -> bool:
    """Raise unless the first bytes are of the kind that was listed."""
    shown = without_secrets(hop.url)
    if kind == "image":
        with path.open("rb") as file:
            head = file.read(16)
        webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
        avif = head[4:8] == b"ftyp" and head[8:12] in {b"avif", b"mif1"}
        if not head:
            raise MediaError(MediaErrorKind.EMPTY, shown, "0 bytes came")
        if not (head.startswith(_IMAGE_MAGIC) or webp or avif):
            raise MediaError(MediaErrorKind.NOT_MEDIA, shown, f"no picture: starts {head!r}")
        return True
    try:
        sniff(path)
    except MediaError as error:
        raise MediaError(error.kind, shown, error.message) from None
    return True


def _cut(connection: http.client.HTTPConnection, expired: threading.Event) -> None:
    expired.set()
    with suppress(OSError):  # closed meanwhile
        # Not the SSL socket's own, which would pull the session from under the reading thread.
        socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)


def _plain(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:300]
