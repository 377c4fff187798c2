"""The figures of a run on the terminal: ``s2v-data stats``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from s2v.datapipe.base.markup import clean
from s2v.datapipe.report.figures import SCORES, Figures, figures
from s2v.datapipe.report.run import RunFolder
from s2v.datapipe.report.wording import number, seconds, share, size


def run_stats(folder: Path) -> Figures:
    """All figures of a run folder, ready for ``json.dumps``.

    Args:
        folder: the run folder; shards may be missing, tables may not.

    Raises:
        RunFolderError: no run there, or it has no tables yet.
        SettingsError: ``run.json`` is of another version.
    """
    return figures(RunFolder(Path(folder)))


def print_stats(figures: Figures) -> None:
    """Print figures to standard output: tables on a terminal, plain columns elsewhere."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    terminal = sys.stdout.isatty()
    # Elsewhere lines are never cut: a log or a pipe has no width.
    console = Console(highlight=False, markup=False, width=None if terminal else 4000)
    for title, columns, rows in _tables(figures):
        if not rows:
            continue
        console.print(Text(title, style="bold"))
        table = Table(
            box=box.SIMPLE_HEAD if terminal else None,
            pad_edge=False,
        )
        for n, column in enumerate(columns):
            is_figure = all(_is_figure(row[n]) for row in rows)
            table.add_column(Text(column), justify="right" if is_figure else "left")
        for row in rows:
            table.add_row(*(Text(clean(cell)) for cell in row))
        console.print(table)
        console.print()
    console.print(Text(f"conservation: {clean(figures['conservation'])}"))


def _is_figure(cell: str) -> bool:
    return cell in {"", "–"} or cell[0].isdigit() or cell[0] in "<>"


_Printed = tuple[str, Sequence[str], list[tuple[str, ...]]]


def _tables(found: Figures) -> list[_Printed]:
    """Titles, columns and cells of what is printed."""
    return [
        (
            "Funnel",
            ("", "entered", "kept", "rate", "dropped", "quarantined"),
            [_funnel_row(row) for row in found["funnel"]],
        ),
        (
            "Why dropped",
            ("", "reason", "count", "of entered"),
            [
                (row["table"], reason, _amount(count, row), share(count, row["entered"]))
                for row in found["funnel"]
                for reason, count in row["dropped"].items()
            ],
        ),
        ("Sources", ("", "", "count"), _sources_rows(found["sources"])),
        (
            "Kept clips",
            ("", "5 %", "median", "95 %", "unmeasured"),
            [
                (name, *(number(one[q], 3) for q in ("p05", "p50", "p95")), str(one["unmeasured"]))
                for name in ("seconds", *SCORES)
                if (one := found["clips"][name])
            ],
        ),
        (
            "Subjects",
            ("bank", "phrases", "kept", "with face", "identities"),
            [
                (bank, *(number(one[k]) for k in ("phrases", "kept", "with_face", "identities")))
                for bank, one in found["subjects"]["by_bank"].items()
            ],
        ),
        (
            "Kept subjects per clip",
            ("subjects", "clips"),
            [(n, number(count)) for n, count in found["clips"]["objects_per_clip"].items()],
        ),
        (
            "Candidate pairs that fail a rule; one may fail several",
            ("rule", "candidates", "of all"),
            [
                (rule, number(count), share(count, found["pairs"]["candidates"]))
                for rule, count in found["pairs"]["refused_by_rule"].items()
            ],
        ),
        (
            "Classes of kept subjects",
            ("class", "subjects"),
            [(name, number(count)) for name, count in found["subjects"]["by_class"].items()],
        ),
        ("Samples", ("", "", "count"), _samples_rows(found["samples"])),
        (
            "Samples by scenario and class",
            ("pair type", "", "", "made", "wanted", "kept", "topped up", "missing"),
            [_quota_row(row) for row in found["samples"]["quotas"] if row["of"] != "total"],
        ),
        (
            "Shards",
            ("shard", "samples", "size"),
            [
                (name, number(one["samples"]), size(one["bytes"]) if one["bytes"] else "missing")
                for name, one in (found["shards"] or {"by_shard": {}})["by_shard"].items()
            ],
        ),
        (
            "CPU seconds of measuring",
            ("stage", "seconds"),
            [
                *((stage, number(one, 1)) for stage, one in found["cpu_seconds"]["stages"].items()),
                ("total", number(found["cpu_seconds"]["total"], 1)),
            ],
        ),
        (
            "Quarantine",
            ("id", "stage", "error", "message", "retry"),
            [
                tuple(str(row[k]) for k in ("id", "stage", "error", "message", "retry"))
                for row in found["quarantine"]
            ],
        ),
    ]


def _funnel_row(row: Figures) -> tuple[str, ...]:
    return (
        row["table"],
        _amount(row["entered"], row),
        _amount(row["kept"], row),
        share(row["kept"], row["entered"]),
        _amount(sum(row["dropped"].values()), row),
        _amount(row["quarantined"], row),
    )


def _amount(count: int, row: Figures) -> str:
    return seconds(count) if row["unit"] == "us" else number(count)


def _sources_rows(sources: Figures) -> list[tuple[str, ...]]:
    rows = [
        (title, name, number(count))
        for title, key in (("kind", "by_kind"), ("origin", "by_origin"), ("licence", "by_licence"))
        for name, count in sources[key].items()
    ]
    return [*rows, ("video", "seconds", number(sources["seconds_of_video"], 1))]


def _quota_row(row: Figures) -> tuple[str, ...]:
    least, most = row["least"], row["most"]
    wanted = "any" if least is None and most is None else f"{least or 0} to {most or 'any'}"
    if most is not None and most in (least, 0):
        wanted = str(most)
    counts = (number(row[name]) for name in ("kept", "topped_up", "missing"))
    return (row["pair_type"], row["of"], row["name"], number(row["made"]), wanted, *counts)


def _samples_rows(samples: Figures) -> list[tuple[str, ...]]:
    rows = [
        (title, name, number(count))
        for title, key in (
            ("pair type", "by_type"),
            ("scenario", "by_scenario"),
            ("split", "by_split"),
            ("references", "references"),
        )
        for name, count in samples[key].items()
    ]
    ratio = samples["in_to_cross"]
    return [
        *rows,
        ("split", "train, held-out scene", number(samples["heldout"])),
        ("pair type", "in per cross", number(ratio)),
        ("video", "distinct clips", number(samples["clips"])),
        ("video", "their seconds", number(samples["seconds_of_distinct_clips"], 1)),
    ]
