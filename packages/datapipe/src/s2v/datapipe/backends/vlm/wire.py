"""One HTTP exchange with a deadline, a cap and no surprises.

The standard library's timeouts start anew with every byte, so a server that drips would hold a
request for ever; here one deadline covers the whole answer. Redirects are not followed, proxies
of the environment not used, and an answer that ends early is never taken for a whole one.
"""

from __future__ import annotations

import http.client
import io
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from s2v.datapipe.base.settings import SettingsError

_PIECE: Final = 1 << 16


class WireError(OSError):
    """An exchange that came to nothing.

    Attributes:
        begun: whether the server had the request, so that the request itself may be the cause.
    """

    def __init__(self, message: str, begun: bool) -> None:
        super().__init__(message)
        self.begun = begun


@dataclass(frozen=True)
class Endpoint:
    """Where an API lies: ``http(s)://host:port`` and the path before its calls."""

    tls: bool
    host: str
    port: int
    path: str

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}{self.path}"


@dataclass(frozen=True)
class Reply:
    """What came back: status, headers in lower case, body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def endpoint(url: str, where: str) -> Endpoint:
    """Take an address apart; without a path the API is taken to lie below ``/v1``.

    Raises:
        SettingsError: not http(s), or with parts that an address of an API does not have. The
            address is not repeated, as it may hold a password.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise SettingsError(f"{where}: not an address; expected http(s)://host:port/v1") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise SettingsError(f"{where}: expected http(s)://host:port/v1")
    if parts.username is not None or parts.password is not None:
        raise SettingsError(f"{where}: no passwords in addresses; name a variable in api_key_env")
    if parts.query or parts.fragment or not url.isascii() or not url.isprintable() or " " in url:
        raise SettingsError(f"{where}: an address ends with its path; expected http(s)://host/v1")
    tls = parts.scheme == "https"
    path = parts.path.rstrip("/") or "/v1"
    return Endpoint(tls, parts.hostname, port or (443 if tls else 80), path)


def exchange(
    at: Endpoint,
    method: str,
    call: str,
    headers: Mapping[str, str],
    body: bytes | None,
    *,
    connect_s: float,
    total_s: float,
    max_bytes: int,
    context: ssl.SSLContext | None,
) -> Reply:
    """Send one request and read its whole answer.

    Args:
        at: where the API lies.
        method: ``GET`` or ``POST``.
        call: the path below the API's, with its slash.
        headers: as sent.
        body: as sent.
        connect_s: seconds until the connection stands.
        total_s: seconds from then until the answer's last byte.
        max_bytes: a longer body is an error.
        context: for TLS.

    Raises:
        WireError: no connection, no answer in time, an answer cut short or over-long.
    """
    connection: http.client.HTTPConnection
    if at.tls:
        connection = http.client.HTTPSConnection(
            at.host, at.port, timeout=connect_s, context=context
        )
    else:
        connection = http.client.HTTPConnection(at.host, at.port, timeout=connect_s)
    sock: socket.socket | None = None
    try:
        connection.connect()
        sock = connection.sock
        timed: Any = _Timed(sock, time.monotonic() + total_s)
        connection.sock = timed
        connection.request(method, at.path + call, body, {**headers, "Connection": "close"})
        response = connection.getresponse()
        found = _read(response, max_bytes)
        names = {name.lower(): value for name, value in response.getheaders()}
        return Reply(response.status, names, found)
    except WireError:
        raise
    except TimeoutError:
        late = f"whole answer within {total_s:g} s" if sock else f"connection in {connect_s:g} s"
        raise WireError(f"no {late}", False) from None
    except (http.client.HTTPException, EOFError) as error:
        raise WireError(f"the answer ended early ({_named(error)})", sock is not None) from None
    except (OSError, ValueError) as error:  # ssl raises ValueError on a socket that just closed
        what = "the connection was lost" if sock else "no connection"
        raise WireError(f"{what} ({_named(error)})", sock is not None) from None
    finally:
        connection.close()
        if sock is not None:
            sock.close()


def _read(response: http.client.HTTPResponse, max_bytes: int) -> bytes:
    pieces = []
    size = 0
    while piece := response.read(min(_PIECE, max_bytes + 1 - size)):
        size += len(piece)
        if size > max_bytes:
            raise WireError(f"the answer is longer than {max_bytes} bytes", True)
        pieces.append(piece)
    if response.length:  # read(n) is silent about a body shorter than its header said
        raise WireError("the answer ended early", True)
    return b"".join(pieces)


def _named(error: BaseException) -> str:
    reason = getattr(error, "strerror", None)
    return str(reason or type(error).__name__)


class _Timed:
    """As much of a socket as http.client uses, under one deadline."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock, self._deadline = sock, deadline

    def in_time(self) -> socket.socket:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._sock.settimeout(left)
        return self._sock

    def sendall(self, data: bytes) -> None:
        view = memoryview(data)
        for start in range(0, len(view), _PIECE):
            self.in_time().sendall(view[start : start + _PIECE])

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Raw(self), _PIECE)

    def close(self) -> None:
        """Nothing: http.client closes when the headers are read, and the body is still to come."""


class _Raw(io.RawIOBase):
    def __init__(self, sock: _Timed) -> None:
        self._sock = sock

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._sock.in_time().recv_into(buffer)
