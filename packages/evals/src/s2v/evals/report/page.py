"""``report.html``: what one run found, or several side by side, in one file without a network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from s2v.datapipe.base import pages
from s2v.datapipe.base.atomic import write_bytes
from s2v.datapipe.base.markup import Markup, element
from s2v.evals.errors import EvalError
from s2v.evals.report import missing, panels, tables
from s2v.evals.report.runs import Method, Run, methods, metrics, run_name

MAX_BYTES = 20_000_000
PANELS = 12
_WORST_SHARE = 0.4
_BASE64 = 4 / 3


class _Room:
    """How many bytes of pictures may still be added; one answer of no is the last."""

    def __init__(self, limit: float) -> None:
        self._left = limit

    def __call__(self, count: int) -> bool:
        needed = count * _BASE64 + 400
        if needed > self._left:
            self._left = 0.0
            return False
        self._left -= needed
        return True


def build_report(
    folders: Sequence[str | Path],
    out: str | Path,
    *,
    title: str | None = None,
    panels_shown: int = PANELS,
    max_bytes: int = MAX_BYTES,
) -> Path:
    """Write the report of finished runs.

    Runs of different models on the same suite stand side by side; the first model is what the
    others are compared with. The same run folders give the same bytes.

    Args:
        folders: of finished runs; one at least.
        out: the file to write; it appears whole or not at all.
        title: of the page; by default the folders' names.
        panels_shown: prompts shown side by side at most.
        max_bytes: of pictures on the page, about; the rest is left out and the page says so.

    Returns:
        ``out``.

    Raises:
        EvalError: no run given, or one that is unfinished or damaged.
        OSError: the file cannot be written.
    """
    if not folders:
        raise EvalError("a report needs a run; `s2v-eval run MANIFEST --out DIR` makes one")
    runs = [Run.load(folder) for folder in folders]
    name = title or " and ".join(dict.fromkeys(run.folder.resolve().name for run in runs))
    whose, what = methods(runs), metrics(runs)
    parts = [
        ("Scores", tables.scores(what, whose)),
        ("Comparison", tables.comparisons(runs, whose)),
        ("Radar", tables.radar(what, whose)),
        ("By scenario", tables.slices(what, whose)),
        (
            "Side by side",
            panels.side_by_side(what, whose, panels_shown, _Room(max_bytes * (1 - _WORST_SHARE))),
        ),
        ("Worst samples", panels.worst(what, whose, _Room(max_bytes * _WORST_SHARE))),
        ("Not scored", missing.failures(runs)),
        ("Published figures", tables.published(what, whose, runs)),
        ("What each number is", tables.protocols(what)),
        ("How it was made", tables.provenance(runs)),
    ]
    path = Path(out)
    write_bytes(path, document(f"{name}: evaluation", _header(name, runs, whose), parts).encode())
    return path


def _header(name: str, runs: Sequence[Run], whose: Sequence[Method]) -> Markup:
    partial = [run for run in runs if run.summary.partial]
    warning = [
        element(
            "p",
            element("strong", "Partial: "),
            f"{run_name(run, runs)} scored {run.summary.n_samples} of "
            f"{run.summary.n_manifest} samples. For testing only, not a result.",
            class_="warning",
        )
        for run in partial
    ]
    models = [m.label for m in whose if not m.is_real]
    samples = sum(run.summary.n_samples for run in runs)
    return element(
        "header",
        element("p", "Evaluation of subject-to-video samples", class_="small"),
        element("h1", name),
        element(
            "p",
            f"{samples} videos; models: {', '.join(models) or 'none, only real clips'}.",
        ),
        *warning,
    )


def document(title: str, header: Markup, parts: Sequence[tuple[str, Markup]]) -> str:
    """A whole page: style inside, no script, nothing fetched.

    Args:
        title: of the window.
        header: above the parts.
        parts: headings with their content.
    """
    keyed = [(heading, f"part-{n}", body) for n, (heading, body) in enumerate(parts, start=1)]
    links = (element("li", element("a", h, href=f"#{key}")) for h, key, _ in keyed)
    sections = (
        element("section", element("h2", h, id=f"{key}-title"), body, id=key,
                aria_labelledby=f"{key}-title")
        for h, key, body in keyed
    )  # fmt: skip
    return pages.document(
        title,
        element("a", "Skip to the content", href="#content", class_="skip"),
        header,
        element("nav", element("ul", *links), aria_label="Parts of the page"),
        element("main", *sections, id="content"),
        style=pages.asset(__package__, "page.css"),
    )
