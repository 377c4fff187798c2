"""A run's own vLLM servers: started, reached with the key, ended with it, clear when they fail."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_server import TinyServer, alive, chat, picture, text, tiny_settings

from s2v.datapipe.backends.vlm.fleet import _admit, serving
from s2v.datapipe.backends.vlm.leash import processes_below
from s2v.datapipe.backends.vlm.serve import ServerStartError, VllmServer, VllmSettings
from s2v.datapipe.base.settings import SettingsError, parse
from s2v.datapipe.roles import WeightsError


def test_a_mistyped_setting_is_named() -> None:
    with pytest.raises(SettingsError, match="max_model_len"):
        parse(VllmSettings, {"model": "a/b", "max_model_length": 10}, "roles.captioner")
    with pytest.raises(SettingsError, match="--port=80 is not yours"):
        parse(VllmSettings, {"model": "a/b", "arguments": ["--port=80"]}, "roles.captioner")


def test_settings_reach_the_command_line_as_a_list_without_a_shell() -> None:
    settings = VllmSettings(model="a/b; rm -rf c", gpus=4, arguments=("--seed", "3"), max_images=5)
    command = settings.command("127.0.0.1", 81)
    assert "--model=a/b; rm -rf c" in command
    assert "--tensor-parallel-size=4" in command
    assert '--limit-mm-per-prompt={"image": 5}' in command
    assert command.index("--seed") < command.index("--port=81")  # ours win


def test_a_model_that_is_not_there_is_said_at_once(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(WeightsError, match="no such folder"):
        VllmServer(tiny_settings(tmp_path / "none")).start()
    with pytest.raises(WeightsError, match=r"config\.json"):
        VllmServer(tiny_settings(tmp_path)).start()
    assert time.monotonic() - began < 2


def test_a_server_without_a_key_is_not_opened_to_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("S2V_TEST_KEY", raising=False)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ServerStartError, match="name it in api_key_env"):
        VllmServer(tiny_settings(tmp_path), host="192.0.2.1").start()
    with pytest.raises(ServerStartError, match="S2V_TEST_KEY is not set"):
        VllmServer(tiny_settings(tmp_path, api_key_env="S2V_TEST_KEY")).start()


@pytest.mark.parametrize(
    ("nodes", "settings", "said"),
    [
        ([(8, 2), (8, 1)], {"gpus": 1}, None),
        ([(8, 2), (8, 1)], {"gpus": 2}, r"1 of 3 .* 2 nodes have \[2, 1\] GPUs"),
        ([(1, 8)], {"gpus": 1}, "1 of 3"),
        ([(64, 0)], {"gpus": 0}, None),
        ([(8, 4), (8, 4)], {"gpus": 1, "address": "loopback"}, 'address = "node"'),
    ],
)
def test_servers_that_a_cluster_cannot_hold_are_refused_with_the_numbers(
    nodes: list[tuple[int, int]], settings: dict[str, Any], said: str | None
) -> None:
    """Ray would wait for ever, without a word."""
    listed = [{"Alive": True, "Resources": {"CPU": cpu, "GPU": gpu}} for cpu, gpu in nodes]
    listed.append({"Alive": False, "Resources": {"CPU": 99, "GPU": 99}})
    wanted = VllmSettings(**{"model": "a/b", "address": "node", **settings})
    if said is None:
        _admit(listed, wanted, 3)
    else:
        with pytest.raises(ServerStartError, match=said):
            _admit(listed, wanted, 3)


@pytest.mark.vllm
def test_a_model_that_vllm_refuses_is_explained_by_its_log(
    vllm_server: TinyServer, tmp_path: Path
) -> None:
    config = json.loads((vllm_server.folder / "config.json").read_text())
    config["architectures"] = ["NoSuchModelForAnything"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    server = VllmServer(tiny_settings(tmp_path))
    with pytest.raises(ServerStartError, match="first error in its log") as failed:
        server.start()
    assert "NoSuchModelForAnything" in str(failed.value)
    assert f"--model={tmp_path}" in str(failed.value)
    assert server.base_url == ""
    assert server.log is not None
    assert str(server.log) in str(failed.value)
    assert server.log.exists()
    server.stop()


@pytest.mark.vllm
def test_a_start_that_takes_too_long_is_given_up_and_leaves_nothing(
    vllm_server: TinyServer, tmp_path: Path
) -> None:
    server = VllmServer(tiny_settings(vllm_server.folder, start_timeout_s=1, log_folder=tmp_path))
    before = set(processes_below(os.getpid()))
    with pytest.raises(ServerStartError, match="start_timeout_s"):
        server.start()
    assert set(processes_below(os.getpid())) <= before


@pytest.fixture
def local_ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import ray

    monkeypatch.setenv("S2V_TEST_KEY", "only-for-this-run")
    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        object_store_memory=200 * 1024 * 1024,
        log_to_driver=False,
    )
    yield
    ray.shutdown()


@pytest.mark.vllm
@pytest.mark.ray
def test_a_server_on_a_node_wants_the_key_and_dies_with_its_actor(
    vllm_server: TinyServer, local_ray: None, tmp_path: Path
) -> None:
    own = {"address": "node", "api_key_env": "S2V_TEST_KEY", "log_folder": tmp_path}
    settings = tiny_settings(vllm_server.folder, **own)
    question = [picture(5), text("What is this?")]
    with serving(settings) as urls:
        [url] = urls
        assert url != vllm_server.base_url
        with pytest.raises(urllib.error.HTTPError, match="401"):
            chat(url, question)
        key = {"Authorization": "Bearer only-for-this-run"}
        answer = chat(url, question, headers=key)
        assert answer["message"] == vllm_server.chat(question)["message"]
        # The actor's process is the one whose child is the leash.
        actor, leash = _owner_and_leash()
        server = processes_below(leash)
        assert len(server) >= 2
        os.kill(actor, signal.SIGKILL)
        deadline = time.monotonic() + 30
        while any(map(alive, server)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not [pid for pid in server if alive(pid)]


def _owner_and_leash() -> tuple[int, int]:
    """Find the leash among Ray's processes, and its parent."""
    for pid in processes_below(os.getpid()):
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        if any(word.endswith(b"leash.py") for word in command) and parent != os.getpid():
            return parent, pid
    raise AssertionError("no leash below Ray")
