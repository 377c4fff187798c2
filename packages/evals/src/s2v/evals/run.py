"""One evaluation: manifest in, numbers with intervals out.

The order is: read the manifest, check the media, check that the weights are there, measure what
the cache does not hold, then aggregate. Nothing written depends on the clock, on the order of
lines in the manifest, or on how often the run was interrupted; ``timings.json``, which is about
nothing else, lies beside it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal, Protocol

import cv2

from s2v.datapipe.base.assets import asset
from s2v.datapipe.base.markup import clean
from s2v.datapipe.base.media.errors import MediaError
from s2v.datapipe.base.progress import track
from s2v.evals import aggregate, media, previews, statistics, timings, write
from s2v.evals.aggregate import Row
from s2v.evals.cache import Cache, digest, key_of, library_versions, net_revisions, weight_digests
from s2v.evals.encoders.production import Encoders
from s2v.evals.errors import EvalError
from s2v.evals.inspection import Inspected, Problem, inspect
from s2v.evals.lock import only_one
from s2v.evals.manifest import Manifest, Sample, load_manifest
from s2v.evals.metrics import build
from s2v.evals.metrics.base import Case, Measurement, Metric, RefImage, failed
from s2v.evals.report.page import build_report
from s2v.evals.rows import PER_SAMPLE_FILE
from s2v.evals.summary import SUMMARY_FILE, Bootstrap, MetricInfo, Summary, published_block

OnProblem = Literal["refuse", "record"]
Scored = list[tuple[Metric, Measurement, str]]
"""What each metric said of one video, and a message where it could not."""
REPORT_FILE = "report.html"
Work = tuple[Inspected, list[Metric]]
"""A video with the metrics that have not yet measured it."""


class Runner(Protocol):
    """Measures videos, wherever: the numbers must not depend on it."""

    def __call__(self, manifest: Manifest, work: Sequence[Work]) -> Iterator[tuple[Work, Scored]]:
        """Yield every item of the work with its scores, in any order."""


def in_turn(manifest: Manifest, work: Sequence[Work]) -> Iterator[tuple[Work, Scored]]:
    """The `Runner` of one process: one video after the other."""
    for item, metrics in work:
        yield (item, metrics), score(manifest, item, metrics)


@dataclass(frozen=True)
class _Config:
    """What decides the numbers besides the media; its digest is stored with them."""

    suite: str
    protocols: tuple[str, ...]
    seed: int
    replicates: int
    limit: int | None

    def digest(self, metrics: Sequence[Metric]) -> str:
        return digest(
            {
                "protocols": [[m.spec.protocol, m.spec.version] for m in metrics],
                "weights": [
                    {**weight_digests(m.spec.assets), **dict(m.spec.digests)} for m in metrics
                ],
                "revisions": [net_revisions(m.spec.assets) for m in metrics],
                "libraries": library_versions(),
                "seed": self.seed,
                "replicates": self.replicates,
                "limit": self.limit,
            }
        )


def evaluate(
    manifest: Manifest | str | Path,
    out: str | Path,
    suite: str = "light",
    *,
    progress: bool = True,
    limit: int | None = None,
    seed: int = 0,
    replicates: int = statistics.REPLICATES,
    on_problem: OnProblem = "refuse",
    cache: str | Path | None = None,
    encoders: Encoders | None = None,
    runner: Runner = in_turn,
    report: bool = True,
) -> Summary:
    """Score every sample of a manifest and write the results.

    Writes ``per_sample.parquet``, ``failures.csv``, ``run.json``, previews, ``summary.json``,
    ``report.html`` and ``timings.json`` into ``out``, each atomically.

    Args:
        manifest: parsed, or the path of the ``.jsonl`` file.
        out: folder for the results; made if absent.
        suite: name of a suite, or suites and protocol ids separated by commas.
        progress: show a bar (or lines, where there is no terminal) on standard error.
        limit: score only the first so many samples by id; the result says it is partial.
        seed: of the bootstrap.
        replicates: of the bootstrap.
        on_problem: ``refuse`` stops before any model loads when a file is missing, corrupt, cut
            short, empty or listed twice; ``record`` counts such samples as failed.
        cache: folder of finished measurements; by default ``out/cache``.
        encoders: shared by the metrics; by default the embedded ones.
        runner: who measures the videos; by default this process.
        report: make previews and the page.

    Returns:
        The summary, as written.

    Raises:
        EvalError: wrong manifest, suite or limit; unusable samples with ``refuse``; another
            process that writes into ``out``.
        AssetError: weights missing or damaged; the message has the command that helps.
        OSError: the results cannot be written.
    """
    watch = timings.begin()
    parsed = manifest if isinstance(manifest, Manifest) else load_manifest(manifest)
    shared = encoders or Encoders()
    metrics = build(suite, timings.timed(shared))
    if limit is not None and limit < 1:
        raise EvalError(f"--limit {limit}: at least one sample must be left")
    samples = parsed.samples[:limit]
    folder = Path(out)
    store = Path(cache) if cache is not None else folder / "cache"
    config = _Config(suite, tuple(m.spec.protocol for m in metrics), seed, replicates, limit)

    with only_one(folder):
        with (
            watch.measure("step", "check"),
            track("check", len(samples), quiet=not progress) as step,
        ):
            usable, problems = inspect(parsed, samples, cache=store / "frame-times", step=step)
        if problems and on_problem == "refuse":
            more = f"; and {len(problems) - 1} more" if len(problems) > 1 else ""
            raise EvalError(
                f"{parsed.path}: {len(problems)} of {len(samples)} samples cannot be scored: "
                f"{problems[0]}{more}. `s2v-eval validate` lists all; --keep-going counts them as "
                "failed"
            )
        with watch.measure("step", "measure"):
            rows, cached = _measure(
                parsed, metrics, usable, Cache(store), shared, runner, progress=progress
            )
        rows += _unusable(metrics, problems, samples)
        order = {m.spec.protocol: i for i, m in enumerate(metrics)}
        rows.sort(key=lambda r: (r.sample.sample_id, order[r.spec.protocol]))
        specs = [m.spec for m in metrics]
        with watch.measure("step", "aggregate"):
            rows = _with_baselines(metrics, rows)
            summary = Summary(
                partial=len(samples) < len(parsed.samples),
                suite=suite,
                n_samples=len(samples),
                n_manifest=len(parsed.samples),
                manifest_sha256=parsed.sha256,
                config_sha256=config.digest(metrics),
                bootstrap=Bootstrap(
                    seed=seed, replicates=replicates, confidence=statistics.CONFIDENCE
                ),
                metrics=tuple(MetricInfo.of(spec) for spec in specs),
                results=aggregate.results(specs, rows, seed=seed, replicates=replicates),
                published=published_block([spec.family for spec in specs]),
            )
        # Killed from here on, the folder is no finished run, and never half of two.
        for name in (SUMMARY_FILE, REPORT_FILE):
            (folder / name).unlink(missing_ok=True)
        with (
            watch.measure("step", "previews"),
            track("previews", len(usable), quiet=not (progress and report)) as step,
        ):
            if report:
                previews.make(parsed, usable, folder, step=step)
        write.per_sample(folder / PER_SAMPLE_FILE, rows)
        write.failures(folder / "failures.csv", rows)
        write.json_file(folder / "run.json", _record(parsed, config, metrics))
        write.json_file(folder / SUMMARY_FILE, summary.to_json())
        with watch.measure("step", "report"):
            if report:
                build_report([folder], folder / REPORT_FILE, title=parsed.path.stem)
        whole = sum(n == len(metrics) for n in Counter(i for _, i in cached).values())
        spent = timings.content(
            watch,
            timings.Videos(len(usable) - whole, whole, len(problems)),
            Counter(protocol for protocol, _ in cached),
            [spec.protocol for spec in specs],
        )
        write.json_file(folder / "timings.json", spent)
        return summary


def _measure(
    manifest: Manifest,
    metrics: Sequence[Metric],
    items: Sequence[Inspected],
    cache: Cache,
    encoders: Encoders,
    runner: Runner,
    *,
    progress: bool,
) -> tuple[list[Row], list[tuple[str, str]]]:
    """Every metric on every usable sample; and protocol and sample of what the cache had."""
    keys = {
        (m.spec.protocol, i.sample.sample_id): key_of(m.spec, i) for m in metrics for i in items
    }
    rows: list[Row] = []
    cached: list[tuple[str, str]] = []
    open_work: list[Work] = []
    for item in items:
        missing = []
        for metric in metrics:
            found = cache.get(metric.spec, keys[metric.spec.protocol, item.sample.sample_id])
            if found is None:
                missing.append(metric)
            else:
                rows.append(_row(item, metric, found))
                cached.append((metric.spec.protocol, item.sample.sample_id))
        if missing:
            open_work.append((item, missing))
    # Before the first frame is decoded, not after an hour: is every weight file there?
    for name in sorted({a for _, missing in open_work for m in missing for a in m.spec.assets}):
        asset(name)
    for name in sorted({n for _, missing in open_work for m in missing for n in m.spec.local}):
        encoders.weights.path(name)
    with track("evaluate", len(items), quiet=not progress) as step:
        step(len(items) - len(open_work))
        for (item, _), found_here in runner(manifest, open_work):
            for metric, measurement, message in found_here:
                if not message:  # what failed on this machine may succeed on the next try
                    key = keys[metric.spec.protocol, item.sample.sample_id]
                    cache.put(metric.spec, key, measurement)
                rows.append(_row(item, metric, measurement, message))
            step(note=item.sample.sample_id)
    return rows, cached


def score(manifest: Manifest, item: Inspected, metrics: Sequence[Metric]) -> Scored:
    """Decode once what all metrics need, then measure; a metric's error is its own.

    Args:
        manifest: where relative paths start.
        item: the video.
        metrics: to measure it.

    Raises:
        EvalError: weights that fail every video.
        MediaError: the machine's fault, such as a full disk.
    """
    watch = timings.current()
    try:
        wanted = {i for metric in metrics for i in metric.plan(item.times_us)}
        with watch.measure("decode", "videos"):
            frames = media.read_frames(item.video, item.times_us, sorted(wanted))
            references = load_references(manifest, item.sample)
        case = Case(
            frames=frames,
            times_us=item.times_us,
            references=references,
            prompt=item.sample.prompt,
        )
    except MediaError as error:
        if error.transient:
            raise
        message = manifest.shorten(str(error))
        return [(m, failed(f"video_{error.kind.value}"), message) for m in metrics]
    scored: Scored = []
    for metric in metrics:
        try:
            with watch.measure("metric", metric.spec.protocol):
                said = metric.measure(case)
            scored.append((metric, said, ""))
        except EvalError:  # unusable weights fail every sample: say so at once
            raise
        except (ValueError, ArithmeticError, LookupError, RuntimeError, cv2.error) as error:
            scored.append((metric, failed("error"), f"{type(error).__name__}: {error}"))
    return scored


def load_references(manifest: Manifest, sample: Sample) -> tuple[RefImage, ...]:
    """Read a sample's reference images and masks.

    Raises:
        MediaError: a file that cannot be read.
    """
    return tuple(
        RefImage(
            image=media.read_image(manifest.resolve(ref.path)),
            mask=media.read_mask(manifest.resolve(ref.mask)) if ref.mask is not None else None,
            phrase=ref.phrase,
            is_face=ref.is_face,
            is_scene=ref.is_scene,
        )
        for ref in sample.refs
    )


def _row(item: Inspected, metric: Metric, measurement: Measurement, message: str = "") -> Row:
    return Row(
        item.sample,
        metric.spec,
        measurement,
        video_sha256=item.video_sha256,
        frames=len(item.times_us),
        message=message,
    )


def _unusable(
    metrics: Sequence[Metric], problems: Sequence[Problem], samples: Sequence[Sample]
) -> list[Row]:
    by_id = {s.sample_id: s for s in samples}
    return [
        Row(by_id[p.sample_id], m.spec, failed(p.kind), message=p.message)
        for p in problems
        for m in metrics
    ]


def _with_baselines(metrics: Sequence[Metric], rows: list[Row]) -> list[Row]:
    levels: dict[int, float | None] = {}
    for metric in metrics:
        where = [i for i, row in enumerate(rows) if row.spec.protocol == metric.spec.protocol]
        found = aggregate.baselines(metric, [rows[i] for i in where])
        levels.update(zip(where, found, strict=True))
    return [
        Row(
            row.sample,
            row.spec,
            row.measurement,
            levels[i],
            row.video_sha256,
            row.frames,
            row.message,
        )
        for i, row in enumerate(rows)
    ]


def _record(manifest: Manifest, config: _Config, metrics: Sequence[Metric]) -> dict[str, object]:
    """What somebody needs to run it again: no clock, no host, no absolute path."""
    names = tuple(sorted({a for m in metrics for a in m.spec.assets}))
    return {
        "schema": write.RECORD_SCHEMA,
        "manifest": {"name": clean(manifest.path.name), "sha256": manifest.sha256},
        "suite": config.suite,
        "protocols": list(config.protocols),
        "config_sha256": config.digest(metrics),
        "seed": config.seed,
        "replicates": config.replicates,
        "limit": config.limit,
        "weights": {**weight_digests(names), **dict(d for m in metrics for d in m.spec.digests)},
        "licences": {m.spec.protocol: m.spec.licence for m in metrics},
        "packages": {**library_versions(), "s2v-evals": version("s2v-evals")},
    }
