"""Judged scores: nobody is asked unless named, nothing is guessed, nothing is asked twice."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from s2v.evals.cli import main
from s2v.evals.encoders.judge import KEY, Endpoint, KeptAnswers
from s2v.evals.encoders.production import Encoders
from s2v.evals.errors import EvalError
from s2v.evals.metrics import SUITES, build
from s2v.evals.metrics.base import Case
from s2v.evals.metrics.judged import head_stride, parse_score


class Server(ThreadingHTTPServer):
    """Answers in turn; a number below 100 is text, others are a status."""

    replies: list[Any]
    asked: list[tuple[dict[str, Any], str | None]]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append((json.loads(body), self.headers.get("Authorization")))
        reply = self.server.replies[min(len(self.server.asked), len(self.server.replies)) - 1]
        self.send_response(reply if isinstance(reply, int) else 200)
        if isinstance(reply, int) and 300 <= reply < 400:
            self.send_header("Location", f"http://127.0.0.1:{self.server.server_port}/elsewhere")
        self.end_headers()
        if not isinstance(reply, int):
            content = {
                "choices": [{"message": {"content": reply}}],
                "usage": {"prompt_tokens": 700, "completion_tokens": 2},
            }
            self.wfile.write(json.dumps(content).encode())

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server(("127.0.0.1", 0), Handler)
    made.asked = []
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()


def endpoint(server: Server) -> Endpoint:
    return Endpoint(f"http://127.0.0.1:{server.server_port}/v1", "org/model-7b", pause_s=0.01)


def case(n: int = 20) -> Case:
    frames = {i: np.full((48, 64, 3), i, np.uint8) for i in range(n)}
    return Case(frames, [i * 40_000 for i in range(n)])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4", 4), (" 4.", 4), ("Score: 3", 3), ("score=2", 2), ("5/5", 5), ("**1**", 1),
        ("4.0", 4), ("error", None), ("", None), ("6", None), ("0", None), ("3.5", None),
        ("between 3 and 4", None), ("4 out of 10", None), ("I would say 4", None),
    ],
)  # fmt: skip
def test_only_one_clear_number_is_an_answer(text: str, value: int | None) -> None:
    assert parse_score(text) == value


def test_sixteen_frames_are_those_of_the_published_script() -> None:
    assert head_stride(81) == [i * 5 for i in range(16)]
    assert head_stride(5) == [0, 1, 2, 3, 4]


def test_nobody_is_asked_unless_an_endpoint_is_named(tmp_path: Path) -> None:
    assert not any(p.startswith("judged") for suite in SUITES.values() for p in suite)
    with pytest.raises(EvalError, match=r"judged\.structure.*--judge"):
        build("judged.structure@endpoint")


def test_the_mean_of_three_answers_with_abstentions_and_cost(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY, "secret")
    server.replies = ["4", "I cannot tell", "Score: 3"]
    judge = KeptAnswers(endpoint(server), tmp_path / "answers")
    (metric,) = build("judged.structure@endpoint", Encoders(judge=judge))
    assert metric.spec.protocol.startswith("judged.structure@endpoint~org-model-7b-")
    found = metric.measure(case())
    assert found.score == 3.5
    assert found.parts == {"abstained": 1, "spread": 1, "tokens_in": 2100, "tokens_out": 6}
    body, key = server.asked[0]
    assert key == "Bearer secret"
    assert len(body["messages"][0]["content"]) == 17
    assert body["model"] == "org/model-7b"
    assert [b["seed"] for b, _ in server.asked] == [0, 1, 2]

    # Asked again: no request, the same answer; another frame is another question.
    again = KeptAnswers(endpoint(server), tmp_path / "answers")
    (metric,) = build("judged.structure@endpoint", Encoders(judge=again))
    assert metric.measure(case()) == found
    assert len(server.asked) == 3
    metric.measure(case(40))
    assert len(server.asked) == 6
    for kept, damage in zip((tmp_path / "answers").iterdir(), ('{"text": 4}', "[]"), strict=False):
        kept.write_text(damage)  # no answer any more: asked for again
    again = KeptAnswers(endpoint(server), tmp_path / "answers")
    (metric,) = build("judged.structure@endpoint", Encoders(judge=again))
    assert metric.measure(case()).status == metric.measure(case(40)).status == "scored"
    assert len(server.asked) == 8
    assert "secret" not in "".join(p.read_text() for p in (tmp_path / "answers").iterdir())


def test_a_judge_without_an_opinion_is_a_failure_and_no_number(server: Server) -> None:
    server.replies = ["error"]
    (metric,) = build("judged.natural@endpoint", Encoders(judge=endpoint(server)))
    found = metric.measure(case())
    assert (found.status, found.reason) == ("failed", "judge_abstained")


def test_a_busy_endpoint_is_asked_again_and_a_wrong_one_is_named(server: Server) -> None:
    server.replies = [503, 429, "2"]
    assert endpoint(server).ask([], "?").text == "2"
    server.asked.clear()
    server.replies = [404]
    with pytest.raises(EvalError, match=r"status 404; is 'org/model-7b' there"):
        endpoint(server).ask([], "?")
    assert len(server.asked) == 1
    server.replies = [302]
    with pytest.raises(EvalError, match="status 302"):  # the key is carried to nobody else
        endpoint(server).ask([], "?")
    server.replies = [500]
    with pytest.raises(EvalError, match="status 500 after 4 tries"):
        endpoint(server).ask([], "?")
    for url in ("file:/etc/passwd", "localhost:8000", "http://me@host/v1"):
        with pytest.raises(EvalError, match="judge"):
            Endpoint(url, "m")


def test_a_run_asks_once_per_video_and_run_and_goes_on_from_the_kept_answers(
    server: Server, study: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.replies = ["5"]
    arguments = [
        "run", str(study.manifest), "--out", str(tmp_path / "out"), "--no-progress", "--json",
        "--suite", "judged.natural@endpoint", "--judge",
        f"http://127.0.0.1:{server.server_port}/v1", "--judge-model", "m",
    ]  # fmt: skip
    assert main(arguments) == 0, capsys.readouterr().err
    summary = json.loads(capsys.readouterr().out)
    assert [r["mean"] for r in summary["results"]] == [5.0]
    assert len(server.asked) == 12
    assert main(arguments) == 0
    assert len(server.asked) == 12
    assert main([*arguments[:-2]]) == 1
    assert "belong together" in capsys.readouterr().err
