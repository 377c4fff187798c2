"""The prompt rewriter against a real HTTP server that speaks the protocol, well and badly."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
from PIL import Image

from s2v.model.config import SampleConfig
from s2v.model.errors import ModelError
from s2v.model.rewrite import rewrite
from s2v.model.sample import _rewritten
from s2v.model.sample_files import Request

GOOD = json.dumps(
    {"prompt": "A red  fox chases a grey hare.", "phrases": ["red fox", "a grey hare"]}
)
IMAGES = [np.full((700, 900, 3), 200, np.uint8), np.full((30, 20, 3), 90, np.uint8)]


class Server:
    """Answers with what is queued; keeps what it was asked."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, bytes]] = []
        self.asked: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.asked.append((self.path, dict(self.headers), body))
                status, answer = server.answers.pop(0)
                self.send_response(status)
                if status == 307:
                    self.send_header("Location", "/elsewhere")
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def says(self, *texts: str) -> None:
        self.answers += [
            (200, json.dumps({"choices": [{"message": {"content": t}}]}).encode()) for t in texts
        ]


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


def _config(server: Server) -> SampleConfig:
    return SampleConfig(rewriter_url=server.url, rewriter_model="some-vlm", rewriter_timeout_s=5)


def test_each_reference_gets_a_phrase_of_its_own(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("S2V_REWRITER_KEY", "secret")
    server.says(f"Sure!\n```json\n{GOOD}\n```")
    made = rewrite("it chases it", IMAGES, _config(server))
    assert made.prompt == "A red fox chases a grey hare."
    assert made.phrases == ("red fox", "a grey hare")
    path, headers, body = server.asked[0]
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer secret"
    assert body["model"] == "some-vlm"
    text, *pictures = body["messages"][1]["content"]
    assert text == {"type": "text", "text": "it chases it"}
    assert "2 reference image(s)" in body["messages"][0]["content"]
    sizes = []
    for picture in pictures:
        data = picture["image_url"]["url"].removeprefix("data:image/jpeg;base64,")
        sizes.append(Image.open(io.BytesIO(base64.b64decode(data))).size)
    assert sizes == [(512, 398), (20, 30)]


@pytest.mark.parametrize(
    ("bad", "fault"),
    [
        ("no json at all", "no such JSON"),
        ('{"prompt": "A red fox.", "phrases": ["red fox"]}', "1 phrases for 2"),
        ('{"prompt": "A fox.", "phrases": ["fox", "Fox"]}', "not distinct"),
        ('{"prompt": "A fox.", "phrases": ["fox", "hare"]}', "'hare' is not in the prompt"),
        ('{"prompt": "", "phrases": ["", "a"]}', "0 characters"),
    ],
)
def test_an_answer_that_does_not_fit_is_asked_for_again(
    server: Server, bad: str, fault: str
) -> None:
    server.says(bad, GOOD)
    assert rewrite("x", IMAGES, _config(server)).phrases[0] == "red fox"
    again = server.asked[1][2]["messages"]
    assert again[2] == {"role": "assistant", "content": bad}
    assert fault in again[3]["content"]
    server.says(bad, bad)
    with pytest.raises(ModelError, match="asked twice") as told:
        rewrite("x", IMAGES, _config(server))
    assert fault in str(told.value)
    assert "rewriter_url empty" in str(told.value)


def test_a_server_that_refuses_or_is_not_there_is_named(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("S2V_REWRITER_KEY", "secret")
    config = _config(server)
    server.answers = [(401, b"bad key"), (200, b"<html>"), (200, b'{"choices": []}'), (307, b"")]
    for message in ("HTTP 401: bad key", "no chat completion", "no chat completion", "HTTP 307"):
        with pytest.raises(ModelError, match=message) as told:
            rewrite("x", IMAGES, config)
        assert server.url in str(told.value)
        assert "secret" not in str(told.value)
    assert len(server.asked) == 4  # nothing was sent on to /elsewhere
    server.http.shutdown()
    server.http.server_close()
    with pytest.raises(ModelError, match="does not answer"):
        rewrite("x", IMAGES, config)


@pytest.mark.parametrize("url", ["file://host/answers", "ftp://x/v1", "http://", "http://a:b@c/v1"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ModelError, match="give http"):
        rewrite("x", IMAGES, SampleConfig(rewriter_url=url))


def test_sampling_uses_the_servers_prompt_and_keeps_what_was_asked(server: Server) -> None:
    server.says(GOOD)
    asked = Request("a", "it chases it", tuple(IMAGES))
    made = _rewritten(asked, IMAGES, _config(server))
    assert (made.prompt, made.asked) == ("A red fox chases a grey hare.", "it chases it")
    assert made.phrases == ("red fox", "a grey hare")
    # Nobody is asked without references, where phrases are given, or where it is off.
    for request, images, config in (
        (Request("a", "x", ()), [], _config(server)),
        (Request("a", "a hare", tuple(IMAGES), 0, ("hare", "hare")), IMAGES, _config(server)),
        (asked, IMAGES, SampleConfig()),
    ):
        assert _rewritten(request, images, config) is request
    assert len(server.asked) == 1
