"""Both Grounding DINO code bases at their published size, and Segment Anything: CPU time per frame.

Random weights take the time that trained ones take. Usage::

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_detectors.py [--frames 3] [--sam]

Both detectors get Swin-T, BERT-base, 6 + 6 layers, 900 queries and frames of 1280 x 720, which
they resize to 1333 x 750. They take turns, so that a busy machine slows both.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from s2v.datapipe.backends import grounding_dino, groundingdino_py, segment_anything
from s2v.datapipe.roles import Phrase

PHRASES = ["a woman in a pink shirt", "a girl in a white and purple shirt", "a brown dog"]
BERT = {"model_type": "bert", "vocab_size": 30522}  # the rest is BERT-base by default


def vocabulary(folder: Path) -> None:
    """A tokenizer of BERT's size; words fall apart into letters, so texts are a little longer."""
    tokens = [f"[unused{n}]" for n in range(BERT["vocab_size"])]  # type: ignore[arg-type]  # a number
    named = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]", 1012: "."}
    letters = "abcdefghijklmnopqrstuvwxyz"
    named |= {1029: "?"} | {2000 + n: c for n, c in enumerate(letters)}
    named |= {2100 + n: f"##{c}" for n, c in enumerate(letters)}
    for number, token in named.items():
        tokens[number] = token
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')


def port(folder: Path) -> Any:
    """The port of transformers with its published sizes."""
    from transformers import GroundingDinoConfig, GroundingDinoForObjectDetection
    from transformers.models.grounding_dino import GroundingDinoImageProcessor

    vocabulary(folder)
    GroundingDinoForObjectDetection(GroundingDinoConfig()).save_pretrained(folder)
    GroundingDinoImageProcessor().save_pretrained(folder)
    return grounding_dino.detector({"weights": str(folder)}, "roles.detector", {})


def original(folder: Path) -> Any:
    """groundingdino-py with its published sizes."""
    text = folder / "bert"
    vocabulary(text)
    (text / "config.json").write_text(json.dumps(BERT))
    net = groundingdino_py.build(groundingdino_py.read_config("swint_ogc"), text)
    torch.save({"model": net.state_dict()}, folder / "model.pth")
    told = {"weights": str(folder / "model.pth"), "text_encoder": str(text)}
    return groundingdino_py.detector(told, "roles.detector", {})


def detectors(frames: int, folder: Path) -> None:
    """CPU seconds per frame of both, taking turns."""
    made = {"transformers": port(folder / "port"), "groundingdino-py": original(folder / "py")}
    for name, detector in made.items():
        began = time.process_time()
        detector.load()
        count = sum(p.numel() for p in detector._net.parameters()) / 1e6
        print(f"{name}: {count:.1f} M parameters, load {time.process_time() - began:.1f} s CPU")
        gc.collect()
    phrases = [Phrase(text, 0, len(text), "x", "thing") for text in PHRASES]
    spent: dict[str, list[float]] = {name: [] for name in made}
    rng = np.random.default_rng(0)
    for _ in range(frames):
        image = rng.integers(0, 256, (720, 1280, 3), dtype=np.uint8)
        for name, detector in made.items():
            began = time.process_time()
            detector.ground([image], phrases)
            spent[name].append(time.process_time() - began)
    for name, seconds in spent.items():
        each = ", ".join(f"{one:.1f}" for one in seconds)
        print(f"{name}: median {statistics.median(seconds):.1f} s CPU per frame ({each})")


def masks(frames: int, folder: Path) -> None:
    """CPU seconds of Segment Anything for a frame with one and with four boxes."""
    path = folder / "sam.pth"
    torch.save(segment_anything.build(segment_anything.PUBLISHED["vit_b"]).state_dict(), path)
    sam = segment_anything.segmenter({"weights": str(path)}, "roles.segmenter", {})
    sam.load()
    rng = np.random.default_rng(0)
    for count in (1, 4):
        boxes = [(100.0 * n, 50.0, 100.0 * n + 300, 600.0) for n in range(count)]
        spent = []
        for _ in range(frames):
            image = rng.integers(0, 256, (720, 1280, 3), dtype=np.uint8)
            began = time.process_time()
            sam.segment(image, boxes, ["thing"] * count)
            spent.append(time.process_time() - began)
        each = statistics.median(spent)
        print(f"SAM vit_b, {count} boxes: median {each:.1f} s CPU per frame")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]  # it is there
    parser.add_argument("--frames", type=int, default=3)
    parser.add_argument("--sam", action="store_true", help="Segment Anything instead")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        (masks if args.sam else detectors)(args.frames, Path(folder))


if __name__ == "__main__":
    main()
