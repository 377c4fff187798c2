"""A double of an OpenAI-compatible server that can read, be slow, lie, fail and die.

It is no vision-language model: where a test needs an answer that depends on the picture, it decodes
the posted JPEG and reads a code that is drawn in it. The real vLLM is asked in ``tests/vllm``.
"""

from __future__ import annotations

import base64
import ipaddress
import json
import random
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from s2v.datapipe.backends import registry

MODEL = "double"
CODE_BITS = 16

Pixels = np.ndarray
#: Takes the request's JSON and the handler, and answers in its own way.
Behaviour = Callable[[dict[str, Any], "Handler"], None]


def draw_code(image: Pixels, code: int) -> Pixels:
    """A copy with a number drawn in it: 4 x 4 black and white blocks inside a grey frame."""
    drawn = image.copy()
    height, width = drawn.shape[:2]
    for n in range(CODE_BITS):
        row, column = divmod(n, 4)
        y0, y1 = (round(height * (row + k) / 4) for k in (0, 1))
        x0, x1 = (round(width * (column + k) / 4) for k in (0, 1))
        drawn[y0:y1, x0:x1] = 235 if code >> n & 1 else 20
    return drawn


def read_code(image: Pixels) -> int:
    """The number that :func:`draw_code` drew, whatever JPEG, H.264 or scaling did to it."""
    height, width = image.shape[:2]
    code = 0
    for n in range(CODE_BITS):
        row, column = divmod(n, 4)
        y, x = (round(size * (2 * k + 1) / 8) for size, k in ((height, row), (width, column)))
        block = image[
            y - height // 32 : y + height // 32 + 1, x - width // 32 : x + width // 32 + 1
        ]
        mean = float(block.mean())
        assert not 90 < mean < 165, f"block {n} is neither black nor white: {mean}"
        code |= (mean > 128) << n
    return code


def pictures(request: dict[str, Any]) -> list[Pixels]:
    """The pictures of a chat request, RGB, in order."""
    found = []
    for message in request["messages"]:
        if isinstance(message["content"], str):
            continue
        for part in message["content"]:
            if part["type"] == "image_url":
                data = base64.b64decode(part["image_url"]["url"].partition("base64,")[2])
                bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
                found.append(bgr[:, :, ::-1])
    return found


def words(request: dict[str, Any]) -> str:
    """All that a chat request says."""
    said = []
    for message in request["messages"]:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        said += [part["text"] for part in parts if part["type"] == "text"]
    return "\n".join(said)


class Handler(BaseHTTPRequestHandler):
    """One request; the double's behaviour answers it."""

    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        double = self.server.double
        double.note(self, None)
        if double.on_models is not None:
            double.on_models({}, self)
        else:
            models = [
                {"id": name, "object": "model", "max_model_len": 8192} for name in double.models
            ]
            self.send(json.dumps({"object": "list", "data": models}))

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        request = json.loads(self.rfile.read(length))
        double = self.server.double
        double.note(self, request)
        behave = double.next_behaviour()
        with double.busy():
            behave(request, self)

    def send(
        self, body: str | bytes, status: int = 200, kind: str = "application/json", **headers: str
    ) -> None:
        """A whole answer."""
        data = body.encode() if isinstance(body, str) else body
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def say(self, text: str, finish: str = "stop", request_id: str | None = None) -> None:
        """A chat completion, with the request's id as vLLM gives it back."""
        self.send(completion(text, request_id or self.headers["X-Request-Id"], finish))

    def drop(self) -> None:
        """End the connection with a reset, in the middle of whatever it was."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)


def completion(text: str, request_id: str, finish: str = "stop") -> str:
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": finish,
    }
    return json.dumps(
        {"id": f"chatcmpl-{request_id}", "object": "chat.completion", "choices": [choice]}
    )


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    double: Double

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # clients that hang up are part of the tests


@dataclass
class Double:
    """What the server does, and what it has seen."""

    url: str = ""
    models: tuple[str, ...] = (MODEL,)
    #: Behaviours in turn; the last one for ever.
    behaviours: list[Behaviour] = field(default_factory=list)
    on_models: Behaviour | None = None
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    gets: int = 0
    most_at_once: int = 0
    _at_once: int = 0
    _turn: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, handler: Handler, request: dict[str, Any] | None) -> None:
        with self._lock:
            self.headers.append(dict(handler.headers.items()))
            if request is None:
                self.gets += 1
            else:
                self.requests.append(request)

    def next_behaviour(self) -> Behaviour:
        with self._lock:
            turn = min(self._turn, len(self.behaviours) - 1)
            self._turn += 1
            return self.behaviours[turn]

    @contextmanager
    def busy(self) -> Iterator[None]:
        with self._lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            yield
        finally:
            with self._lock:
                self._at_once -= 1


@contextmanager
def double(
    *behaviours: Behaviour, tls: ssl.SSLContext | None = None, **other: Any
) -> Iterator[Double]:
    """A server on a free port of this machine until the block ends."""
    made = Double(behaviours=list(behaviours), **other)
    server = Server(("127.0.0.1", 0), Handler)
    server.double = made
    made.url = f"http{'s' if tls else ''}://127.0.0.1:{server.server_address[1]}/v1"
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def certificate(folder: Path) -> Path:
    """A self-signed certificate of 127.0.0.1 with its key, in one PEM file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    host = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(host, critical=False)
        .sign(key, hashes.SHA256())
    )
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
    path = folder / "server.pem"
    path.write_bytes(private + made.public_bytes(pem))
    return path


# Behaviours


def says(*texts: str) -> Behaviour:
    """Answers with these texts in turn, the last one for ever."""
    left = list(texts)
    lock = threading.Lock()

    def behave(request: dict[str, Any], handler: Handler) -> None:
        with lock:
            text = left.pop(0) if len(left) > 1 else left[0]
        handler.say(text)

    return behave


def status(code: int, body: str = '{"error": {"message": "no"}}', **headers: str) -> Behaviour:
    """Answers with an HTTP status."""
    return lambda request, handler: handler.send(body, code, **headers)


def hangs(seconds: float) -> Behaviour:
    """Takes the request and says nothing."""

    def behave(request: dict[str, Any], handler: Handler) -> None:
        time.sleep(seconds)
        handler.close_connection = True

    return behave


def drips(seconds: float) -> Behaviour:
    """Sends a byte now and then, each well within any time-out that starts anew with it."""

    def behave(request: dict[str, Any], handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "100000")
        handler.end_headers()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.05)
        handler.close_connection = True

    return behave


def half(request: dict[str, Any], handler: Handler) -> None:
    """Half of a good answer, whose length was stated, and the end of the connection."""
    whole = completion('{"caption": "half"}', handler.headers["X-Request-Id"]).encode()
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(whole)))
    handler.end_headers()
    handler.wfile.write(whole[: len(whole) // 2])
    handler.close_connection = True


def half_unstated(request: dict[str, Any], handler: Handler) -> None:
    """The same without a stated length, as servers before HTTP/1.1 do."""
    whole = completion('{"caption": "half"}', handler.headers["X-Request-Id"]).encode()
    handler.protocol_version = "HTTP/1.0"
    handler.send_response(200)
    handler.end_headers()
    handler.wfile.write(whole[: len(whole) // 2])
    handler.close_connection = True


def drops(request: dict[str, Any], handler: Handler) -> None:
    """Hangs up."""
    handler.drop()


def reads_the_code(seed: int, trouble: float = 0.0, longest_s: float = 0.05) -> Behaviour:
    """Answers with the code in the first picture, late, in no order, and often only when asked
    again: a share ``trouble`` of the requests is turned away or dropped."""
    dice = random.Random(seed)
    lock = threading.Lock()

    def behave(request: dict[str, Any], handler: Handler) -> None:
        with lock:
            delay, luck = dice.random() * longest_s, dice.random()
        time.sleep(delay)
        if luck < trouble / 3:
            handler.send('{"error": {"message": "busy"}}', 429)
        elif luck < 2 * trouble / 3:
            handler.send('{"error": {"message": "starting"}}', 503)
        elif luck < trouble:
            handler.drop()
        else:
            codes = {read_code(picture) for picture in pictures(request)}
            handler.say(json.dumps({"caption": f"codes {sorted(codes)}"}))

    return behave


# What tests ask of it


def made(role: str, server: Double | str, **other: Any) -> Any:
    """The served model of a role, as the registry makes it, at a double or an address."""
    url = server if isinstance(server, str) else server.url
    given = {"urls": [url], "model": MODEL, "first_wait_s": 0.01, "timeout_s": 5, "tries": 2}
    reference = registry.BACKENDS[role]["vlm"]
    return registry.factory(reference)({**given, **other}, f"roles.{role}", {})


def picture(width: int = 320, height: int = 240, seed: int = 0) -> Pixels:
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(noise, (width, height)))


def subjects(*found: Mapping[str, Any]) -> str:
    """An answer to the prompt of phrases."""
    plain = {"noun": "man", "class": "human", "singular": True}
    return json.dumps({"subjects": [{**plain, **one} for one in found]})


def boxed(*found: tuple[list[float], str]) -> str:
    """An answer to the prompt of boxes."""
    return json.dumps({"boxes": [{"bbox_2d": box, "label": label} for box, label in found]})
