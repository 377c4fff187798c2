"""What the demo adds to the report: training, held-out losses, samples, scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from s2v.datapipe.report.sections import (
    Block,
    Card,
    LineChart,
    Media,
    MediaGrid,
    Paragraph,
    Section,
    Series,
    Table,
)

SMOOTH = 25  # steps averaged in the loss curve
PUBLISHED_ROWS = 40


def sections(
    model: Path, trained: dict[str, Any], heldout: dict[str, Any], evaluated: dict[str, Any]
) -> list[Section]:
    """The four sections, from what the steps stored."""
    return [
        Section("Training", _training(model, trained)),
        Section("Held-out clips: does the network use its reference?", _heldout(heldout)),
        Section("Samples beside their references", _samples(evaluated["samples"])),
        Section("Scores", _scores(evaluated)),
    ]


def _training(model: Path, trained: dict[str, Any]) -> list[Block]:
    lines = [json.loads(line) for line in (model / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines]
    smooth = [
        sum(part) / len(part)
        for part in (losses[max(0, n - SMOOTH + 1) : n + 1] for n in range(len(losses)))
    ]
    steps = [float(line["step"]) for line in lines]
    facts = [
        ("parameters", trained["parameters"]),
        ("steps", trained["steps"]),
        *((f"{kind} samples", count) for kind, count in sorted(trained["samples"].items())),
        *((f"left out: {why}", count) for why, count in sorted(trained["dropped"].items())),
        *((f"share: {name}", float(rate)) for name, rate in sorted(trained["rates"].items())),
    ]
    return [
        Paragraph(
            "A small MMDiT on latents of a linear autoencoder fitted to the training clips. It "
            "shows that the whole chain works and that references are used; it is far too small "
            "and too briefly trained to draw well."
        ),
        LineChart(
            "Flow-matching loss",
            [Series("each step", steps, losses), Series(f"mean of {SMOOTH}", steps, smooth)],
            "step",
            "loss",
        ),
        Table(["what", "value"], facts),
    ]


def _heldout(heldout: dict[str, Any]) -> list[Block]:
    rows = [
        (f"noise level {level}", *values) for level, values in sorted(heldout["by_level"].items())
    ]
    levels = {
        "training": "the levels that training draws, so the mean is its loss on other clips",
        "uniform": "evenly spaced levels",
    }[heldout["spread"]]
    said = [
        f"{title}: {gain['mean']:+.4f}, 95 % interval over clips [{gain['low']:+.4f}, "
        f"{gain['high']:+.4f}], above zero on {gain['share_positive']:.0%} of the samples."
        for title, gain in (
            ("Swapped minus right", heldout["swapped_minus_right"]),
            ("None minus right", heldout["none_minus_right"]),
        )
    ]
    return [
        Paragraph(
            f"{heldout['clips']} clips of scenes that were not trained on, {levels}. The same "
            "noise, caption and clip, once with the clip's own reference, once with another "
            f"subject's, once with none. {' '.join(said)}"
        ),
        Table(
            ["loss", "right reference", "swapped", "none"],
            [("all levels", heldout["right"], heldout["swapped"], heldout["none"]), *rows],
        ),
    ]


def _samples(samples: list[dict[str, Any]]) -> list[Block]:
    cards = []
    for one in samples:
        media = [
            Media(Path(path).read_bytes(), "reference image", "reference", mark=n)
            for n, path in enumerate(one["references"])
        ]
        media.append(Media(Path(one["video"]).read_bytes(), "generated clip", "generated"))
        cards.append(Card(media, one["caption"], title=one["id"]))
    return [
        MediaGrid(
            cards,
            "Generated from the reference and the caption. The network follows palette and light; "
            "it is too small for outlines. `make demo-long` trains longer.",
        )
    ]


def _scores(evaluated: dict[str, Any]) -> list[Block]:
    rows = [
        (
            row["metric"],
            row["source"],
            row["mean"],
            row["ci_low"],
            row["ci_high"],
            row["n"],
            row["clusters"],
            row["rate"],
            row["baseline"],
            row["protocol"],
        )
        for row in evaluated["table"]
    ]
    published = evaluated["published"]
    theirs = published["rows"][:PUBLISHED_ROWS]
    columns = [c for c in ("source", "table", "model", "metric", "value", "unit") if c in theirs[0]]
    return [
        Table(
            ["metric", "of", "mean", "low", "high", "n", "subjects", "rate", "chance", "protocol"],
            rows,
            "95 % intervals by a bootstrap over subjects. The held-out clips themselves are the "
            "ceiling. `.light` protocols use small nets and compare with no published figure.",
        ),
        Table(
            columns,
            [tuple(row[c] for c in columns) for row in theirs],
            published["notice"],
            "Published figures, by other protocols",
        ),
    ]


__all__ = ["sections"]
