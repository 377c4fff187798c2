"""The report's figures: scores, comparisons, slices, failures, and what each number is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from s2v.datapipe.base.markup import Content, Markup, element, join, joined, table
from s2v.evals import reference, show, statistics
from s2v.evals.compare import Comparison, Difference, compare
from s2v.evals.errors import EvalError
from s2v.evals.reference.protocols import PublishedColumn, beside
from s2v.evals.report import charts
from s2v.evals.report.runs import Method, Run, metric_key, run_name
from s2v.evals.summary import MetricInfo, Result

# Where a metric's full range says little, the part of it in which figures lie; stated on the axis.
_RADAR_FAMILIES = ("quality", "consistency")
_RADAR_RANGE = {"text": (0.0, 40.0), "subject": (0.0, 1.0), "copy": (0.0, 1.0)}


def scores(metrics: Mapping[str, MetricInfo], methods: Sequence[Method]) -> Markup:
    """Every metric and method with interval, counts and chance level; a chart of each metric."""
    rows: list[list[Content]] = []
    figures = []
    for key, info in metrics.items():
        found = [(n, m, m.results().get(key)) for n, m in enumerate(methods)]
        for _, method, result in found:
            if result is not None:
                rows.append(_score_row(info, method, result))
        whiskers = [
            charts.Whisker(m.label, r.mean, r.ci_low, r.ci_high, r.baseline, n)
            for n, m, r in found
            if r is not None
        ]
        if any(w.mean is not None for w in whiskers):
            head = element("figcaption", info.title, " ", _arrow(info), _badge(info))
            figures.append(
                element("figure", head, charts.whiskers(info.title, info.unit, whiskers))
            )
    columns = ("metric", "videos of", "mean", "95 % interval", "n", "references", "on frames",
               "chance", "unit", "protocol")  # fmt: skip
    return join(
        element("div", *figures, class_="charts"),
        element("p", " ".join(_legend(metrics, methods)), class_="small"),
        table(columns, rows, "Scores with intervals"),
    )


def _legend(metrics: Mapping[str, MetricInfo], methods: Sequence[Method]) -> list[str]:
    """The words of charts and table, those that occur."""
    said = [
        "A dot is the mean, its line the 95 % interval: a bootstrap over references, of rates "
        "Wilson's.",
        "The dashed tick is the chance level: the same videos against other samples' inputs.",
        "↑ higher is better, ↓ lower is better, ≈ nearest to the real clips is best.",
        "On frames: the share of the looked-at frames that a score stands on, where a face or a "
        "subject has to be found first.",
    ]
    if any(method.is_real for method in methods):
        said.append("Real (ceiling): held-out real clips, scored like the videos of a model.")
    if any(_is_light(info) for info in metrics.values()):
        said.append(
            "Light: measured with small open networks, never compared with a published figure."
        )
    return said


def _score_row(info: MetricInfo, method: Method, r: Result) -> list[Content]:
    counted = str(r.n) if r.n == r.n_expected else f"{r.n} of {r.n_expected}"
    return [
        join(info.title, " ", _arrow(info)),
        method.label,
        show.number(r.mean),
        _whole(r.ci_low, r.ci_high) if r.mean is not None else "-",
        counted,
        r.clusters,
        "" if r.rate is None else f"{r.rate:.0%}",
        show.number(r.baseline) if r.baseline is not None else "",
        info.unit,
        element("code", metric_key(r)),
    ]


def _arrow(info: MetricInfo) -> Markup:
    sign, words = {
        "higher": ("↑", "higher is better"),
        "lower": ("↓", "lower is better"),
        "neither": ("≈", "nearest to the real clips is best"),
    }[info.direction]
    return element("abbr", sign, title=words)


def _badge(info: MetricInfo) -> Markup | None:
    if not _is_light(info):
        return None
    return element("span", "light", class_="badge", title="never compared with a published figure")


def _is_light(info: MetricInfo) -> bool:
    return ".light" in info.protocol


def radar(metrics: Mapping[str, MetricInfo], methods: Sequence[Method]) -> Markup:
    """The radar of the paper's figure, over the metrics that have a range and a direction.

    Where quality and consistency were measured it shows those, otherwise whatever was.
    """
    usable = {k: i for k, i in metrics.items() if _range(i) is not None}
    paper = {k: i for k, i in usable.items() if i.family in _RADAR_FAMILIES}
    if len(paper) >= 2:  # then smoothness and the dynamic degree belong to it, as in the paper
        chosen = {
            k: i
            for k, i in metrics.items()
            if k in paper or (i.family == "motion" and i.high is not None)
        }
    else:
        chosen = usable
    chosen = {
        k: i
        for k, i in chosen.items()
        if any((r := m.results().get(k)) and r.mean is not None for m in methods)
    }
    if len(chosen) < 3:
        return element("p", "A radar needs three metrics with a range and a direction.")
    spokes = [charts.Spoke(i.title, *_ends(i)) for i in chosen.values()]
    polygons = []
    for n, method in enumerate(methods):
        found = method.results()
        values = [found[k].mean if k in found else None for k in chosen]
        if any(v is not None for v in values):
            polygons.append((method.label, values, n))
    return join(
        charts.legend([m.label for m in methods]),
        element("figure", charts.radar("Radar of the metrics", spokes, polygons), class_="radar"),
        element(
            "p",
            "Further out is better"
            + (", but on the dynamic degree only more" if _has_dynamic(chosen) else "")
            + "; the range from centre to rim stands below each name and is fixed, not fitted to "
            "these methods. The area means nothing.",
            class_="small",
        ),
    )


def _has_dynamic(metrics: Mapping[str, MetricInfo]) -> bool:
    return any(info.direction == "neither" for info in metrics.values())


def _range(info: MetricInfo) -> tuple[float, float] | None:
    """Fixed ends for a spoke, or None where the metric has no direction or no bound."""
    if info.direction == "neither" or info.high is None:
        return None
    return _RADAR_RANGE.get(info.family, (info.low, info.high))


def _ends(info: MetricInfo) -> tuple[float, float]:
    low, high = _range(info) or (info.low, 1.0 if info.high is None else info.high)
    return (high, low) if info.direction == "lower" else (low, high)


def slices(metrics: Mapping[str, MetricInfo], methods: Sequence[Method]) -> Markup:
    """Each metric by scenario, with intervals."""
    parts = []
    for method in methods:
        if not method.scenarios:
            continue
        by_scenario = {s: method.results(s) for s in method.scenarios}
        rows: list[list[Content]] = []
        for key, info in metrics.items():
            cells = [_cell(by_scenario[s].get(key)) for s in method.scenarios]
            if any(cells):
                rows.append([join(info.title, " ", _arrow(info)), *cells])
        if rows:
            parts.append(table(("metric", *method.scenarios), rows, method.label))
    if not parts:
        return element("p", "All samples are of one scenario.")
    return joined(parts)


def _whole(low: float | None, high: float | None, *, signed: bool = False) -> Markup:
    return element("span", show.interval(low, high, signed=signed), class_="whole")


def _cell(result: Result | None) -> Content:
    if result is None or result.mean is None:
        return ""
    return join(
        element("b", show.number(result.mean)),
        " ",
        _whole(result.ci_low, result.ci_high),
        element("span", f" n={result.n}", class_="small"),
    )


def comparisons(runs: Sequence[Run], methods: Sequence[Method]) -> Markup:
    """Every further model against the first, paired; None of the figures is a published one."""
    models = [m for m in methods if not m.is_real]
    if len(models) < 2:
        return element("p", "There is one model; give several runs to compare them.")
    base, *others = models
    parts: list[Markup] = []
    for other in others:
        boot = base.run.summary.bootstrap
        try:
            found = compare(base.run.folder, other.run.folder, model_a=base.model,
                            model_b=other.model, seed=boot.seed,
                            replicates=boot.replicates)  # fmt: skip
        except EvalError as error:
            parts.append(element("p", f"{other.label} against {base.label}: {_reason(error)}"))
            continue
        parts.append(_comparison(base, other, found))
    about = (
        "Pairs share reference, prompt and seed. The interval is a bootstrap over references; p is "
        "two-sided, from flipping the sign of whole references, adjusted by Holm over the metrics "
        "of one table. Detectable is the difference that this many references show four times "
        "out of five."
    )
    return join(element("p", about, class_="small"), *parts)


def _reason(error: EvalError) -> str:
    return str(error).partition(": ")[2] or str(error)


def _comparison(base: Method, other: Method, found: Comparison) -> Markup:
    rows: list[list[Content]] = [
        [
            join(d.metric.title, " ", _arrow(d.metric)),
            show.number(d.mean_a),
            show.number(d.mean_b),
            f"{d.difference:+.4f}",
            _whole(d.ci_low, d.ci_high, signed=True),
            show.p_value(d.p_holm),
            f"{d.n} over {d.clusters} refs",
            show.number(d.detectable),
            _verdict(d),
        ]
        for d in found.differences
    ]
    columns = ("metric", base.label, other.label, "difference", "95 % interval", "p (Holm)",
               "pairs", "detectable", "says")  # fmt: skip
    left_out = [element("li", f"not paired: {line}") for line in show.unpaired(found)]
    left_out += [element("li", f"{k}: {why}") for k, why in sorted(found.skipped.items())]
    return join(
        table(columns, rows, f"{other.label} against {base.label}"),
        element("ul", *left_out, class_="small") if left_out else None,
    )


def _verdict(d: Difference) -> str:
    if not statistics.can_show(d.clusters):
        return "too few references to show any"
    if d.p_holm > statistics.ALPHA:
        return "no difference shown"
    if d.metric.direction == "neither":
        return "differs"
    return "better" if (d.difference > 0) == (d.metric.direction == "higher") else "worse"


def published(
    metrics: Mapping[str, MetricInfo], methods: Sequence[Method], runs: Sequence[Run]
) -> Markup:
    """Other people's figures, in a block of their own.

    First, with ours, those of the columns that a protocol of this page follows; then whatever asks
    the same question by another protocol, for orientation.
    """
    rows = list(
        dict.fromkeys(
            (
                str(r["metric"]),
                str(r["model"]),
                f"{r['value']:g}",
                str(r["unit"]),
                f"{r['source']}, {r['table']}",
            )
            for run in runs
            for r in run.summary.published.rows
        )
    )
    same = [
        _followed(info, column, methods, key)
        for key, info in metrics.items()
        for column in beside(info.protocol)
    ]
    if not rows and not same:
        return element("p", "No published table asks what these metrics ask.")
    return element(
        "aside",
        element("p", reference.NOTICE),
        element("h3", "The same protocol") if same else None,
        *same,
        element("h3", "The same question, by other protocols") if same and rows else None,
        table(("metric", "model", "value", "unit", "from"), rows, "Published by others")
        if rows
        else None,
        class_="published",
        aria_label="Published by others",
    )


def _followed(
    info: MetricInfo, column: PublishedColumn, methods: Sequence[Method], key: str
) -> Markup:
    """A published column with our figures, in its unit, above it; nothing is tested."""
    rows: list[list[Content]] = []
    for method in methods:
        result = method.results().get(key)
        if result is None or result.mean is None or method.is_real:
            continue
        low, high = (
            None if end is None else end * column.factor for end in (result.ci_low, result.ci_high)
        )
        mean = show.number(result.mean * column.factor)
        rows.append([method.label, mean, _whole(low, high), "measured here, other videos"])
    rows += [[model, f"{value:g}", "", "published"] for model, value in column.figures]
    return element(
        "details",
        element("summary", f"{column.place} ({column.unit}), {column.certainty} certainty"),
        element("p", element("code", info.protocol), f": {column.why}", class_="small"),
        table(("model", "value", "95 % interval", "whose"), rows, column.place),
    )


def protocols(metrics: Mapping[str, MetricInfo]) -> Markup:
    """What each number is, and what it is not."""
    rows: list[list[Content]] = [
        [
            element("code", key),
            info.title,
            f"{info.unit}, {info.low:g} to " + ("any" if info.high is None else f"{info.high:g}"),
            info.citation,
            info.caveat,
            info.licence,
        ]
        for key, info in metrics.items()
    ]
    columns = ("protocol", "what", "unit and range", "from", "what it is not", "licence")
    return table(columns, rows, "Protocols", class_="long")


def provenance(runs: Sequence[Run]) -> Markup:
    """Digests and settings of each run."""
    parts = []
    for run in runs:
        summary, about = run.summary, run.about
        boot = summary.bootstrap
        weights, packages = (sorted(about.get(k, {}).items()) for k in ("weights", "packages"))
        rows: list[list[Content]] = [
            ["samples", f"{summary.n_samples} of {summary.n_manifest}"],
            ["suite", summary.suite],
            ["manifest, sha256", element("code", summary.manifest_sha256)],
            ["configuration, sha256", element("code", summary.config_sha256)],
            ["bootstrap", f"{boot.replicates} resamples of references, seed {boot.seed}"],
        ]
        rows += [[f"weights: {name}", element("code", digest)] for name, digest in weights]
        rows += [[f"package: {name}", number] for name, number in packages]
        parts.append(
            element("details", element("summary", run_name(run, runs)),
                    table(("what", "value"), rows))
        )  # fmt: skip
    return joined(parts)
