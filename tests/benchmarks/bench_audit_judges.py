"""Are the audit's judges worth asking? Measured on labelled subjects and pairs of the demo run.

    python tests/benchmarks/bench_audit_judges.py runs/demo

Copies: the judge of :mod:`s2v.datapipe.audit.copies` on augmented copies of real crops and frames,
on the same shots in other files, on shots by the same camera, and on other pictures. Characters:
whether EfficientNet-Lite, the only network here that selection does not use, tells the film's
characters apart by its log-probabilities, its logits or its features, beside selection's own
embedder. Labels and how they came about: ``audit_labels/README.md``. Three minutes on one core.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from s2v.datapipe.audit.copies import Picture, fit
from s2v.datapipe.audit.settings import CopyRules
from s2v.datapipe.backends.embedded.small import AppearanceEmbedder
from s2v.datapipe.base.embedded.efficientnet import SIDE, EfficientNetLite
from s2v.datapipe.base.media import masks
from s2v.datapipe.base.media.boxes import crop
from s2v.datapipe.base.media.images import encode_jpeg, load_image
from s2v.datapipe.measure.embed import cut_out
from s2v.datapipe.measure.frames import FrameReader
from s2v.datapipe.report.run import RunFolder

LABELS = Path(__file__).parent / "audit_labels"
MARGIN = 0.1
FLOOR = 1 / 512  # half a step of the int8 softmax: below it a probability says nothing
RESAMPLED = 1000
OTHERS = 100  # pairs of clips that share nothing


class Demo:
    """Crops and frames of a run's subjects."""

    def __init__(self, folder: Path) -> None:
        run = RunFolder(folder)
        self.subjects = run.by("subjects", "subject_id")
        self._frames = run.by("frames", "frame_id")
        self._masks = run.by("masks", "detection_id")
        self._reader = FrameReader(folder)
        self.pairs = run.rows("pairs")

    def frame(self, name: str) -> np.ndarray:
        return self._reader.image(self._frames[self.subjects[name]["frame_id"]])

    def crop(self, name: str) -> np.ndarray:
        return crop(self.frame(name), self.subjects[name]["box"], MARGIN)[0]

    def masked(self, name: str) -> np.ndarray:
        subject = self.subjects[name]
        row = self._masks[subject["detection_id"]]
        size = [row["rle_height"], row["rle_width"]]
        mask = masks.decode({"size": size, "counts": row["rle"]})
        return cut_out(self.frame(name), mask, tuple(subject["box"]))[0]

    def has_mask(self, name: str) -> bool:
        row = self._masks.get(self.subjects[name]["detection_id"])
        return row is not None and row["rle"] is not None


def read(name: str) -> list[dict[str, str]]:
    with (LABELS / name).open() as handle:
        return list(csv.DictReader(handle))


# -- copies


def augmented(image: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """What re-uploads do to a picture."""

    def scaled(factor: float, picture: np.ndarray = image) -> np.ndarray:
        return np.asarray(
            cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA), np.uint8
        )

    def jpeg(picture: np.ndarray, quality: int) -> np.ndarray:
        return load_image(encode_jpeg(np.ascontiguousarray(picture), quality))

    height, width = image.shape[:2]
    yield "JPEG 20", jpeg(image, 20)
    yield "half the size", scaled(0.5)
    yield "a third of the size", scaled(1 / 3)
    yield "shifted by 10 %", np.ascontiguousarray(image[height // 10 :, width // 10 :])
    yield "cut to three quarters", np.ascontiguousarray(image[height // 4 :, width // 4 :])
    yield "mirrored", np.ascontiguousarray(image[:, ::-1])
    yield "brighter", np.clip(image * 1.2 + 25, 0, 255).astype(np.uint8)
    yield "darker", (image * 0.6).astype(np.uint8)
    mixed = scaled(0.6, np.ascontiguousarray(image[height // 12 :, : width - width // 12][:, ::-1]))
    yield "shifted, smaller, mirrored, JPEG 40", jpeg(mixed, 40)


class CopyTable:
    """Rows of matches and correlations by what the pair is."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], list[tuple[int, float]]] = {}

    def add(self, what: str, form: str, one: Picture, other: Picture) -> None:
        found = fit(one, other)
        self.rows.setdefault((what, form), []).append((found.matches, found.correlation))

    def show(self) -> None:
        rules = CopyRules()
        print("\n| pair | of | pairs | matches: least | median | most | correlation: least | median"
              " | most | called copies |")  # fmt: skip
        print("|---" * 10 + "|")
        for (what, form), found in self.rows.items():
            matches, close = np.array(found).T
            called = int(((matches >= rules.matches) & (close >= rules.correlation)).sum())
            print(
                f"| {what} | {form}s | {len(found)} | {matches.min():.0f} | "
                f"{np.median(matches):.0f} | {matches.max():.0f} | {close.min():.2f} | "
                f"{np.median(close):.2f} | {close.max():.2f} | {called} |"
            )


def copies(demo: Demo) -> None:
    """The copy judge on copies and on other pictures."""
    shapes = {"crop": demo.crop, "frame": demo.frame}
    kept = [n for n, row in sorted(demo.subjects.items()) if row["reason"] is None]
    table = CopyTable()
    for form, take in shapes.items():
        for name in kept[::3]:
            image = take(name)
            whole = Picture(image)
            for what, copy in augmented(image):
                table.add(f"copy: {what}", form, whole, Picture(copy))
        pictures = {name: Picture(take(name)) for name in kept}
        for row in read("clip_pairs.csv"):
            ends = [
                pictures.get(row[side]) or Picture(take(row[side])) for side in ("one", "other")
            ]
            table.add(row["truth"], form, *ends)
        for a, b in apart(demo, kept):
            table.add("other pictures", form, pictures[a], pictures[b])
    table.show()


def apart(demo: Demo, kept: list[str]) -> list[tuple[str, str]]:
    """Pairs that share nothing: other sources, or two minutes apart in the film; spread evenly."""
    found = []
    for a, b in itertools.combinations(kept, 2):
        one, other = demo.subjects[a], demo.subjects[b]
        same = one["long_video_id"] == other["long_video_id"]
        person = {n.split("-")[0] for n in (one["video_id"], other["video_id"])}
        if len(person) == 1 and not same:
            continue  # the same man or the same photograph in several files
        if not same or abs(one["start_us"] - other["start_us"]) > 120e6:
            found.append((a, b))
    return found[:: max(1, len(found) // OTHERS)]


# -- characters


def characters(demo: Demo) -> None:
    """Whether a network that selection does not use tells the film's characters apart."""
    labels = {row["subject_id"]: row["character"] for row in read("characters.csv")}
    names = [name for name in sorted(labels) if name in demo.subjects and demo.has_mask(name)]
    who = [labels[name] for name in names]
    print(f"\n{len(names)} subjects: {', '.join(f'{who.count(w)} {w}' for w in sorted(set(who)))}")
    print("\n| network | picture | AUC (95 %) | rabbit | flying squirrel | wrong pairs caught when "
          "5 % of right ones are refused |")  # fmt: skip
    print("|---|---|---|---|---|---|")
    for form, take in (("cut out on grey", demo.masked), ("crop", demo.crop)):
        images = [take(name) for name in names]
        for what, vectors in efficientnet(images).items():
            character_row(f"EfficientNet-Lite3, {what}", form, vectors, who)
        if form == "cut out on grey":
            own = AppearanceEmbedder()
            character_row("selection's own (MobileNetV2 + colour)", form, own.embed(images), who)


def efficientnet(images: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Log-probabilities, which the product's net gives, and what lies below them."""
    import ai_edge_litert.interpreter as litert

    net = EfficientNetLite.from_assets()
    net.load()
    probabilities = np.stack([net.probabilities(image) for image in images])
    inner = litert.Interpreter(
        model_path=str(net.path / "efficientnet_lite3.tflite"),
        num_threads=1,
        experimental_preserve_all_tensors=True,
    )
    inner.allocate_tensors()
    named = {detail["name"]: detail for detail in inner.get_tensor_details()}
    wanted = {
        "logits": next(d for n, d in named.items() if n.endswith("head/dense/BiasAdd")),
        "features": next(d for n, d in named.items() if n.endswith("head/Squeeze1")),
    }
    found: dict[str, list[np.ndarray]] = {what: [] for what in wanted}
    for image in images:
        method = cv2.INTER_AREA if min(image.shape[:2]) > SIDE else cv2.INTER_LINEAR
        small = cv2.resize(image, (SIDE, SIDE), interpolation=method)
        inner.set_tensor(inner.get_input_details()[0]["index"], small[None])
        inner.invoke()
        for what, detail in wanted.items():
            scale, zero = detail["quantization"]
            raw = inner.get_tensor(detail["index"]).astype(np.float32).ravel()
            found[what].append((raw - zero) * scale)
    return {
        "log-probabilities": np.log(np.maximum(probabilities, FLOOR)),
        **{what: np.stack(vectors) for what, vectors in found.items()},
    }


def character_row(network: str, form: str, vectors: np.ndarray, who: list[str]) -> None:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    scores, names = unit @ unit.T, np.array(who)
    rng = np.random.default_rng(0)
    drawn = [auc(scores, names, rng.integers(0, len(names), len(names))) for _ in range(RESAMPLED)]
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    everyone = np.arange(len(names))
    within = [f"{auc(scores, names, everyone, of):.2f}" for of in ("rabbit", "flying squirrel")]
    alike, unlike = split(scores, names, everyone)
    caught = float((unlike < np.percentile(alike, 5)).mean())
    print(
        f"| {network} | {form} | {auc(scores, names, everyone):.2f} ({low:.2f} to {high:.2f}) "
        f"| {' | '.join(within)} | {100 * caught:.0f} % |"
    )


def split(
    scores: np.ndarray, names: np.ndarray, at: np.ndarray, of: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Scores of pairs of one character (``of`` it alone), and of pairs of two (of it and others).

    Subjects are resampled, not pairs: pairs of one subject are not independent. Two draws of the
    same subject are no pair.
    """
    first, second = np.triu_indices(len(at), 1)
    i, j = at[first], at[second]
    real = i != j
    same = names[i] == names[j]
    mine = np.ones(len(i), bool) if of is None else (names[i] == of) | (names[j] == of)
    return scores[i, j][real & same & mine], scores[i, j][real & ~same & mine]


def auc(scores: np.ndarray, names: np.ndarray, at: np.ndarray, of: str | None = None) -> float:
    """Chance that a pair of one character is more alike than a pair of two."""
    alike, unlike = split(scores, names, at, of)
    if not len(alike) or not len(unlike):
        return float("nan")
    more = (alike[:, None] > unlike[None]).mean()
    return float(more + 0.5 * (alike[:, None] == unlike[None]).mean())


def main() -> int:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    demo = Demo(args.run)
    characters(demo)
    copies(demo)
    return 0


if __name__ == "__main__":
    sys.exit(main())
