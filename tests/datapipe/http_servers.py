"""Real HTTP servers on the loopback interface that serve, redirect, hang, stall and lie.

A downloader reaches them through its ``connect`` argument: names resolve to public addresses, as
in production, and only the dialling leads to this machine. The address check is never loosened.
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from s2v.datapipe.sources.download import Downloader, Slots
from s2v.datapipe.sources.policy import Resolver
from s2v.datapipe.sources.spec import DownloadSettings

PUBLIC = "93.184.215.14"
Answer = Callable[[socket.socket, str], None]


class Server:
    """Answers every request with a function of the connection and the request's head."""

    def __init__(self, answer: Answer, tls: ssl.SSLContext | None = None) -> None:
        self.answer = answer
        self.tls = tls
        self.requests: list[str] = []
        self.at_once = 0
        self.most_at_once = 0
        self._count = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._handle, args=(connection,), daemon=True).start()

    def _handle(self, connection: socket.socket) -> None:
        with suppress(OSError), connection:
            connection.settimeout(30)
            if self.tls is not None:
                connection = self.tls.wrap_socket(connection, server_side=True)
            head = b""
            while b"\r\n\r\n" not in head:
                block = connection.recv(4096)
                if not block:
                    return
                head += block
            self.requests.append(head.decode("latin-1"))
            with self._count:
                self.at_once += 1
                self.most_at_once = max(self.most_at_once, self.at_once)
            try:
                self.answer(connection, head.decode("latin-1"))
            finally:
                with self._count:
                    self.at_once -= 1
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
                connection.close()

    def close(self) -> None:
        self._listener.close()


@contextmanager
def serving(answer: Answer, tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    """Run a server until the block ends."""
    server = Server(answer, tls)
    try:
        yield server
    finally:
        server.close()


def downloader(
    server: Server,
    *,
    allow: tuple[str, ...] = ("media.example.org", "*.cdn.example"),
    names: dict[str, list[str]] | None = None,
    max_gb: float = 0.01,
    seconds: float = 20.0,
    idle_s: float = 1.0,
    slowest_bytes_s: float = 1024.0,
    attempts: int = 2,
    tls: ssl.SSLContext | None = None,
    resolve: Resolver | None = None,
    slots: Slots = lambda host: nullcontext(),
) -> Downloader:
    """A production downloader whose connections to public addresses end at ``server``."""

    def known(host: str, port: int) -> list[str]:
        return (names or {}).get(host, [PUBLIC])

    def connect(address: str, port: int, timeout_s: float) -> socket.socket:
        assert address == PUBLIC, f"dialled {address}, which was never to be"
        return socket.create_connection(("127.0.0.1", server.port), timeout_s)

    return Downloader(
        DownloadSettings(allow=allow, max_gb=max_gb, seconds=seconds),
        resolve=resolve or known,
        connect=connect,
        tls=tls,
        slots=slots,
        idle_s=idle_s,
        slowest_bytes_s=slowest_bytes_s,
        attempts=attempts,
        pause_s=0.01,
    )


def reply(body: bytes, status: str = "200 OK", **headers: str) -> Answer:
    """The same answer to everybody."""
    given = {"Content-Length": str(len(body))} | {
        k.replace("_", "-"): v for k, v in headers.items()
    }
    head = "".join(f"{key}: {value}\r\n" for key, value in given.items())

    def answer(connection: socket.socket, request: str) -> None:
        connection.sendall(f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + body)

    return answer


def redirect(location: str, status: str = "302 Found") -> Answer:
    """A redirect to somewhere."""
    return reply(b"", status, Location=location)


def path_of(request: str) -> str:
    """The resource that a request asks for."""
    return request.split(" ", 2)[1]


def self_signed(folder: Path, host: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """TLS of a server with its own certificate for ``host``, and of a client that trusts it."""
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = folder / "server.pem"
    pem.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pem)
    client = ssl.create_default_context(cafile=str(pem))
    return server, client
