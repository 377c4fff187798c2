"""``s2v-data import FORMAT`` and ``s2v-data export FORMAT RUN``."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from s2v.datapipe.base.settings import load
from s2v.datapipe.interop.errors import InteropError
from s2v.datapipe.interop.ledger import QUARANTINE, Ledger

EXAMPLES = """\
examples:
  s2v-data import phantom-data --pairs koala36M_multi_ref_merged_filtered.parquet \\
      --clips koala36M_multi_ref_meta_info_merged.parquet --videos koala/ --out imported
  s2v-data import opens2v --files total_part1.json --pairs cross_frames/ --videos Videos --out o2v
  s2v-data import curator nemo_output --out nemo.jsonl          then [[sources]] manifest = ...
  s2v-data import video2dataset shards --out v2d.jsonl
  s2v-data export phantom-data runs/demo --out released
  s2v-data verify imported                                      every byte against the index
"""

Show = Callable[[Any, bool], int]


def add_arguments(commands: Any, show: Show) -> None:
    """Add both verbs to the command line.

    Args:
        commands: the subparsers.
        show: prints a result, as JSON if asked, and gives the exit code.
    """
    for verb, text, formats in (
        ("import", "read another dataset's files into shards or a manifest", _IMPORTS),
        ("export", "write a run in another dataset's format", _EXPORTS),
    ):
        command = commands.add_parser(
            verb, help=text, description=text, epilog=EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        kinds = command.add_subparsers(dest="format", metavar="FORMAT", required=True)
        for name, (run, about, add) in formats.items():
            kind = kinds.add_parser(name, help=about, description=about)
            add(kind)
            kind.add_argument("--json", action="store_true", help="print the result as JSON")
            kind.set_defaults(run=lambda args, run=run: show(run(args), args.json))


def _of_samples(kind: argparse.ArgumentParser) -> None:
    kind.add_argument("--videos", required=True, type=Path, help="folder, or table of name, file")
    kind.add_argument("--out", required=True, type=Path, help="folder to write shards/ below")
    kind.add_argument("--config", type=Path, help="TOML file of import settings")
    kind.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    kind.add_argument("--quiet", action="store_true", help="no progress")


def _phantom_arguments(kind: argparse.ArgumentParser) -> None:
    kind.add_argument("--pairs", required=True, type=Path, help="...merged_filtered.parquet")
    kind.add_argument("--clips", type=Path, help="...meta_info_merged.parquet")
    _of_samples(kind)


def _opens2v_arguments(kind: argparse.ArgumentParser) -> None:
    kind.add_argument(
        "--files", required=True, type=Path, nargs="+", help="total_part<N>.json with masks"
    )
    kind.add_argument("--pairs", type=Path, help="folder of cross-frame pairs, or one file")
    _of_samples(kind)


def _curator_arguments(kind: argparse.ArgumentParser) -> None:
    kind.add_argument("folder", type=Path, help="holds clips/ and metas/v0/")
    kind.add_argument("--caption", help="key of the caption, like qwen_caption")
    kind.add_argument("--out", required=True, type=Path, help="manifest to write, .jsonl")


def _v2d_arguments(kind: argparse.ArgumentParser) -> None:
    kind.add_argument("folder", type=Path, help="holds 00000.tar, 00000.parquet, ...")
    kind.add_argument("--out", required=True, type=Path, help="manifest to write, .jsonl")


def _export_arguments(kind: argparse.ArgumentParser) -> None:
    kind.add_argument("folder", type=Path, metavar="RUN", help="the run folder")
    kind.add_argument("--out", required=True, type=Path, help="folder to write the files into")
    kind.add_argument(
        "--videos-table", type=Path, help="also write names and files, CSV, to import"
    )


def _phantom(args: argparse.Namespace) -> dict[str, Any]:
    from s2v.datapipe.interop.phantom_data import PhantomData

    def open_(settings: Any) -> Any:
        return PhantomData(args.pairs, args.clips, settings)

    return _samples(args, open_, {"format": "phantom-data", "from": args.pairs.name})


def _opens2v(args: argparse.Namespace) -> dict[str, Any]:
    from s2v.datapipe.interop.opens2v import OpenS2V

    def open_(settings: Any) -> Any:
        return OpenS2V(args.files, args.pairs, settings)

    names = sorted(path.name for path in args.files)
    return _samples(args, open_, {"format": "opens2v", "from": names})


def _samples(
    args: argparse.Namespace, open_: Callable[[Any], Any], about: dict[str, Any]
) -> dict[str, Any]:
    from s2v.datapipe.engine.lock import run_lock
    from s2v.datapipe.interop.settings import ImportSettings
    from s2v.datapipe.interop.videos import Videos
    from s2v.datapipe.interop.writing import ShardWriter

    settings = load(ImportSettings, args.config, args.set)
    dataset, videos, ledger = open_(settings), Videos(args.videos), Ledger()
    args.out.mkdir(parents=True, exist_ok=True)
    with run_lock(args.out):
        writer = ShardWriter(args.out, videos, settings, ledger, quiet=args.quiet)
        written = writer.write(dataset.samples(ledger))
        stated = settings.model_dump(mode="json", by_alias=True, exclude={"workers"})
        done = ledger.write(args.out, {**about, "settings": stated, "written": written})
    if not written["samples"]:
        left = done["counts"].get("row", {}).get("left_out", {})
        raise InteropError(
            f"{about['from']}: no sample could be made: {left or 'it holds no rows'}; "
            f"{args.out / QUARANTINE} has every row"
        )
    return done


def _curator(args: argparse.Namespace) -> dict[str, Any]:
    from s2v.datapipe.interop.curator import Curated

    return _manifest(args, Curated(args.folder, caption=args.caption), "curator")


def _v2d(args: argparse.Namespace) -> dict[str, Any]:
    from s2v.datapipe.interop.video2dataset import Video2Dataset

    return _manifest(args, Video2Dataset(args.folder), "video2dataset")


def _manifest(args: argparse.Namespace, folder: Any, name: str) -> dict[str, Any]:
    from s2v.datapipe.interop.manifests import write_manifest

    ledger = Ledger()
    about = {"format": name, "from": args.folder.name}
    return write_manifest(args.out, folder.sources(ledger), ledger, about)


def _export_phantom(args: argparse.Namespace) -> dict[str, Any]:
    from s2v.datapipe.interop.phantom_export import export_run

    if args.out.exists() and not args.out.is_dir():
        raise InteropError(f"{args.out}: is a file; name a folder")
    return export_run(args.folder, args.out, args.videos_table)


_IMPORTS: dict[str, Any] = {
    "phantom-data": (_phantom, "Phantom-Data's two Parquet files into shards", _phantom_arguments),
    "opens2v": (_opens2v, "OpenS2V-5M's JSON with masks into shards", _opens2v_arguments),
    "curator": (
        _curator,
        "NeMo Curator's or Cosmos-Curate's clips into a manifest of sources",
        _curator_arguments,
    ),
    "video2dataset": (_v2d, "video2dataset's shards into a manifest of sources", _v2d_arguments),
}
_EXPORTS: dict[str, Any] = {
    "phantom-data": (_export_phantom, "Phantom-Data's columns from a run", _export_arguments),
}
