"""Every true pair of people found, no two people taken for one: over all sample photographs.

    python tests/benchmarks/bench_face_pairs.py

The real nets measure every face of the sample media, the real selection decides with its default
rules on pairs (``tests/datapipe/face_gallery.py`` says how), and the audit's dlib judge, which
selection does not use, looks at the same faces. Prints tables for docs/audit.md; exit code 1 when a
listed pair is not what it must be, or two people are taken for one. Two minutes on one core.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "datapipe"))

from face_gallery import (
    ANIMATED,
    CLIPS,
    CROPS,
    GROUP,
    LISTED,
    PORTRAITS,
    WOMEN,
    Gallery,
    Medium,
    build,
)

from s2v.datapipe.audit.copies import Picture, fit
from s2v.datapipe.audit.settings import CopyRules
from s2v.datapipe.base.assets import AssetMissing, asset
from s2v.datapipe.base.embedded.dlib_faces import DlibFaces
from s2v.datapipe.calibrate.statistics import auc
from s2v.datapipe.intervals import rule_of_three
from s2v.datapipe.measure.frames import FrameReader
from s2v.datapipe.pair.settings import PairRules


@dataclass(frozen=True)
class Seen:
    """A face on a frame."""

    medium: Medium
    person: str
    sface: np.ndarray
    dlib: np.ndarray


def present() -> list[Medium]:
    """The media whose assets are here; the optional ones are named when they are not."""
    found, missing = [], []
    for medium in (*PORTRAITS, *CLIPS, GROUP, *WOMEN, *CROPS, *ANIMATED):
        try:
            asset(medium.animated or medium.name)
            found.append(medium)
        except AssetMissing:
            missing.append(medium.name)
    if missing:
        print(f"not here, `s2v-data assets fetch {' '.join(missing)}`: left out")
    return found


def listed(gallery: Gallery) -> bool:
    """The pairs that the media were chosen for; whether all are what they must be."""
    print("\n| pair | must be | face cosine | body | background | decided | rules failed |")
    print("|---|---|---|---|---|---|---|")
    right = True
    for a, b, wanted in LISTED:
        if not {a, b} <= gallery.media.keys():
            print(f"| {a}, {b} | {wanted} | not measured: the asset is not here | | | | |")
            continue
        rows = gallery.between(a, b)
        accepted = [row for row in rows if row["accepted"]]
        good = bool(rows) and (bool(accepted) == (wanted == "valid"))
        right &= good
        if not rows:
            print(f"| {a}, {b} | {wanted} | | | | **no candidate** | |")
        for row in rows:
            decided = "accepted" if row["accepted"] else "refused"
            shown = decided if good else f"**{decided}**"
            print(
                f"| {a}, {b} | {wanted} | {row['face_similarity']:.2f} | {row['similarity']:.2f} "
                f"| {row['background_similarity']:.2f} | {shown} | {', '.join(row['rules'])} |"
            )
    return right


def all_pairs(gallery: Gallery) -> int:
    """Every pair of subjects by what it must be; how many of two people were accepted."""
    rows = list(gallery.pairs())
    print("\n| truth | candidate pairs | accepted | refused |")
    print("|---|---|---|---|")
    for truth in ("valid", "near copy", "different", "not known"):
        of = [row["accepted"] for row in rows if row["expected"] == truth]
        print(f"| {truth} | {len(of)} | {sum(of)} | {len(of) - sum(of)} |")
    different = [row for row in rows if row["expected"] == "different"]
    people = {
        frozenset(gallery.person[row[f"{side}_subject_id"]] for side in ("target", "reference"))
        for row in different
    }
    wrong = sum(row["accepted"] for row in different)
    if not wrong:
        named = len({name for pair in people for name in pair})
        print(
            f"\nNo false accept in {len(different)} pairs of different people: 3/N = "
            f"{rule_of_three(len(different)):.3f}. They are {len(people)} pairs of persons: 3/N = "
            f"{rule_of_three(len(people)):.3f}. And these are of {named} persons, of which "
            f"{named // 2} pairs share nobody: 3/N = {rule_of_three(named // 2):.2f}."
        )
    return wrong


def bodies(gallery: Gallery) -> None:
    """What the bounds on the bodies (``select.pair.person``) do alone: who it is, is known."""
    rules = PairRules().person
    rows = [row for row in gallery.pairs() if row["expected"] != "not known"]
    print(f"\n| bodies, bounds {rules.lower:g}..{rules.upper:g} | pairs | least | mean | most "
          "| below the lower bound | from the upper bound |")  # fmt: skip
    print("|---|---|---|---|---|---|---|")
    for truth in ("valid", "near copy", "different"):
        scores = np.array([row["similarity"] for row in rows if row["expected"] == truth])
        print(
            f"| {truth} | {len(scores)} | {scores.min():.2f} | {scores.mean():.2f} "
            f"| {scores.max():.2f} | {int((scores < rules.lower).sum())} "
            f"| {int((scores >= rules.upper).sum())} |"
        )
    people = [
        [gallery.person[row[f"{side}_subject_id"]] for side in ("target", "reference")]
        for row in rows
    ]
    for truth, others in (("valid", ("different",)), ("near copy", ("valid", "different"))):
        at = [n for n, row in enumerate(rows) if row["expected"] in (truth, *others)]
        area = auc(
            np.array([rows[n]["similarity"] for n in at]),
            np.array([rows[n]["expected"] == truth for n in at]),
            np.ones(len(at)),
            [(people[n][0], people[n][1]) for n in at],  # whoever it is, not which picture
        )
        if area is not None:
            print(f"- AUC of bodies, {truth} against {' and '.join(others)}: {area.estimate:.3f} "
                  f"[{area.low:.3f}, {area.high:.3f}]")  # fmt: skip


def copies_that_pass(gallery: Gallery) -> None:
    """Near copies that selection accepts, and what the audit's judge says of them."""
    reader, rules = FrameReader(gallery.folder), CopyRules()
    frames = {row["frame_id"]: row for row in gallery.world.rows["frames"]}
    best = {r["subject_id"]: r["frame_id"] for r in gallery.selection.subjects.to_pylist()}
    passed = [r for r in gallery.pairs() if r["expected"] == "near copy" and r["accepted"]]
    print(f"\n{len(passed)} near copies were accepted.\n")
    print("| near copy accepted | face cosine | matches | correlation | audit |")
    print("|---|---|---|---|---|")
    for row in passed:
        ends = [row[f"{side}_subject_id"] for side in ("target", "reference")]
        one, other = (Picture(reader.image(frames[best[name]])) for name in ends)
        found = fit(one, other)
        copy = found.matches >= rules.matches and found.correlation >= rules.correlation
        names = ", ".join(gallery.medium(name).name for name in ends)
        print(
            f"| {names} | {row['face_similarity']:.2f} | {found.matches} "
            f"| {found.correlation:.2f} | {'near copy' if copy else 'not found'} |"
        )


def seen_faces(gallery: Gallery) -> list[Seen]:
    """Every usable face of every frame, with both networks' vectors."""
    judge, reader = DlibFaces.from_assets(), FrameReader(gallery.folder)
    frames = {row["frame_id"]: row for row in gallery.world.rows["frames"]}
    found = []
    for frame in sorted(frames):
        faces = [row for row in gallery.world.rows["faces"] if row["frame_id"] == frame]
        for n, face in enumerate(sorted(faces, key=lambda row: row["box"][0])):
            medium = gallery.medium(f"{face['clip_id']}-s")
            vector = judge.embed(reader.image(frames[frame]), face["box"])
            found.append(Seen(medium, medium.people[n], np.asarray(face["embedding"]), vector))
    return found


def networks(faces: list[Seen]) -> None:
    """Both networks on all pairs of faces, also those of one photograph."""
    groups: dict[str, list[tuple[float, float]]] = {}
    for one, other in itertools.combinations(faces, 2):
        same = one.person == other.person
        if same and one.medium.name == other.medium.name:
            continue
        if not same and one.person[0] == other.person[0] == "?":
            truth = "not known"
        elif not same:
            truth = "different people"
        else:
            copy = one.medium.recording == other.medium.recording
            truth = "near copies" if copy else "same person, other recording"
        scores = float(one.sface @ other.sface), float(np.linalg.norm(one.dlib - other.dlib))
        groups.setdefault(truth, []).append(scores)
    print("\n| faces | pairs | SFace cosine: least | mean | most | dlib distance: least | mean | "
          "most | 0.5 to 0.6 |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|")
    for truth, scores in sorted(groups.items()):
        cosine, distance = np.array(scores).T
        doubt = int(((distance > 0.5) & (distance < 0.6)).sum())
        print(
            f"| {truth} | {len(scores)} | {cosine.min():.2f} | {cosine.mean():.2f} "
            f"| {cosine.max():.2f} | {distance.min():.2f} | {distance.mean():.2f} "
            f"| {distance.max():.2f} | {doubt} |"
        )


def portraits(gallery: Gallery) -> None:
    """Face cosines of the portraits, all with all."""
    names = [m.name for m in (*PORTRAITS, CLIPS[0]) if m.name in gallery.media]
    vectors = {
        gallery.medium(f"{row['clip_id']}-s").name: np.asarray(row["embedding"])
        for row in gallery.world.rows["faces"]
    }
    print(f"\n| SFace cosine | {' | '.join(names)} |")
    print("|---" * (len(names) + 1) + "|")
    for a in names:
        cells = ["" if a == b else f"{vectors[a] @ vectors[b]:.2f}" for b in names]
        print(f"| {a} | {' | '.join(cells)} |")


def main() -> int:
    """Measure, select, print."""
    with tempfile.TemporaryDirectory() as folder:
        gallery = build(Path(folder), present())
        dropped = Counter(
            row["reason"] for row in gallery.selection.subjects.to_pylist() if row["reason"]
        )
        print(
            f"{len(gallery.media)} media, {len(gallery.person)} subjects; dropped: {dict(dropped)}"
        )
        right = listed(gallery)
        wrong = all_pairs(gallery)
        bodies(gallery)
        copies_that_pass(gallery)
        portraits(gallery)
        networks(seen_faces(gallery))
    valid = [row for row in gallery.pairs() if row["expected"] == "valid"]
    missed = [row for row in valid if not row["accepted"]]
    print(f"\n{len(valid) - len(missed)} of {len(valid)} valid pairs found; {wrong} false accepts")
    return int(bool(wrong or missed or not right))


if __name__ == "__main__":
    sys.exit(main())
