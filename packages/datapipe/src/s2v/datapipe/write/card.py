"""The dataset card: README.md with the YAML head that the Hugging Face loader reads.

The head declares every column, since the loader would otherwise infer them from the first
samples and fail where the number of references differs.
"""

from __future__ import annotations

import json
import types
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from s2v.datapipe.base.shards import MAX_REFERENCES, PairType, Part, SampleMeta
from s2v.datapipe.pair.rows import Row
from s2v.datapipe.write import figures
from s2v.datapipe.write.croissant import STATED

if TYPE_CHECKING:
    from s2v.datapipe.write.describe import Dataset

_DTYPES = {str: "string", int: "int64", float: "float64", bool: "bool"}
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (10**6, "100K<n<1M"))
#: Licence ids of the Hub that our manifests may state; anything else is "other".
_HUB_LICENCES = frozenset(
    {"cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc0-1.0", "mit", "apache-2.0"}
)


def features() -> list[dict[str, Any]]:
    """Columns of a sample as the Hugging Face ``datasets`` YAML states them."""
    columns: list[dict[str, Any]] = [
        {"name": "mp4", "dtype": "video"},
        {"name": "txt", "dtype": "string"},
        {"name": "json", **_feature(SampleMeta)},
    ]
    for n in range(MAX_REFERENCES):
        columns += [{"name": f"ref{n}.{kind}", "dtype": "image"} for kind in ("jpg", "mask.png")]
    columns += [{"name": name, "dtype": "string"} for name in ("__key__", "__url__")]
    return columns


def _feature(kind: Any) -> dict[str, Any]:
    """One type of the sample's JSON model as a feature."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return {
            "struct": [
                {"name": field.alias or name, **_feature(field.annotation)}
                for name, field in sorted(
                    kind.model_fields.items(), key=lambda item: item[1].alias or item[0]
                )
            ]
        }
    if get_origin(kind) is Literal:
        return {"dtype": "string"}
    if get_origin(kind) in (Union, types.UnionType):
        inner = [one for one in get_args(kind) if one is not type(None)]
        return _feature(inner[0])
    if get_origin(kind) is tuple:
        item = _feature(get_args(kind)[0])
        return {"list": item.get("dtype", item.get("struct"))}
    return {"dtype": _DTYPES[kind]}


def card(dataset: Dataset) -> str:
    """README.md of a shard folder."""
    there = {(row["pair_type"], row["part"]) for row in dataset.rows}
    present = [kind for kind in get_args(PairType) if any(kind == one for one, _ in there)]
    configs = [("default", present), *((name, [name]) for name in present)]
    head = {
        "pretty_name": dataset.title,
        **_licence(dataset),
        "task_categories": ["text-to-video", "image-to-video"],
        "size_categories": [_size(len(dataset.rows))],
        "tags": ["webdataset", "subject-to-video", "video"],
        "configs": [
            {"config_name": name, "data_files": _splits(kinds, there)} for name, kinds in configs
        ],
        "dataset_info": [{"config_name": name, "features": features()} for name, _ in configs],
    }
    return f"---\n{_yaml(head)}---\n\n{_body(dataset)}"


def _splits(kinds: list[str], there: set[tuple[str, str]]) -> list[dict[str, Any]]:
    """Which shards are which split of the loader: a shard holds samples of one part."""
    found = []
    for part in get_args(Part):
        named = "" if part == "train" else f"{part}-"
        paths = [f"{kind}-{named}[0-9]*.tar" for kind in kinds if (kind, part) in there]
        if paths:
            found.append({"split": part, "path": paths})
    return found or [{"split": "train", "path": ["*.tar"]}]


def _licence(dataset: Dataset) -> dict[str, str]:
    used = {str(row["licence"]).lower() for row in dataset.used_sources}
    if len(used) == 1 and used <= _HUB_LICENCES:
        return {"license": used.pop()}
    return {"license": "other", "license_name": "per-source", "license_link": "#sources"}


def _size(samples: int) -> str:
    return next((name for limit, name in _SIZES if samples < limit), "n>1M")


def _body(dataset: Dataset) -> str:
    rows = dataset.rows
    seconds = sum(row["frames"] / row["fps"] for row in rows if row["fps"])
    size = sum(file.bytes for file in dataset.files)
    parts = [
        f"# {dataset.title}\n",
        "Subject-to-video triplets: reference images, a caption, and the clip that shows the same "
        "subjects. In-paired references are cut from the clip itself; cross-paired ones show the "
        "same subject in another clip or photograph.\n",
        f"{len(rows)} samples, {seconds:.0f} s of video, {size / 1e6:.1f} MB in "
        f"{len(dataset.files)} shards.\n",
        "## A sample\n",
        "`<id>.mp4` the clip, `<id>.txt` its caption, `<id>.json` everything known of it, and for "
        "each reference n: `<id>.ref<n>.jpg` (crop with margin) and `<id>.ref<n>.mask.png` (its "
        "subject). `index/samples.parquet` has a row per sample with the offset, size and sha256 "
        "of each member.\n",
        "Splits: `test` shares no source and no identity with the others; `val` are other scenes "
        "of training sources (`heldout` in the JSON), for validation losses; the rest is `train`. "
        "Every shard holds samples of one split, named in the shard but for `train`.\n",
        "## Read it\n",
        _READING.replace("{patterns}", _patterns(dataset)),
        "## Figures\n",
        "".join(
            f"![{_cell(one.words)}]({figures.FOLDER}/{one.name}.svg)\n"
            for one in figures.figures(dataset)
        ),
        "## Counts\n",
        _table(("pair type", "split", "held out", "samples"), _counts(rows)),
        _table(("scenario", "samples"), _tally(row["scenario"] for row in rows)),
        _table(("references", "samples"), _tally(str(row["references"]) for row in rows)),
        _table(
            ("clip length", "samples"),
            _tally(_length(row["frames"] / row["fps"]) for row in rows if row["fps"]),
        ),
        "## Sources\n",
        "As stated by whoever listed them; `unverified` means that nobody stated it.\n",
        _table(("stated of", "as", "sources"), _stated(dataset)),
        _table(
            ("source", "kind", "origin", "licence", "consent of the depicted", "credit", "samples"),
            _sources(dataset)[:_LISTED],
        ),
        _not_listed(dataset),
    ]
    return "\n".join(parts)


_PATTERNS = 24  # runs of shard numbers that the card shows
_LISTED = 200  # sources with a line of their own: a card is read by people
_READING = """\
```python
import webdataset as wds
samples = wds.WebDataset(shards, shardshuffle=False)   # a list of the tar files

import wids
samples = wids.ShardListDataset("wids-train.json", keep=True, transformations=[])  # or wids.json

from datasets import load_dataset
samples = load_dataset(".", split="train")             # or "val", "test"; name="in", "cross"

from megatron.energon import get_train_dataset         # .nv-meta/ is written; cook the samples
samples = get_train_dataset(".", ...)                  # in a task encoder
```

`shards` above may be {patterns}.
"""


def _patterns(dataset: Dataset) -> str:
    """The shards as brace expressions, runs of numbers together."""
    runs: list[tuple[str, int, int]] = []
    for name in (one.shard for one in dataset.files):
        kind, number = name.removesuffix(".tar").rsplit("-", 1)
        if runs and runs[-1][0] == kind and runs[-1][2] + 1 == int(number):
            runs[-1] = (kind, runs[-1][1], int(number))
        else:
            runs.append((kind, int(number), int(number)))
    shown = [
        f"`{kind}-{first:06d}.tar`"
        if first == last
        else f"`{kind}-{{{first:06d}..{last:06d}}}.tar`"
        for kind, first, last in runs[:_PATTERNS]
    ]
    more = len(runs) - _PATTERNS
    return ", ".join(shown or ["none"]) + (
        f" and {more} more runs: see `wids.json`" if more > 0 else ""
    )


def _counts(rows: list[Row]) -> list[tuple[str, ...]]:
    count = Counter(
        (row["pair_type"], row["split"], "yes" if row["heldout"] else "no") for row in rows
    )
    return [(*key, str(n)) for key, n in sorted(count.items())]


def _tally(values: Iterable[str]) -> list[tuple[str, ...]]:
    return [(value, str(n)) for value, n in sorted(Counter(values).items())]


def _length(seconds: float) -> str:
    """The bins of Phantom-Data, figure 3."""
    for limit, name in ((5, "under 5 s"), (10, "5 to 10 s"), (15, "10 to 15 s")):
        if seconds < limit:
            return name
    return "15 s and more"


def _sources(dataset: Dataset) -> list[tuple[str, ...]]:
    samples: dict[str, int] = defaultdict(int)
    for row in dataset.rows:
        samples[row["video_id"]] += 1
    return [
        (
            *(str(row[k] or "not stated") for k in ("video_id", "kind", "origin", "licence")),
            *(str(row[k] or "not stated") for k in ("consent", "credit")),
            str(samples[row["video_id"]] or "references only"),
        )
        for row in dataset.used_sources
    ]


def _stated(dataset: Dataset) -> list[tuple[str, ...]]:
    """How many sources say what of licence, consent, minors and faces."""
    used = dataset.used_sources
    return [
        (title, value, str(count))
        for title, column in STATED
        for value, count in sorted(Counter(str(r[column] or "unverified") for r in used).items())
    ]


def _not_listed(dataset: Dataset) -> str:
    more = len(dataset.used_sources) - _LISTED
    return f"and {more} more, in `tables/sources.parquet` of the run.\n" if more > 0 else ""


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join("| " + " | ".join(_cell(cell) for cell in line) + " |\n" for line in lines)


def _cell(text: str) -> str:
    """Manifests are written by strangers: no markup, no extra column."""
    escaped = " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|")
    return escaped.replace("<", "&lt;").replace("[", "\\[")


def _yaml(value: Any, indent: int = 0) -> str:
    """Block YAML of nested dicts and lists; scalars are JSON, which YAML contains."""
    pad = "  " * indent
    lines = []
    for key, inner in value.items():
        name = key if key.isidentifier() else json.dumps(key)
        if isinstance(inner, dict):
            lines.append(f"{pad}{name}:\n{_yaml(inner, indent + 1)}")
        elif isinstance(inner, list):
            lines.append(f"{pad}{name}:\n{_yaml_list(inner, indent)}")
        else:
            lines.append(f"{pad}{name}: {json.dumps(inner, ensure_ascii=False)}\n")
    return "".join(lines)


def _yaml_list(items: list[Any], indent: int) -> str:
    pad = "  " * indent
    lines = []
    for item in items:
        if isinstance(item, dict):
            block = _yaml(item, indent + 1)
            lines.append(f"{pad}- {block[len(pad) + 2 :]}")
        else:
            lines.append(f"{pad}- {json.dumps(item, ensure_ascii=False)}\n")
    return "".join(lines)
