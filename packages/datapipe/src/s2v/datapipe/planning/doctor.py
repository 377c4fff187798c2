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
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from s2v.datapipe.base.media.errors import MediaError, MediaErrorKind
from s2v.datapipe.base.media.sandbox import close_workers, run_isolated
from s2v.datapipe.roles import ClipView, Image, Phrase, Roles

State = Literal["ok", "warning", "failed"]
SMALL_DISK, SMALL_MEMORY = 20e9, 8e9  # bytes under which a run is likely to end early


@dataclass(frozen=True)
class Finding:
    """One thing looked at."""

    check: str
    state: State
    found: str
    way_out: str = ""


def examine(folder: Path, roles: Callable[[], Roles], *, ray: bool = True) -> Iterable[Finding]:
    """Look at everything, one finding after the other as they come.

    Args:
        folder: the run folder that will be written to.
        roles: makes the models of the configuration, not loaded.
        ray: start a local Ray too.
    """
    checks: list[tuple[str, Callable[[], Finding]]] = [
        ("python", _python),
        ("cores and memory", _machine),
        ("GPU", _gpu),
        ("run folder", lambda: _folder(folder)),
        ("ffmpeg and decoders", _media),
        ("decoder limits", _limits),
    ]
    if ray:
        checks.append(("ray", _ray))
    for name, check in checks:
        yield _guarded(name, check)
    yield from _models(roles)
    close_workers()


def _guarded(name: str, check: Callable[[], Finding]) -> Finding:
    try:
        return check()
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
    ray.get(ray.remote(num_cpus=0.1)(os.getpid).remote())
    stop_ray()
    cpus, gpus = sum(n.cpus for n in nodes), sum(n.gpus for n in nodes)
    spent = time.monotonic() - began
    return Finding(
        "ray",
        "ok",
        f"{len(nodes)} machines, {cpus:g} CPUs, {gpus:g} GPUs; answered in {spent:.0f} s",
    )


def _models(roles: Callable[[], Roles]) -> Iterable[Finding]:
    try:
        filled = roles()
    except Exception as error:  # noqa: BLE001  a configuration can name anything
        yield Finding(
            "models", "failed", str(error), "mend the section [roles], or fetch the assets"
        )
        return
    for name, model in sorted(vars(filled).items()):
        if model is None:
            yield Finding(f"role {name}", "ok", "none; its column stays null")
            continue
        yield _guarded(f"role {name}", lambda n=name, m=model: _model(n, m))  # type: ignore[misc]  # mypy cannot infer a lambda with defaults


def _model(name: str, model: object) -> Finding:
    began = time.monotonic()
    model.load()  # type: ignore[attr-defined]  # every role has it
    loaded = time.monotonic()
    said = _ASK[name](model)
    asked = time.monotonic()
    return Finding(
        f"role {name}",
        "ok",
        f"{model.model_id[:60]}: loaded in {loaded - began:.1f} s, {said} "  # type: ignore[attr-defined]  # likewise
        f"in {asked - loaded:.2f} s",
    )


def _picture() -> Image:
    """A picture with a red and a green block, 320 x 240."""
    image = np.full((240, 320, 3), 90, np.uint8)
    image[60:180, 40:140] = (200, 40, 40)
    image[90:150, 200:280] = (40, 180, 60)
    return image


_PHRASE = Phrase("a red block", 0, 11, "block", "thing")
_BOX = (40.0, 60.0, 140.0, 180.0)

#: Role -> ask its model once; returns what it said.
_ASK: dict[str, Callable[..., str]] = {
    "captioner": lambda m: f"said {m.caption(ClipView('doctor', (_picture(),), (0,))).text[:40]!r}",
    "phrases": lambda m: f"found {len(m.phrases('A woman in a red coat walks.'))} phrases",
    "detector": lambda m: f"found {len(m.ground([_picture()], [_PHRASE])[0])} boxes",
    "checker": lambda m: f"said {m.check(_picture(), _BOX, _PHRASE)}",
    "segmenter": lambda m: f"masked {m.segment(_picture(), [_BOX], ['thing'])[0].mask.mean():.0%}",
    "faces": lambda m: f"found {len(m.faces(_picture()))} faces",
    "embedder": lambda m: f"gave {m.embed([_picture()]).shape[1]} dimensions",
    "text_regions": lambda m: f"found {len(m.regions(_picture()))} texts",
    "safety": lambda m: f"scored {m.score(_picture()):.3f}",
    "aesthetics": lambda m: f"scored {m.score([_picture()])[0]:.2f}",
    "shots": lambda m: f"scored {len(m.score(np.zeros((60, *m.frame_size, 3), np.uint8)))} frames",
}
