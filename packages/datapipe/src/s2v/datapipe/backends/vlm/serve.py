"""A vLLM server that belongs to a run: started for it, ended with it.

The vision-language model is reached over HTTP, whoever serves it. Either the user names servers
that are there already, or the run starts its own with this file: one per GPU node (or per group
of GPUs), each held by a Ray actor, and the client gets the list of their addresses. The server is
vLLM's own OpenAI-compatible one, started with a list of arguments; it ends with its owner, also
when that is killed (:mod:`.leash`). Servers on a Ray cluster: :mod:`.fleet`.

Why not Ray Data's LLM processor, which runs vLLM inside a stage:

* Both ways of serving share one client, and with it one path of prompts, schemas, validation,
  retries and quarantine. A processor would be a second one, with its own ways to fail.
* ``ray[llm]`` 2.60 is made for vLLM 0.29 and this lock has 0.32: its multimodal stage imports
  ``vllm.entrypoints.chat_utils``, which is gone. Without images it runs; captions need images.
* Its ``should_continue_on_error`` covers the engine stage only. In the stage that prepares
  images, one row that cannot be read fails its batch, and with it the job.
* A served model is shared by the roles that ask it (captions, phrases, boxes, checks); with a
  processor for each, every one would load the weights for itself.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import socket
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from s2v.datapipe.backends.vlm.leash import Leashed
from s2v.datapipe.roles import WeightsError

_OURS: Final = frozenset(
    {"--model", "--served-model-name", "--host", "--port", "--uds", "--api-key"}
)
PORT_ATTEMPTS: Final = 3
_TAIL_LINES: Final = 15
_ERROR_LINE: Final = re.compile(r"\b\w*(?:Error|Exception)\b: .")
LOOPBACK: Final = "127.0.0.1"


class ServerStartError(RuntimeError):
    """A server that did not come up; the message has the end of its log and the way out."""


class VllmSettings(BaseModel):
    """How to start one server.

    Attributes:
        model: folder of a checkpoint, or its id on the Hugging Face hub.
        revision: branch, tag or commit on the hub.
        served_name: the name that requests use; by default the model's.
        dtype: of the weights, as vLLM calls it.
        gpus: GPUs of one server, over which every layer is split (tensor parallel); 0 for a
            vLLM that is built for the CPU.
        cpus: logical CPUs that Ray reserves for one server.
        max_model_len: longest prompt and answer together, in tokens; by default the model's.
        max_images: images in one request; more are refused with HTTP 400.
        max_sequences: requests that are computed at the same time; by default vLLM's choice.
        arguments: more words for vLLM's command line, such as ``--gpu-memory-utilization``.
        environment: more variables for the server's process; no secrets, as settings are
            written into run.json (variables of the run itself reach the server anyway).
        address: "loopback" serves this machine only; "node" serves the cluster, and needs a key.
        api_key_env: name of the variable, set on every node, that holds the key which requests
            must then carry; it does not appear on a command line.
        start_timeout_s: how long loading may take.
        log_folder: where the log stays; by default a temporary folder, removed by ``stop``.
            The log of a server that did not come up stays.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(min_length=1)
    revision: str = ""
    served_name: str = ""
    dtype: str = "auto"
    gpus: int = Field(default=1, ge=0)
    cpus: float = Field(default=1, ge=0)
    max_model_len: int | None = Field(default=None, ge=1)
    max_images: int = Field(default=8, ge=1)
    max_sequences: int | None = Field(default=None, ge=1)
    arguments: tuple[str, ...] = ()
    environment: dict[str, str] = {}
    address: Literal["loopback", "node"] = "loopback"
    api_key_env: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    start_timeout_s: float = Field(default=1800, gt=0)
    log_folder: Path | None = None

    @field_validator("arguments")
    @classmethod
    def _leaves_ours_alone(cls, arguments: tuple[str, ...]) -> tuple[str, ...]:
        for word in arguments:
            if word.partition("=")[0].replace("_", "-") in _OURS:
                raise ValueError(f"{word} is not yours to set here; there is a setting for it")
        return arguments

    @property
    def name(self) -> str:
        """The model's name in requests."""
        return self.served_name or self.model

    def command(self, host: str, port: int) -> list[str]:
        """Return program and arguments of a server at that address."""
        words = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *self.arguments]
        words += [f"--model={self.model}", f"--served-model-name={self.name}"]
        words += [f"--host={host}", f"--port={port}", f"--dtype={self.dtype}"]
        words += [f"--limit-mm-per-prompt={json.dumps({'image': self.max_images})}"]
        # Free white space lets a model that is unsure pad its JSON until the answer is cut off.
        words += [
            '--structured-outputs-config={"backend":"xgrammar","disable_any_whitespace":true}'
        ]
        words += [f"--revision={self.revision}"] if self.revision else []
        words += [f"--max-model-len={self.max_model_len}"] if self.max_model_len else []
        words += [f"--max-num-seqs={self.max_sequences}"] if self.max_sequences else []
        words += [f"--tensor-parallel-size={self.gpus}"] if self.gpus > 1 else []
        return words


class VllmServer:
    """One server on this machine, running between ``start`` and ``stop``, or inside ``with``.

    Args:
        settings: how to start it.
        host: the address it listens on; anything but loopback needs a key.
    """

    def __init__(self, settings: VllmSettings, host: str = LOOPBACK) -> None:
        self.settings, self.host = settings, host
        self.base_url = ""
        self.log: Path | None = None
        self._process: Leashed | None = None
        self._temporary: Path | None = None

    def start(self) -> str:
        """Start the server, wait until it answers, and return its address.

        A server that runs already is left as it is.

        Returns:
            ``http://<host>:<port>``; the API is below ``/v1``.

        Raises:
            WeightsError: the model's folder is not there or holds no model.
            ServerStartError: vLLM is not installed, the key is missing, or the server ended or
                hung while starting.
        """
        if self._process and self._process.exit_code() is None:
            return self.base_url
        self.stop()
        self.check()
        for attempt in range(1, PORT_ATTEMPTS + 1):
            try:
                self._start_on(_free_port(self.host))
                return self.base_url
            except ServerStartError as error:
                self._end()
                # Between choosing a port and vLLM's taking it, somebody else may.
                if "address already in use" in str(error).lower() and attempt < PORT_ATTEMPTS:
                    continue
                raise
            except BaseException:
                self.stop()
                raise
        raise AssertionError("the last attempt returns or raises")

    def check(self) -> None:
        """Refuse what cannot work before minutes of loading.

        Raises:
            WeightsError, ServerStartError: as of :meth:`start`.
        """
        model = Path(self.settings.model).expanduser()
        if model.is_dir():
            if not (model / "config.json").is_file():
                raise WeightsError(f"{model}: holds no config.json, so it is no model for vLLM")
        elif model.is_absolute() or self.settings.model.startswith((".", "~")):
            raise WeightsError(f"{model}: no such folder; name a checkpoint's folder or a hub id")
        if importlib.util.find_spec("vllm") is None:
            raise ServerStartError(
                "vLLM is not installed here: `make install EXTRAS=vllm` brings it (for GPUs), or "
                "name a server that runs elsewhere"
            )
        variable = self.settings.api_key_env
        if variable and not self._key():
            raise ServerStartError(f"api_key_env: the variable {variable} is not set on this node")
        if self.host != LOOPBACK and not variable:
            raise ServerStartError(
                f"a server on {self.host} would answer anybody in the network: put a key into a "
                "variable on every node and name it in api_key_env"
            )

    def stop(self) -> None:
        """End the server and everything it started; without one, do nothing."""
        self._end()
        if self._temporary:
            shutil.rmtree(self._temporary, ignore_errors=True)
            self._temporary = self.log = None

    def exit_code(self) -> int | None:
        """Return None while the server runs, else how it ended (0 when it was never started)."""
        return self._process.exit_code() if self._process else 0

    def pid(self) -> int:
        """Return the process whose descendants are the server's, or 0."""
        return self._process.pid if self._process else 0

    def __enter__(self) -> VllmServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _end(self) -> None:
        if self._process:
            self._process.stop()
            self._process, self.base_url = None, ""

    def _key(self) -> str:
        return os.environ.get(self.settings.api_key_env or "", "")

    def _start_on(self, port: int) -> None:
        folder = self.settings.log_folder
        if folder is None:
            folder = self._temporary = self._temporary or Path(tempfile.mkdtemp(prefix="s2v-vllm-"))
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / f"vllm-{port}.log"
        began = time.monotonic()
        with self.log.open("wb") as log:
            command = self.settings.command(self.host, port)
            self._process = Leashed(command, log, self._environment())
        self.base_url = f"http://{self.host}:{port}"
        while not self._answers():
            code, waited = self._process.exit_code(), time.monotonic() - began
            if code is not None:
                raise self._failure(f"ended with exit code {code} after {waited:.0f} s")
            if waited > self.settings.start_timeout_s:
                raise self._failure(f"gave no answer within {waited:.0f} s (start_timeout_s)")
            time.sleep(0.2)

    def _environment(self) -> dict[str, str]:
        ours = {
            "VLLM_NO_USAGE_STATS": "1",
            "DO_NOT_TRACK": "1",
            "PYTHONSAFEPATH": "1",  # no module is taken from the folder the run was started in
        }
        key = self._key()
        inherited = {name: value for name, value in os.environ.items() if name != "VLLM_API_KEY"}
        demanded = {"VLLM_API_KEY": key} if key else {}
        return {**inherited, **ours, **demanded, **self.settings.environment}

    def _answers(self) -> bool:
        """Whether the server is healthy and is ours: another could have taken the port."""
        if _get(f"{self.base_url}/health") is None:
            return False
        said = _get(f"{self.base_url}/v1/models", self._key())
        with suppress(ValueError, LookupError, TypeError):
            return self.settings.name in {model["id"] for model in json.loads(said or b"")["data"]}
        return False

    def _failure(self, what: str) -> ServerStartError:
        text = self.log.read_text(encoding="utf-8", errors="replace") if self.log else ""
        return ServerStartError(
            f"the vLLM server for {self.settings.model} {what}; its log: {self.log}\n"
            f"{_essence(text)}"
            f"\nIts command: {' '.join(self.settings.command(self.host, 0)[3:])}"
        )


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _get(url: str, key: str = "") -> bytes | None:
    """Return the body of a good answer, else None."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a node is no website
    try:
        request = urllib.request.Request(url, headers=headers)  # noqa: S310 always our http address
        with opener.open(request, timeout=5) as answer:
            return bytes(answer.read(1 << 20))
    except (urllib.error.URLError, OSError, ValueError):
        return None


def _essence(log: str) -> str:
    """Return the first error of a log, which is the cause, and its last lines."""
    lines = [line for line in log.splitlines() if line.strip()]
    first = next((line for line in lines if _ERROR_LINE.search(line)), None)
    tail = lines[-_TAIL_LINES:]
    head = ["first error in its log:", first, "end of its log:"] if first else ["end of its log:"]
    return "\n  ".join([*head, *tail]) if lines else "its log is empty"
