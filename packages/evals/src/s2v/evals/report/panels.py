"""Pictures with their scores: methods side by side on one prompt, and the worst samples."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from s2v.datapipe.base.markup import Markup, data_uri, element, join, joined
from s2v.evals import show
from s2v.evals.report.runs import Method, Row, row_key
from s2v.evals.summary import MetricInfo

Room = Callable[[int], bool]
"""Whether so many more bytes of pictures may be on the page."""

WORST = 4
"""Samples shown per metric."""

_CHIPS = 24
"""Of one video; what is beyond is counted."""


def side_by_side(
    metrics: Mapping[str, MetricInfo], methods: Sequence[Method], most: int, room: Room
) -> Markup:
    """Panels of one prompt each: references at the left, one row per method.

    Prompts that more methods answered come first, then one per reference in the order of their
    names, so that a page of few panels still shows many subjects. Of several seeds the lowest
    that all its methods have is shown.
    """
    answers: dict[tuple[str, str], dict[int, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for n, method in enumerate(methods):
        for row in {r["sample_id"]: r for r in method.rows}.values():
            answers[row["reference_id"], row["prompt"]][n].append(row)
    order = _spread(answers)
    shown, panels = 0, []
    for key in order[:most]:
        panel = _panel(metrics, methods, answers[key], room)
        if panel is None:
            break
        panels.append(panel)
        shown += 1
    if not panels:
        return element("p", "There are no previews beside the scores.")
    return join(
        element("p", f"{shown} of {len(order)} prompts. Five frames, first to last, per video.",
                class_="small"),
        *panels,
    )  # fmt: skip


def _spread(answers: Mapping[tuple[str, str], Mapping[int, Any]]) -> list[tuple[str, str]]:
    """Most methods first; within them one prompt of each reference before the second of any."""
    turn: dict[tuple[str, str], int] = {}
    seen: dict[str, int] = defaultdict(int)
    for key in sorted(answers):
        turn[key] = seen[key[0]]
        seen[key[0]] += 1
    return sorted(answers, key=lambda k: (-len(answers[k]), turn[k], k))


def _panel(
    metrics: Mapping[str, MetricInfo],
    methods: Sequence[Method],
    rows: Mapping[int, list[Row]],
    room: Room,
) -> Markup | None:
    """One panel, or None when there is no room for its pictures."""
    seeds = [{r["seed"] for r in found} for n, found in rows.items() if not methods[n].is_real]
    common = set.intersection(*seeds) if seeds else set()
    lines = []
    references: Markup | None = None
    prompt = ""
    for n in sorted(rows):
        method = methods[n]
        found = sorted(rows[n], key=lambda r: (_rank(r["seed"]), r["sample_id"]))
        chosen = next((r for r in found if r["seed"] in common), found[0])
        pictures = _pictures(method, chosen)
        if not room(sum(len(p) for p in pictures[1])):
            return None
        if references is None:
            if not room(sum(len(p) for p in pictures[0])):
                return None
            references = _references(pictures[0])
            prompt = chosen["prompt"]
        seed = "" if chosen["seed"] is None else f", seed {chosen['seed']}"
        lines.append(
            element(
                "div",
                element("h4", method.label, element("span", seed, class_="small")),
                _strip(pictures[1], f"{method.label}: frames of {chosen['sample_id']}"),
                _chips(metrics, method, chosen["sample_id"]),
                class_="method",
            )
        )
    return element(
        "article",
        element("p", prompt, class_="prompt"),
        element("div", references, element("div", *lines, class_="methods"), class_="beside"),
        class_="panel",
    )


def _rank(seed: int | None) -> tuple[bool, int]:
    return seed is None, seed or 0


def _pictures(method: Method, row: Row) -> tuple[list[bytes], list[bytes]]:
    """(references, strip) of a sample; what is gone is left out."""
    names = method.run.pictures.get(row["sample_id"], {"refs": [], "video": []})
    read = [[method.run.picture(name) for name in names[kind]] for kind in ("refs", "video")]
    first, second = ([p for p in part if p is not None] for part in read)
    return first, second


def _references(pictures: Sequence[bytes]) -> Markup:
    images = (
        element("figure", element("img", src=data_uri(p), alt=f"reference {n}"),
                element("figcaption", f"reference {n}"))
        for n, p in enumerate(pictures, start=1)
    )  # fmt: skip
    return element("div", joined(images) or element("p", "no reference"), class_="references")


def _strip(pictures: Sequence[bytes], alt: str) -> Markup:
    if not pictures:
        return element("p", "no preview: the video could not be read", class_="small")
    return element("img", src=data_uri(pictures[0]), alt=alt, class_="strip")


def _chips(metrics: Mapping[str, MetricInfo], method: Method, sample_id: str) -> Markup:
    mine = [r for r in method.rows if r["sample_id"] == sample_id]
    chips = [
        element("li", f"{metrics[row_key(r)].title} ", element("b", _score(r)))
        for r in mine
        if r["status"] != "not_applicable"
    ]
    more = len(chips) - _CHIPS
    rest = element("li", f"and {more} more in per_sample.parquet") if more > 0 else None
    return element("ul", *chips[:_CHIPS], rest, class_="chips")


def _score(row: Row) -> str:
    if row["score"] is None:
        return str(row["reason"])
    return show.number(row["score"])


def worst(metrics: Mapping[str, MetricInfo], methods: Sequence[Method], room: Room) -> Markup:
    """The lowest (or, where less is better, highest) samples of each metric beside their inputs."""
    parts = []
    full = False
    for key, info in metrics.items():
        if info.direction == "neither":
            continue
        sign = 1 if info.direction == "higher" else -1
        scored = [
            (sign * r["score"], m.label, r["sample_id"], m, r)
            for m in methods
            if not m.is_real
            for r in m.rows
            if row_key(r) == key and r["score"] is not None
        ]
        scored.sort(key=lambda one: one[:3])
        cards = []
        for _, _, _, method, row in scored[:WORST]:
            pictures = _pictures(method, row)
            if full or not room(sum(len(p) for part in pictures for p in part)):
                full = True
                break
            cards.append(_card(info, method, row, pictures))
        if cards:
            parts.append(join(element("h3", info.title), element("div", *cards, class_="cards")))
    if full:
        parts.append(element("p", "The rest is left out: the page has a limit.", class_="small"))
    return joined(parts) or element("p", "No generated sample was scored.")


def _card(
    info: MetricInfo, method: Method, row: Row, pictures: tuple[list[bytes], list[bytes]]
) -> Markup:
    facts = [f"{show.number(row['score'])} {info.unit}"]
    if row["baseline"] is not None:
        facts.append(f"chance {show.number(row['baseline'])}")
    if row["rate"] is not None:
        facts.append(f"on {row['rate']:.0%} of the frames")
    return element(
        "article",
        element("h4", method.label, element("span", f" {row['sample_id']}", class_="small")),
        element("p", element("b", facts[0]), "".join(f" · {one}" for one in facts[1:])),
        element(
            "div",
            _references(pictures[0]),
            _strip(pictures[1], f"frames of {row['sample_id']}"),
            class_="beside",
        ),
        element("p", row["prompt"], class_="prompt"),
        class_="card",
    )
