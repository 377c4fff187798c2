"""A whole curation: measure, select, cut, write; each step goes on where it was stopped."""

from __future__ import annotations

import importlib.metadata
import subprocess
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from s2v.datapipe import pipeline
from s2v.datapipe.base import atomic, records
from s2v.datapipe.base.exclusions import Exclusion, read_exclusions
from s2v.datapipe.config import Settings
from s2v.datapipe.cutting import cut_clips
from s2v.datapipe.engine.execute import stop_ray
from s2v.datapipe.engine.lock import run_lock
from s2v.datapipe.measuring import Measured, Measuring
from s2v.datapipe.pair.bank_size import advice
from s2v.datapipe.pair.conservation import Report, check
from s2v.datapipe.pair.select import Selection
from s2v.datapipe.pair.split import unknown_pins
from s2v.datapipe.pair.steps import Steps
from s2v.datapipe.pair.unseen import read_test_faces
from s2v.datapipe.roles import Roles
from s2v.datapipe.searching import Banks
from s2v.datapipe.serving import Servers, make_roles
from s2v.datapipe.verifying import Verified, select_verified
from s2v.datapipe.views import write_views
from s2v.datapipe.write import takedown
from s2v.datapipe.write.focus import subjects_shown
from s2v.datapipe.write.write import Written, write_shards

#: Packages whose version can change a result; recorded in run.json.
RECORDED = (
    "av", "decord", "imageio-ffmpeg", "numpy", "onnxruntime", "opencv-python-headless", "pillow",
    "pyarrow", "ray", "rapidocr", "scenedetect", "spacy", "torch", "s2v-datapipe",
)  # fmt: skip


@dataclass(frozen=True)
class Curated:
    """A finished run."""

    folder: Path
    measured: Measured
    verified: Verified
    conservation: Report
    advice: tuple[str, ...]  # on names that no source has, and bounds that a bank has outgrown
    views: tuple[str, ...]  # tables that changed
    written: Written | None  # None: not asked for
    copies: tuple[str, ...] = ()  # clips left out because they show what was taken down

    @property
    def selection(self) -> Selection:
        """What was selected."""
        return self.verified.selection

    def summary(self) -> dict[str, Any]:
        """The figures a user wants to see first."""
        asked = {} if self.verified.missing is None else {"not verified": self.verified.missing}
        tables = self.measured.tables
        return {
            "folder": str(self.folder),
            "sources": tables["sources"].num_rows,
            "clips": tables["clips"].num_rows,
            "subjects": self.selection.subjects["reason"].null_count,
            "quarantined": tables["quarantine"].num_rows,
            "samples": _counted(self.selection.samples["pair_type"]),
            "scenarios": _counted(self.selection.samples["scenario"]),
            "short of": {
                f"{row['pair_type']} {row['of']} {row['name']}": f"{row['kept']} of {row['least']}"
                for row in self.selection.quotas.to_pylist()
                if row["missing"]
            },
            **asked,
            "tables written": list(self.views),
            **self._shards(),
            "measured now": {k: n for k, n in self.measured.measured.items() if n},
            "conservation": "holds",
            "advice": list(self.advice),
        }

    def _shards(self) -> dict[str, Any]:
        if self.written is None:
            return {"shards": "left as they are; without --no-write they are written"}
        return {
            "written": self.written.samples,
            "not written": self.written.skipped,
            "shards": self.written.shards,
            "shards written anew": list(self.written.changed),
        }


def curate(
    settings: Settings,
    *,
    retry_quarantine: bool = False,
    measure: bool = True,
    write: bool = True,
    quiet: bool = False,
) -> Curated:
    """Run everything that is not done yet.

    Args:
        settings: the configuration.
        retry_quarantine: measure quarantined rows again.
        measure: ``False`` selects and writes from what is measured, and runs no model.
        write: ``False`` stops at the folder ``tables``: no clip is cut and no shard written.
        quiet: no progress.

    Raises:
        NotMeasuredError, RunBusyError, SourceError, AssetError, AdmissionError, SettingsError,
        WeightsError, ServerStartError, QuarantineBudgetError, ConservationError: one clear line
        each.
    """
    folder = Path(settings.folder)
    roles = make_roles(settings)
    exclusions = [e for path in settings.exclusions for e in read_exclusions(Path(path))]
    exclusions += takedown.of_run(folder)
    split = settings.select.split
    test_faces = (
        read_test_faces(Path(split.test_identities), split.test_identity_cosine)
        if split.test_identities
        else None
    )
    with run_lock(folder):
        atomic.sweep(folder)
        banks = Banks(folder / "select" / "banks", settings.engine.cpus)
        banks.sweep()
        with Servers(settings) as servers:
            measured = Measuring(
                settings,
                roles,
                servers,
                retry_quarantine=retry_quarantine,
                only_committed=not measure,
                quiet=quiet,
            ).run()
            of_gone: tuple[Exclusion, ...] = ()
            if settings.exclude_copies:
                of_gone = takedown.copies_of_gone(folder, measured.tables, settings.select.pair)
            exclusions += of_gone
            servers.keep_for({"verifier"})
            verified = select_verified(
                settings,
                roles,
                measured,
                exclusions,
                servers,
                ask=measure,
                retry_quarantine=retry_quarantine,
                quiet=quiet,
                steps=Steps(folder / "select", measured.digest, banks),
                test_faces=test_faces,
            )
        as_read = measured.tables
        measured.tables, selection = verified.tables, verified.selection
        with ThreadPoolExecutor(1) as beside:  # tables are encoded while they are checked
            checking = beside.submit(
                partial(check, measured_is_sound=measured.sound),
                *(measured.tables, selection, settings.select),
            )
            files: Mapping[str, Path] = {}
            if write:
                checking.result()
                files = _cut(settings, measured, selection, quiet=quiet)
            stop_ray()
            views = write_views(
                *(folder, measured.tables, selection),
                measured=as_read,
                stamped=measured.stamp,
                digest=measured.digest,
                before_names=checking.result,
            )
            conservation = checking.result()
        write_run_json(folder, settings, roles)
        written = None
        if write:
            written = write_shards(
                *(folder, measured.tables, selection, settings.write, files), folder / "shards"
            )
    films = measured.tables["sources"]["long_video_id"].to_pylist()
    pins = unknown_pins(films, settings.select.split)
    told = (*pins, *advice(selection.subjects, settings.select))
    left_out = tuple(one.key for one in of_gone)
    return Curated(folder, measured, verified, conservation, told, views, written, left_out)


def _cut(
    settings: Settings, measured: Measured, selection: Selection, *, quiet: bool
) -> Mapping[str, Path]:
    """Cut the clips of all samples; what cannot be cut joins the quarantine."""
    clips = measured.tables["clips"]
    wanted = pc.is_in(clips["clip_id"], value_set=selection.samples["clip_id"].combine_chunks())
    cut = cut_clips(
        Path(settings.folder),
        clips.filter(wanted).to_pylist(),
        {row["video_id"]: row for row in measured.tables["sources"].to_pylist()},
        settings.write.encoding(),
        keep=subjects_shown(measured.tables, selection) if settings.write.buckets else None,
        cpus=settings.engine.cpus,
        quiet=quiet,
    )
    if cut.quarantine:
        extra = records.table("quarantine", sorted(cut.quarantine, key=lambda r: str(r["id"])))
        quarantine = pa.concat_tables([measured.tables["quarantine"], extra])
        measured.tables = {**measured.tables, "quarantine": quarantine}
    return cut.files


def _counted(column: pa.ChunkedArray) -> dict[str, int]:
    """How often each value is there, by value."""
    counts = pc.value_counts(column)
    pairs = zip(counts.field("values").to_pylist(), counts.field("counts").to_pylist(), strict=True)
    return dict(sorted(pairs))


def write_run_json(folder: Path, settings: Settings, roles: Roles) -> None:
    """Record what the run depends on: configuration, packages, models, commit."""
    atomic.write_json(
        folder / "run.json",
        {
            "settings": settings.model_dump(mode="json"),
            "packages": {name: _version(name) for name in RECORDED},
            "models": roles.ids(),
            "verifier_prompts": {}
            if roles.verifier is None
            else {name: vars(prompt) for name, prompt in sorted(roles.verifier.prompts.items())},
            "fingerprints": {n: r.fingerprint for n, r in pipeline.plan(settings, roles).items()},
            "stage_models": pipeline.stage_models(roles),
            "git_commit": _git_commit(),
        },
    )


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True,
            cwd=Path(__file__).parent,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
