"""Bounds for faces (SFace): the bundled photographs and clips, as tables for docs/calibration.md.

    python tests/benchmarks/bench_face_bounds.py

Who is on a photograph is known, so nobody has to label: pairs of one person's different
photographs are *same*, a photograph against the man's indoor clips too; frames of his clips, cut
from one recording, and re-encoded, shifted, brighter or blurred versions of a photograph are *near
copies*; all else is *different*. Nine people, five of them from one group photograph, all easy: it
says where the bounds may lie, not how often they are wrong elsewhere. A minute on one thread.
"""

from __future__ import annotations

import argparse
import json
import sys
from itertools import combinations
from typing import Any

import cv2
import numpy as np
from bench_faces import PORTRAITS, copies, photograph

from s2v.datapipe.backends.embedded.small import YuNetSFace
from s2v.datapipe.base.assets import asset
from s2v.datapipe.base.media.decode import frames_at
from s2v.datapipe.base.media.probe import probe
from s2v.datapipe.calibrate.candidates import Bound, Candidate, Key, Pool
from s2v.datapipe.calibrate.evaluate import of_pool, plain
from s2v.datapipe.calibrate.labels import DIFFERENT, NEAR_COPY, SAME, Labels
from s2v.datapipe.calibrate.propose import Wanted
from s2v.datapipe.intervals import clopper_pearson
from s2v.datapipe.pair.settings import FaceRules
from s2v.datapipe.roles import Face, Image

CLIPS = ("man-clip", "man-enters", "man-leaves")
MOMENTS = (0.2, 0.5, 0.8)  # shares of a clip
SIDE = 900


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    model = YuNetSFace()
    model.load()
    pairs, of = all_pairs(pictures(model))
    rules = FaceRules()
    bound = Bound("face", ("select", "face"), rules.lower, rules.upper, model.model_id)
    labels = Labels(of, {})
    found = plain(of_pool(Pool(bound, pairs), labels, Wanted()))
    apart = [one.score for one in pairs if of[one.key] == DIFFERENT]
    found["false accepts"] = {
        "pairs of different people": len(apart),
        "largest cosine": max(apart),
        "accepted at the bound in force": sum(value >= rules.lower for value in apart),
        "rate at most (95 %)": round(clopper_pearson(0, len(apart), 0.90)[1], 4),
    }
    if args.json:
        print(json.dumps(found, indent=1, sort_keys=True))
    else:
        show(found, pairs, of)
    return 0


def pictures(model: YuNetSFace) -> list[tuple[str, str, str, Face]]:
    """``(picture, person, what it was made from, face)``."""
    found: list[tuple[str, str, str, Face]] = []

    def add(name: str, who: str, source: str, image: Image) -> None:
        faces = model.faces(image)
        if faces:  # the man walks out of two of his clips
            found.append((name, who, source, max(faces, key=lambda f: f.score)))

    for name, who in PORTRAITS.items():
        add(name, who, name, photograph(name, SIDE))
        for what, copy in copies(photograph(name, SIDE)):
            add(f"{name}, {what}", who, name, copy)
    for n, face in enumerate(model.faces(photograph("group-photo", 1600))):
        found.append((f"group-{n}", f"woman {n}", f"group-{n}", face))
    for clip in CLIPS:
        length = probe(asset(clip)).duration_us
        times = [int(length * share) for share in MOMENTS]
        for n, (_, rgb) in enumerate(frames_at(asset(clip), times)):
            add(f"{clip} {n}", "man", "man-indoors", rgb)
    return found


def all_pairs(
    found: list[tuple[str, str, str, Face]],
) -> tuple[tuple[Candidate, ...], dict[Key, str]]:
    """Every pair but those of altered pictures with other photographs, which say nothing new."""
    made, of = [], {}
    for (a, who, first, x), (b, other, second, y) in combinations(found, 2):
        altered = [", " in name for name in (a, b)]
        if any(altered) and (first != second or all(altered)):
            continue
        score = round(float(np.dot(x.embedding, y.embedding)), 6)
        one = Candidate(a, b, score, (first, second), ())
        made.append(one)
        of[one.key] = DIFFERENT if who != other else NEAR_COPY if first == second else SAME
    return tuple(sorted(made, key=lambda c: (-c.score, c.key))), of


def show(found: dict[str, Any], pairs: tuple[Candidate, ...], of: dict[Key, str]) -> None:
    """Print the tables."""
    print(found["embedder"])
    print("\n| pairs | number | least | mean | most |")
    print("|---|---|---|---|---|")
    for label in (SAME, NEAR_COPY, DIFFERENT):
        scores = [one.score for one in pairs if of[one.key] == label]
        print(
            f"| {label} | {len(scores)} | {min(scores):.3f} | {np.mean(scores):.3f} "
            f"| {max(scores):.3f} |"
        )
    print("\n| bounds | lower | upper | accepted | precision | copy rate | recall "
          "| near copies refused |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|")
    for name in ("in force", "proposed"):
        row = found[name]
        if row is not None:
            cells = [
                f"{s['estimate']:.3f} [{s['low']:.3f}, {s['high']:.3f}]" if (s := row[k]) else "-"
                for k in ("precision", "copy rate", "recall", "near copies refused")
            ]
            print(f"| {name} | {row['lower']} | {row['upper']} | {row['accepted']} | "
                  f"{' | '.join(cells)} |")  # fmt: skip
    for key, value in found["false accepts"].items():
        print(f"- {key}: {value}")
    for note in found["notes"]:
        print(f"- {note}")


if __name__ == "__main__":
    sys.exit(main())
