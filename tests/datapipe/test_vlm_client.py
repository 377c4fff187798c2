"""The client of served models: it waits out what passes, and never blames a clip for the server."""

from __future__ import annotations

import json
import pickle
import socket
import ssl
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import vlm_double
from vlm_double import Behaviour, Double, Handler, completion, double, says, status

from s2v.datapipe.backends.vlm import options
from s2v.datapipe.backends.vlm.client import MAX_REPLY_BYTES, ChatClient
from s2v.datapipe.backends.vlm.options import VlmOptions
from s2v.datapipe.base.settings import SettingsError
from s2v.datapipe.roles import AnswerError, RoleUnavailableError, WeightsError

QUESTION = {"messages": [{"role": "user", "content": "What is this?"}], "temperature": 0}
GOOD = '{"caption": "a dog"}'


def client(*servers: Double, **other: Any) -> ChatClient:
    quick = {"first_wait_s": 0.01, "timeout_s": 1.0, "connect_timeout_s": 1.0, "tries": 3}
    given = {"urls": [server.url for server in servers], "model": vlm_double.MODEL}
    return ChatClient(options.read(VlmOptions, {**quick, **given, **other}, "roles.x"), "roles.x")


def for_real_requests(behave: Behaviour, otherwise: Behaviour) -> Behaviour:
    """One behaviour for the test's question, another for the probe that follows it."""

    def chosen(request: dict[str, Any], handler: Handler) -> None:
        probe = request.get("max_tokens") == 4
        (otherwise if probe else behave)(request, handler)

    return chosen


def huge(request: dict[str, Any], handler: Handler) -> None:
    handler.send(completion("x" * 10_000_000, handler.headers["X-Request-Id"]))


def other_id(request: dict[str, Any], handler: Handler) -> None:
    handler.say(GOOD, request_id="somebody-elses")


def html(request: dict[str, Any], handler: Handler) -> None:
    handler.send("<html><body>Welcome to nginx</body></html>", kind="text/html")


def no_choice(request: dict[str, Any], handler: Handler) -> None:
    handler.send(json.dumps({"id": "chatcmpl-1", "choices": []}))


def nested(request: dict[str, Any], handler: Handler) -> None:
    handler.send("[" * 200_000)


LASTING: dict[str, tuple[Behaviour, str]] = {
    "never answers": (vlm_double.hangs(1.5), "no whole answer within 0.3 s"),
    "drips": (vlm_double.drips(1.5), "no whole answer within 0.3 s"),
    "half an answer": (vlm_double.half, "ended early"),
    "half an answer of no stated length": (vlm_double.half_unstated, "no chat completion"),
    "hangs up": (vlm_double.drops, "lost|ended early"),
    "500": (status(500, '{"error": {"message": "CUDA error"}}'), "HTTP 500.*CUDA error"),
    "503": (status(503), "HTTP 503"),
    "429": (status(429), "HTTP 429"),
    "10 MB": (huge, f"longer than {MAX_REPLY_BYTES} bytes"),
    "a web page": (html, "no chat completion.*Welcome to nginx"),
    "no choices": (no_choice, "no chat completion"),
    "nested without end": (nested, "no chat completion"),
    "another request's answer": (other_id, "id of another request"),
    "key refused": (status(401, "no such key"), "HTTP 401"),
    "no such path": (status(404, "not found"), "HTTP 404"),
    "redirect": (status(307, Location="http://127.0.0.1:1/v1/chat/completions"), "redirects"),
}


@pytest.mark.parametrize("kind", LASTING)
def test_a_server_that_gives_no_answer_is_never_a_rows_fault(kind: str) -> None:
    behave, message = LASTING[kind]
    with double(behave) as server, pytest.raises(RoleUnavailableError, match=message) as caught:
        client(server, timeout_s=0.3, tries=2).ask(QUESTION)
    assert server.url in str(caught.value)
    assert getattr(caught.value, "path", None) == server.url


PASSING: dict[str, Behaviour] = {
    "429": status(429),
    "500": status(500),
    "502": status(502, "<html>bad gateway</html>"),
    "hangs": vlm_double.hangs(0.4),
    "half": vlm_double.half,
    "hangs up": vlm_double.drops,
    "another's answer": other_id,
    "a web page": html,
}


@pytest.mark.parametrize("kind", PASSING)
def test_trouble_that_passes_costs_nothing(kind: str) -> None:
    with double(PASSING[kind], PASSING[kind], says(GOOD)) as server:
        assert client(server, timeout_s=0.3).ask(QUESTION).text == GOOD
    assert len(server.requests) == 3
    assert server.requests[0] == server.requests[2]


@pytest.mark.parametrize("code", [400, 413, 422])
def test_a_request_the_server_refuses_costs_one_row_and_no_patience(code: int) -> None:
    told = '{"error": {"message": "At most 8 image(s) may be provided"}}'
    with double(status(code, told)) as server, pytest.raises(AnswerError, match="At most 8 image"):
        client(server).ask(QUESTION)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "behave", [status(500), vlm_double.drops, huge], ids=["500", "drop", "big"]
)
def test_a_row_that_breaks_a_server_which_answers_others_is_the_rows_fault(
    behave: Behaviour,
) -> None:
    """Else one poisonous picture would stop a run for ever."""
    chosen = for_real_requests(behave, says("A thing."))
    with double(chosen) as server, pytest.raises(AnswerError, match="answers other requests"):
        client(server).ask(QUESTION)
    assert len(server.requests) == 4


@pytest.mark.parametrize("behave", [status(503), status(429), vlm_double.hangs(1)])
def test_an_overloaded_server_never_costs_a_row(behave: Behaviour) -> None:
    chosen = for_real_requests(behave, says("A thing."))
    with double(chosen) as server, pytest.raises(RoleUnavailableError):
        client(server, timeout_s=0.2, tries=2).ask(QUESTION)


def test_nobody_there_is_told_with_the_address() -> None:
    with double(says(GOOD)) as server:
        asker = client(server, tries=2)
    with pytest.raises(RoleUnavailableError, match=r"127\.0\.0\.1:\d+/v1: no connection"):
        asker.ask(QUESTION)
    with pytest.raises(RoleUnavailableError, match=r"is the server of roles\.x up\?"):
        asker.load()


def test_a_host_that_swallows_connections_is_given_up_in_time() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        url = f"http://127.0.0.1:{full.getsockname()[1]}/v1"
        asker = client(Double(url=url), tries=1, timeout_s=0.3, connect_timeout_s=0.3)
        began = time.monotonic()
        with pytest.raises(RoleUnavailableError, match="no whole answer"):
            asker.ask(QUESTION)
        assert time.monotonic() - began < 2


def test_the_servers_own_word_when_to_come_back_is_kept() -> None:
    with double(status(429, Retry_After="1"), says(GOOD)) as server:
        began = time.monotonic()
        assert client(server, first_wait_s=0).ask(QUESTION).text == GOOD
        assert 0.7 <= time.monotonic() - began < 3


def test_a_dead_server_of_two_costs_no_row() -> None:
    with double(says("one")) as first, double(says("two")) as second:
        asker = client(first, second)
        questions = [{**QUESTION, "seed": n} for n in range(12)]
        before = [asker.ask(question).text for question in questions]
        assert set(before) == {"one", "two"}
        assert [asker.ask(question).text for question in questions] == before
        first.behaviours[:] = [vlm_double.drops]
        hasty = client(first, second, tries=1)
        assert [hasty.ask(question).text for question in questions] == ["two"] * 12


def test_a_server_of_two_that_lost_its_model_costs_no_row() -> None:
    with double(says("two")) as up, double(status(404, "no such model")) as lost:
        asker = client(lost, up, tries=1)
        assert {asker.ask({**QUESTION, "seed": n}).text for n in range(6)} == {"two"}
        up.behaviours[:] = [status(401)]
        with pytest.raises(RoleUnavailableError, match="asked 2 times"):
            client(lost, up).ask(QUESTION)


def test_an_actor_that_starts_while_a_server_of_two_is_away_still_works() -> None:
    with double(says("two")) as up:
        with double(says("one")) as gone:
            asker = client(gone, up)
        asker.load()
        assert {asker.ask({**QUESTION, "seed": n}).text for n in range(6)} == {"two"}
    with pytest.raises(RoleUnavailableError):
        asker.load()


def test_another_model_at_the_server_stops_the_run_before_it_asks_anything() -> None:
    with double(says(GOOD), models=("llama", "qwen")) as server:
        with pytest.raises(WeightsError, match=r"serves 'llama', 'qwen', not 'double'; mend roles"):
            client(server).load()
        assert not server.requests


def test_an_answer_longer_than_the_model_has_room_for_is_refused_at_once() -> None:
    with (
        double(says(GOOD)) as server,
        pytest.raises(WeightsError, match=r"8192 tokens.*max_tokens"),
    ):
        client(server, max_tokens=8192).load()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (html, "no list of models"),
        (status(401, "who are you?"), "HTTP 401"),
        (status(302, Location="http://127.0.0.1:1/"), "redirects"),
        (lambda _, handler: handler.send("{}"), "no list of models"),
    ],
)
def test_what_is_no_model_server_is_named_at_once(answer: Behaviour, message: str) -> None:
    with double(says(GOOD), on_models=answer) as server:
        with pytest.raises(RoleUnavailableError, match=message):
            client(server).load()
        assert server.gets == 1


def test_a_server_that_is_still_starting_is_waited_for() -> None:
    answers = [status(503), status(503)]

    def behave(request: dict[str, Any], handler: Handler) -> None:
        if answers:
            answers.pop()(request, handler)
        else:
            handler.send(json.dumps({"data": [{"id": vlm_double.MODEL}]}))

    with double(says(GOOD), on_models=behave) as server:
        client(server).load()
        assert server.gets == 3


def test_redirects_lead_nowhere() -> None:
    with double(says("secret of another host")) as elsewhere:
        target = f"{elsewhere.url}/chat/completions"
        with double(status(307, Location=target)) as server, pytest.raises(RoleUnavailableError):
            client(server).ask(QUESTION)
        assert not elsewhere.requests


SECRET = "sk-very-secret-0123456789"  # noqa: S105  of nobody


def test_the_key_is_sent_and_appears_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S2V_TEST_KEY", SECRET)
    with double(says(GOOD)) as server:
        asker = client(server, api_key_env="S2V_TEST_KEY")
        asker.load()
        asker.ask(QUESTION)
        assert [h["Authorization"] for h in server.headers] == [f"Bearer {SECRET}"] * 2
        server.behaviours[:] = [status(401, f"bad key {SECRET}, go away")]
        with pytest.raises(RoleUnavailableError, match="go away") as caught:
            asker.ask(QUESTION)
        told = [str(caught.value), repr(caught.value.args), repr(asker.options)]
        assert not any(SECRET in text for text in told)
        assert SECRET.encode() not in pickle.dumps(asker)


@pytest.mark.parametrize("key", ["", "  ", "with space", "line\nbreak", "schlüssel"])
def test_a_missing_or_broken_key_is_told_without_showing_it(
    monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("S2V_TEST_KEY", key)
    asker = client(Double(url="http://127.0.0.1:1/v1"), api_key_env="S2V_TEST_KEY")
    with pytest.raises(RoleUnavailableError, match="S2V_TEST_KEY") as caught:
        asker.load()
    assert not key.strip() or key not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host/v1",
        "file:/etc/passwd",
        "host:8000",
        "http://",
        "http://user:hunter2@host:8000/v1",
        "http://host:99999/v1",
        "http://host:8000/v1?key=hunter2",
        "http://host:8000/v1\nX: y",
    ],
)
def test_addresses_that_are_none_are_refused_without_repeating_passwords(url: str) -> None:
    with pytest.raises(SettingsError, match=r"roles\.x\.urls\.0") as caught:
        client(Double(url=url))
    assert "hunter2" not in str(caught.value)


def test_a_key_written_where_its_variables_name_belongs_is_not_repeated() -> None:
    with pytest.raises(SettingsError, match="not the key") as caught:
        client(Double(url="http://h/v1"), api_key_env=SECRET)
    assert SECRET not in str(caught.value)


def test_an_address_without_a_path_means_v1() -> None:
    with double(says(GOOD)) as server:
        assert client(Double(url=server.url.removesuffix("/v1"))).ask(QUESTION).text == GOOD


def test_servers_that_give_ids_of_their_own_can_be_used_when_named_so() -> None:
    with double(other_id) as server:
        assert client(server, server="openai").ask(QUESTION).text == GOOD


def test_an_encrypted_server_is_used_only_when_its_certificate_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pem = vlm_double.certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    large = json.dumps({"caption": "x" * 200_000})
    with double(says(large), tls=context) as server:
        with pytest.raises(RoleUnavailableError, match="certificate verify failed"):
            client(server, tries=1).load()
        monkeypatch.setenv("SSL_CERT_FILE", str(pem))
        asker = client(server, tries=1)
        asker.load()
        assert asker.ask({**QUESTION, "filler": "y" * 500_000}).text == large
        server.behaviours[:] = [vlm_double.drips(2)]
        hasty = client(server, tries=1, timeout_s=0.3)
        hasty.load()
        began = time.monotonic()
        with pytest.raises(RoleUnavailableError, match="no whole answer"):
            hasty.ask(QUESTION)
        assert time.monotonic() - began < 3


def test_many_threads_each_get_their_own_answer() -> None:
    def echo(request: dict[str, Any], handler: Handler) -> None:
        time.sleep(0.01 * (request["seed"] % 3))
        handler.say(str(request["seed"]))

    with double(echo) as server, ThreadPoolExecutor(16) as pool:
        asker = client(server)
        answers = pool.map(lambda n: asker.ask({**QUESTION, "seed": n}).text, range(64))
        assert list(answers) == [str(n) for n in range(64)]
        assert server.most_at_once > 4


def cpu_of_thread(work: Callable[[], object]) -> float:
    began = time.thread_time()
    work()
    return time.thread_time() - began


def test_the_clients_own_cost_is_milliseconds() -> None:
    """A request with three pictures of 200 kB; the bound is loose, as machines differ."""
    picture = {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64," + "A" * 270_000}}
    question = {**QUESTION, "messages": [{"role": "user", "content": [picture] * 3}]}
    with double(says(GOOD)) as server:
        asker = client(server)
        asker.ask(question)
        spent = min(cpu_of_thread(lambda: asker.ask(question)) for _ in range(5))
    assert spent < 0.1


def test_a_stuck_request_leaves_no_thread_behind() -> None:
    before = threading.active_count()
    with double(vlm_double.hangs(0.5)) as server, pytest.raises(RoleUnavailableError):
        client(server, timeout_s=0.1, tries=2).ask(QUESTION)
    time.sleep(0.6)
    assert threading.active_count() <= before + 1
