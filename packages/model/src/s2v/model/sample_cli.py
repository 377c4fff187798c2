"""``s2v-model sample`` and ``s2v-model verify``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from s2v.model.cli_parts import stored, track
from s2v.model.errors import ModelError

#: Wan2.1's frozen parts, by the key that wants their place.
_FOLDERS: Final = (
    {
        "autoencoder.weights": "Wan2.1_VAE.pth",
        "encoders.text_weights": "models_t5_umt5-xxl-enc-bf16.pth",
        "encoders.text_tokenizer": "google/umt5-xxl",
    },
    {
        "autoencoder.weights": "vae",
        "encoders.text_weights": "text_encoder",
        "encoders.text_tokenizer": "tokenizer",
    },
)


def add_arguments(
    command: Callable[[str, str], argparse.ArgumentParser],
) -> argparse.ArgumentParser:
    """Add both verbs; returns the one that takes ``--set``."""
    sample = command("sample", "make a video from a prompt and up to four reference images")
    source = sample.add_mutually_exclusive_group(required=True)
    source.add_argument("--run", type=Path, help="run folder: its newest checkpoint")
    source.add_argument(
        "--weights", type=Path, help="Phantom-Wan or Wan2.1-T2V, in any layout, without a run"
    )
    sample.add_argument(
        "--recipe", help="with --weights: encoders, size, sampler (phantom_wan_1_3b_480p, any size)"
    )
    sample.add_argument(
        "--wan", type=Path, help="folder of Wan2.1 with its VAE, umT5 and tokenizer, as downloaded"
    )
    sample.add_argument(
        "--pass-over", action="append", default=[], metavar="PATTERN",
        help="with --weights: tensors that the network has not; repeat for more",
    )  # fmt: skip
    sample.add_argument("--prompt", required=True)
    sample.add_argument(
        "--reference", type=Path, action="append", default=[], help="image file; repeat for more"
    )
    sample.add_argument(
        "--phrase",
        action="append",
        default=[],
        help="words of the prompt that mean the reference; one per reference, in order",
    )
    sample.add_argument("--preset", choices=["paper", "release"], help="solver and guidance")
    sample.add_argument("--out", type=Path, required=True, help="folder for the files")
    sample.add_argument("--id", default="sample", help="names the files (%(default)s)")
    sample.add_argument("--seed", type=int, default=0)
    verify = command("verify", "read what a generated video says of itself, and check its frames")
    verify.add_argument("file", type=Path)
    return sample


def _sample(a: argparse.Namespace) -> dict[str, Any]:
    from s2v.model import config as configuration
    from s2v.model.sample import sample, sample_weights
    from s2v.model.sample_files import Request
    from s2v.model.sample_source import RECIPE

    # Before --set, so that single values win.
    if a.wan:
        a.overrides = [*_in_folder(a.wan), *a.overrides]
    if a.preset:
        a.overrides = [f"sample.preset={a.preset}", *a.overrides]
    request = Request(a.id, a.prompt, tuple(a.reference), a.seed, tuple(a.phrase))
    if a.run is not None:
        if a.recipe or a.pass_over:
            raise ModelError("--recipe and --pass-over go with --weights; a run has its own")
        return asdict(sample(a.run, [request], a.out, track(a), config=stored(a))[0])
    config = configuration.load(a.recipe or RECIPE, a.overrides)
    return asdict(
        sample_weights(a.weights, config, [request], a.out, track(a), pass_over=a.pass_over)[0]
    )


def _in_folder(folder: Path) -> list[str]:
    """Where Wan2.1's frozen parts lie in its folder, the original's or that of diffusers."""
    if not folder.is_dir():
        raise ModelError(f"--wan {folder}: no such folder")
    faults = []
    for layout in _FOLDERS:
        absent = [name for name in layout.values() if not (folder / name).exists()]
        if not absent:
            return [f"{key}={json.dumps(str(folder / name))}" for key, name in layout.items()]
        faults.append(", ".join(absent))
    raise ModelError(
        f"--wan {folder}: neither Wan2.1's own folder ({faults[0]} is missing) nor that "
        f"of diffusers ({faults[1]} is missing); download them, or give each place with --set"
    )


def _verify(a: argparse.Namespace) -> dict[str, Any]:
    from s2v.model.provenance import verify

    return {"file": str(a.file), "frames": "as recorded", **verify(a.file).record}


COMMANDS = {"sample": _sample, "verify": _verify}
