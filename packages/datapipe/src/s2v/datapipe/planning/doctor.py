"""``s2v-data doctor``: is this machine able to run, and if not, what to do about it.

Every check does the real thing once: ffmpeg encodes and the decoders read it back, a worker is
held to its time, Ray starts, each model of the configuration answers for one picture.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from s2v.datapipe import pipeline
from s2v.datapipe.backends.vlm.serve import VllmServer, VllmSettings
from s2v.datapipe.base.media.errors import MediaError, MediaErrorKind
from s2v.datapipe.base.media.sandbox import close_workers, run_isolated
from s2v.datapipe.base.settings import SettingsError
from s2v.datapipe.config import Settings
from s2v.datapipe.engine.pools import AdmissionError, machines
from s2v.datapipe.engine.stage import StageRun
from s2v.datapipe.planning.estimate import admit
from s2v.datapipe.planning.plan import nodes_of
from s2v.datapipe.roles import (
    ClipView,
    Image,
    PairVerifier,
    Phrase,
    RoleUnavailableError,
    Sight,
    WeightsError,
)
from s2v.datapipe.serving import own, reserved, roles_or_why_not

State = Literal["ok", "warning", "failed"]
SMALL_DISK, SMALL_MEMORY = 20e9, 8e9  # bytes under which a run is likely to end early


@dataclass(frozen=True)
class Finding:
    """One thing looked at."""

    check: str
    state: State
    found: str
    way_out: str = ""


def examine(settings: Settings, *, ray: bool = True) -> Iterable[Finding]:
    """Look at everything, one finding after the other as they come.

    Args:
        settings: the configuration; its models are loaded and asked, its run folder written to.
        ray: start a local Ray too.
    """
    checks: list[tuple[str, Callable[[], Finding]]] = [
        ("python", _python),
        ("cores and memory", _machine),
        ("GPU", _gpu),
        ("run folder", lambda: _folder(Path(settings.folder))),
        ("ffmpeg and decoders", _media),
        ("decoder limits", _limits),
    ]
    if ray:
        checks.append(("ray", _ray))
    for name, check in checks:
        yield _guarded(name, check)
    yield from _models(settings, ray=ray)
    close_workers()


def _guarded(name: str, check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except (WeightsError, RoleUnavailableError, AdmissionError, SettingsError) as error:
        return Finding(name, "failed", str(error))  # they name the way out themselves
    except Exception as error:  # noqa: BLE001  whatever a check meets is its finding
        return Finding(name, "failed", f"{type(error).__name__}: {error}")


def _python() -> Finding:
    names = ("torch", "ray", "av", "decord", "onnxruntime", "transformers", "imageio-ffmpeg")
    versions = []
    for name in names:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            return Finding(
                "python", "failed", f"{name} is not installed", "make install, or the curate extra"
            )
    version = ".".join(map(str, sys.version_info[:3]))
    return Finding("python", "ok", f"{version}; {', '.join(versions)}")


def _machine() -> Finding:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    found = f"{len(os.sched_getaffinity(0))} cores, {pages / 1e9:.0f} GB"
    if pages < SMALL_MEMORY:
        return Finding("cores and memory", "warning", found, "lower engine.actors: about 2 GB each")
    return Finding("cores and memory", "ok", found)


def _gpu() -> Finding:
    import torch

    if not torch.cuda.is_available():
        return Finding("GPU", "ok", f"none; torch {torch.__version__} runs on the CPU")
    names = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
    return Finding("GPU", "ok", ", ".join(names))


def _folder(folder: Path) -> Finding:
    there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    try:
        with tempfile.NamedTemporaryFile(dir=there) as probe:
            probe.write(b"x")
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        return Finding(
            "run folder", "failed", f"{there}: {error.strerror}", "give another with --set folder="
        )
    free = shutil.disk_usage(there).free
    found = f"{there} is writable, {free / 1e9:.0f} GB free"
    if free < SMALL_DISK:
        return Finding("run folder", "warning", found, "`plan` says how much the run will write")
    return Finding("run folder", "ok", found)


def _media() -> Finding:
    from s2v.datapipe.base.media import ffmpeg, isolated
    from s2v.datapipe.base.media.images import encode_jpeg
    from s2v.datapipe.base.media.stills import animate_still

    with tempfile.TemporaryDirectory() as scratch:
        clip = Path(scratch) / "doctor.mp4"
        animate_still(encode_jpeg(_picture(), 95), clip, seconds=0.5)
        found = isolated.probe(clip)
        frames = isolated.frames_at(clip, [0, 200_000])
    return Finding(
        "ffmpeg and decoders",
        "ok",
        f"{Path(ffmpeg.executable()).name}; wrote and read {found.codec} "
        f"{found.width}x{found.height}, {len(frames)} frames by time",
    )


def _limits() -> Finding:
    began = time.monotonic()
    try:
        run_isolated("time:sleep", [30], timeout_s=1.0, attempts=1)
    except MediaError as error:
        if error.kind == MediaErrorKind.TIMEOUT:
            spent = time.monotonic() - began
            return Finding("decoder limits", "ok", f"a hanging decoder ends after {spent:.1f} s")
    return Finding("decoder limits", "failed", "a hanging decoder was not stopped")


def _ray() -> Finding:
    import ray

    from s2v.datapipe.engine.execute import cluster, start_ray, stop_ray

    began = time.monotonic()
    start_ray(None)
    nodes = cluster()
    ray.get(ray.remote(num_cpus=0.1)(_answer).remote())
    stop_ray()
    cpus, gpus = sum(n.cpus for n in nodes), sum(n.gpus for n in nodes)
    spent = time.monotonic() - began
    return Finding(
        "ray",
        "ok",
        f"{machines(nodes)}, {cpus:g} CPUs, {gpus:g} GPUs; answered in {spent:.0f} s",
    )


def _answer() -> int:
    return os.getpid()


def _models(settings: Settings, *, ray: bool) -> Iterable[Finding]:
    try:
        filled = roles_or_why_not(settings)
        runs = pipeline.plan(settings, filled)
    except Exception as error:  # noqa: BLE001  a configuration can name anything
        yield Finding("models", "failed", str(error), "mend the section [roles]")
        return
    yield _guarded("pools", lambda: _pools(settings, runs, ray=ray))
    served = own(settings)
    if settings.serve is not None and served:
        yield _guarded("servers of the run", lambda: _server(settings.serve))
    for name, model in sorted(vars(filled).items()):
        if model is None:
            yield Finding(f"role {name}", "ok", "none; its column stays null")
        elif name in served:
            yield Finding(f"role {name}", "ok", "asks the run's own server, which is not up yet")
        else:
            yield _guarded(f"role {name}", lambda n=name, m=model: _model(n, m))  # type: ignore[misc]  # mypy cannot infer a lambda with defaults


def _pools(settings: Settings, runs: Mapping[str, StageRun], *, ray: bool) -> Finding:
    here = ray or not os.environ.get("RAY_ADDRESS")
    if not here:
        return Finding("pools", "warning", "not looked at", "leave --no-ray out")
    admit(
        *(runs, nodes_of(None, settings)),
        reserved=reserved(settings), wanted=settings.engine.actors, mode=settings.engine.mode,
    )  # fmt: skip
    return Finding("pools", "ok", "every stage finds its place here")


def _server(settings: VllmSettings | None) -> Finding:
    if settings is None:
        return Finding("servers of the run", "ok", "none")
    VllmServer(settings).check()
    return Finding("servers of the run", "ok", f"vLLM can be started for {settings.name}")


def _model(name: str, model: object) -> Finding:
    began = time.monotonic()
    with _libraries_silent():
        model.load()  # type: ignore[attr-defined]  # every role has it
        loaded = time.monotonic()
        said = _ASK[name](model)
        asked = time.monotonic()
    return Finding(
        f"role {name}",
        "ok",
        f"{_short(model.model_id)}: loaded in {loaded - began:.1f} s, {said} "  # type: ignore[attr-defined]  # likewise
        f"in {asked - loaded:.2f} s",
    )


def _short(model_id: str) -> str:
    return model_id if len(model_id) <= 40 else f"{model_id[:39]}…"


@contextmanager
def _libraries_silent() -> Iterator[None]:
    """Keep what native libraries write while they load off the terminal."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)


def _picture() -> Image:
    """A picture with a red and a green block, 320 x 240."""
    image = np.full((240, 320, 3), 90, np.uint8)
    image[60:180, 40:140] = (200, 40, 40)
    image[90:150, 200:280] = (40, 180, 60)
    return image


_PHRASE = Phrase("a red block", 0, 11, "block", "thing")
_BOX = (40.0, 60.0, 140.0, 180.0)


def _pair(model: PairVerifier) -> str:
    sight = Sight("doctor", _picture(), _BOX, _PHRASE.text)
    said = model.verify(sight, sight, "other")
    return f"same: {said.same_identity}, elsewhere: {said.different_context}"


#: Role -> ask its model once; returns what it said.
_ASK: dict[str, Callable[..., str]] = {
    "captioner": lambda m: f"said {m.caption(ClipView('doctor', (_picture(),), (0,))).text[:40]!r}",
    "phrases": lambda m: f"found {len(m.phrases('A woman in a red coat walks.'))} phrases",
    "detector": lambda m: f"found {len(m.ground([_picture()], [_PHRASE])[0])} boxes",
    "checker": lambda m: f"said {m.check(_picture(), _BOX, _PHRASE)}",
    "verifier": lambda m: f"said {_pair(m)}",
    "segmenter": lambda m: f"masked {m.segment(_picture(), [_BOX], ['thing'])[0].mask.mean():.0%}",
    "faces": lambda m: f"found {len(m.faces(_picture()))} faces",
    "embedder": lambda m: f"gave {m.embed([_picture()]).shape[1]} dimensions",
    "text_regions": lambda m: f"found {len(m.regions(_picture()))} texts",
    "text_reader": lambda m: f"read {len(m.read(_picture()))} lines",
    "safety": lambda m: f"scored {m.score(_picture()):.3f}",
    "aesthetics": lambda m: f"scored {m.score([_picture()])[0]:.2f}",
    "shots": lambda m: f"scored {len(m.score(np.zeros((60, *m.frame_size, 3), np.uint8)))} frames",
}


def print_finding(found: Finding) -> None:
    """One finding on a terminal, wrapped to its width."""
    width = max(40, shutil.get_terminal_size().columns)
    style = {"ok": "green", "warning": "bold yellow", "failed": "bold red"}[found.state]
    console = Console(highlight=False, width=width)
    grid = Table.grid(padding=(0, 2))
    grid.add_column(width=7, style=style)
    grid.add_column(width=20, no_wrap=True)
    grid.add_column(overflow="fold")
    words = Text(found.found)
    if found.way_out:
        words.append(f"\n-> {found.way_out}")
    grid.add_row(found.state, found.check, words)
    console.print(grid)
