"""Encoded shards: what they cost on paper, to make, to read, and what a training gains.

    python tests/benchmarks/bench_latents.py --shards DIR [--rounds 3] [--write] [--json FILE]

``--shards`` is a finished run's shard folder, e.g. of ``make demo``; it is copied, nothing is
written beside it. Sizes and operations of the released encoders are counted, not measured: their
modules are built without memory. ``--write`` puts both tables into docs/latents.md.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import torch
from generated import machine, replace_generated
from torch.utils.flop_counter import FlopCounterMode

from s2v.datapipe.base.shards import ShardIndex
from s2v.model import config as configuration
from s2v.model.config import Config
from s2v.model.data.features import StoredFeatures
from s2v.model.data.index import select
from s2v.model.flops import Sizes as Tokens
from s2v.model.flops import wan_flops
from s2v.model.latents.encode import EncodeResult, Encoding, encode
from s2v.model.latents.verify import verify
from s2v.model.progress import quiet
from s2v.model.run import Run, fit_autoencoder
from s2v.model.train import train
from s2v.model.wan_config import WanConfig

PAGE = Path(__file__).resolve().parents[2] / "docs" / "latents.md"
SIZE: Final = (81, 480, 832)
WORDS: Final = 120  # tokens of a caption of about 80 words


def numbers(references: int, *, clip: bool, half: bool) -> int:
    """Bytes of one sample of one variant at 480p and 81 frames, three forms of each reference."""
    frames, height, width = SIZE
    cells = 16 * (height // 8) * (width // 8)
    each = 2 if half else 4
    video = ((frames - 1) // 4 + 1) * cells * each
    images = 3 * references
    looks = images * cells * each + images * (257 * 1280 * 2 if clip else 0)
    return video + looks + WORDS * 4096 * 2  # umT5 and CLIP compute in bfloat16: exact in it


def operations() -> dict[str, float]:
    """Operations of encoding one sample with the released encoders, and of training on it."""
    from diffusers import AutoencoderKLWan
    from transformers import (
        CLIPVisionConfig,
        CLIPVisionModelWithProjection,
        UMT5Config,
        UMT5EncoderModel,
    )

    frames, height, width = SIZE
    out: dict[str, float] = {}
    with torch.device("meta"), torch.no_grad():
        vae = AutoencoderKLWan().eval()
        counter = FlopCounterMode(display=False)
        with counter:
            vae.encode(torch.empty(1, 3, frames, height, width))
        out["vae, 81 frames"] = counter.get_total_flops()
        with counter:
            vae.encode(torch.empty(1, 3, 1, height, width))
        out["vae, a reference"] = counter.get_total_flops()
        text = UMT5EncoderModel(
            UMT5Config(
                vocab_size=256384, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64,
                feed_forward_proj="gated-gelu",
            )
        )  # fmt: skip
        with counter:
            text(torch.zeros(1, WORDS, dtype=torch.long))
        out[f"umT5, {WORDS} tokens"] = counter.get_total_flops()
        clip = CLIPVisionModelWithProjection(
            CLIPVisionConfig(
                hidden_size=1280, intermediate_size=5120, num_hidden_layers=32,
                num_attention_heads=16, image_size=224, patch_size=14, projection_dim=1024,
            )
        )  # fmt: skip
        with counter:
            clip(torch.empty(1, 3, 224, 224))
        out["CLIP, a reference"] = counter.get_total_flops()
    shape = Tokens.of_video(*SIZE, references=2)
    out["training step, Wan-1.3B, 2 references"] = wan_flops(WanConfig(), shape).train
    return out


def on_paper() -> str:
    """Sizes and operations, as a table each."""
    lines = [
        "| one sample, 832 x 480, 81 frames, 120 tokens | `float32` | `bfloat16` "
        "| a million, `bfloat16` |",
        "|---|---|---|---|",
    ]
    for references, clip in ((0, False), (2, False), (4, False), (2, True), (4, True)):
        exact = numbers(references, clip=clip, half=False)
        half = numbers(references, clip=clip, half=True)
        name = f"{references} references" + (", with CLIP" if clip else "")
        lines.append(
            f"| {name} | {exact / 1e6:.1f} MB | {half / 1e6:.1f} MB | {half / 1e6:.1f} TB |"
        )
    counted = operations()
    step = counted["training step, Wan-1.3B, 2 references"]
    lines += ["", "| once | TFLOP | of a training step |", "|---|---|---|"]
    lines += [
        f"| {name} | {value / 1e12:.2f} | {value / step:.1%} |" for name, value in counted.items()
    ]
    return "\n".join(lines)


def measured(shards: Path, steps: int, rounds: int) -> dict[str, Any]:
    """Encode, check, read and train on a copy of ``shards``."""
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(scratch)
        copied = base / "shards"
        shutil.copytree(shards, copied, ignore=shutil.ignore_patterns("latents"))
        config = configuration.load("demo_tiny", ["train.device=cpu", f"train.steps={steps}"])
        run = Run(base / "run")
        fit_autoencoder(config, copied, run, quiet)
        found: dict[str, Any] = {"machine": machine(), "steps": steps, "rounds": rounds}
        tried: dict[int, list[EncodeResult]] = {0: [], 1: []}
        for number in range(rounds):  # by turns: what else the machine does falls on both
            for readers, results in tried.items():
                out = base / f"readers{readers}-{number}"
                results.append(_encoded(config, copied, run, out, readers))
        for readers, results in tried.items():
            best = max(results, key=lambda r: r.per_second)
            found[f"encode, {readers} readers"] = vars(best)
        half = configuration.override(config, ["latents.dtype=bfloat16"])
        found["bfloat16"] = vars(_encoded(half, copied, run, base / "half", 1))
        _encoded(config, copied, run, copied / "latents", 1)
        began = time.perf_counter()
        checked = verify(Encoding(config, copied, run.encoders(config)))
        found["verify"] = vars(checked) | {"seconds": time.perf_counter() - began}
        found["read"] = _read(config, copied, run)
        found["train"] = {
            use: _train(config, copied, run, base / use, use) for use in ("off", "require")
        }
        return found


def _encoded(config: Config, shards: Path, run: Run, out: Path, readers: int) -> EncodeResult:
    return encode(Encoding(config, shards, run.encoders(config), out, readers=readers))


def _read(config: Config, shards: Path, run: Run) -> dict[str, float]:
    """Draws of one variant, one form of each reference, in random order, files in the cache."""
    store = run.store(config)
    samples = select(ShardIndex.open(shards), config.data, "train").samples
    order = torch.randint(len(samples), (2000,), generator=torch.Generator().manual_seed(0))
    read = 0
    for sample in samples:  # files opened, indexes read
        store.get(sample)
    began = time.perf_counter()
    for n in order.tolist():
        features = store.get(samples[n])
        if not isinstance(features, StoredFeatures):
            raise SystemExit("an entry is missing")
        which = torch.arange(features.candidates)
        picked = features.pick(n % features.variants, which, torch.zeros_like(which))
        read += sum(x.nbytes for x in picked) + features.text.nbytes
    spent = time.perf_counter() - began
    return {"draws_per_s": len(order) / spent, "MB_per_s": read / 1e6 / spent}


def _train(config: Config, shards: Path, run: Run, folder: Path, use: str) -> dict[str, float]:
    """Wall time of a first step from nothing, and of each step after it."""
    folder.mkdir()
    shutil.copyfile(run.autoencoder, folder / run.autoencoder.name)
    taken = []
    for steps in (1, config.train.steps):
        asked = configuration.override(config, [f"latents.use={use}", f"train.steps={steps}"])
        began = time.perf_counter()
        train(asked, shards, folder, quiet)
        taken.append(time.perf_counter() - began)
    return {"first_s": taken[0], "each_s": taken[1] / (config.train.steps - 1)}


def table(found: dict[str, Any]) -> str:
    """The measurement as lines."""
    lines = [
        f"`demo_tiny` on the demo's shards, {found['machine']}, one thread, wall time, the fastest "
        f"of {found['rounds']} encodings; torch {torch.__version__}.",
        "",
        "| | |",
        "|---|---|",
    ]
    for readers in (0, 1):
        made = found[f"encode, {readers} readers"]
        spent = ", ".join(f"{name} {value:.1f} s" for name, value in made["seconds"].items())
        lines.append(
            f"| encode, {readers} threads that decode ahead | {made['per_second']:.2f} entries/s, "
            f"bound by {made['bound']} ({spent}) |"
        )
    exact, half = found["encode, 1 readers"], found["bfloat16"]
    lines += [
        f"| entries, bytes | {exact['made']}, {exact['bytes'] / 1e6:.1f} MB in `float32`, "
        f"{half['bytes'] / 1e6:.1f} MB in `bfloat16` |",
        f"| `--verify` | {found['verify']['bytes'] / 1e6 / found['verify']['seconds']:.0f} MB/s |",
        f"| draws of a step from files in memory | {found['read']['draws_per_s']:.0f}/s, "
        f"{found['read']['MB_per_s']:.0f} MB/s |",
    ]
    for use, name in (("off", "raw shards"), ("require", "encoded shards")):
        t = found["train"][use]
        lines.append(
            f"| training from {name} | first step after {t['first_s']:.1f} s, then "
            f"{t['each_s']:.2f} s each ({found['steps'] - 1} steps) |"
        )
    return "\n".join(lines)


def main() -> None:
    """Count, measure, print; see the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", type=Path, help="measure on a copy; without: paper alone")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3, help="of encoding; the fastest counts")
    parser.add_argument("--write", action="store_true", help="into docs/latents.md")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    paper = on_paper()
    print(paper)
    if arguments.write:
        replace_generated(PAGE, "latents-paper", paper)
    if arguments.shards is None:
        return
    found = measured(arguments.shards, arguments.steps, arguments.rounds)
    text = table(found)
    print(text)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2, default=str))
    if arguments.write:
        replace_generated(PAGE, "latents", text)


if __name__ == "__main__":
    main()
