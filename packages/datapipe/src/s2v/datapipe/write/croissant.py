"""Croissant description (MLCommons, version 1.0) of a shard folder."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from s2v.datapipe.base.shards import INDEX, INDEX_FILE
from s2v.datapipe.pair.rows import Row

if TYPE_CHECKING:
    from s2v.datapipe.write.describe import Dataset

_CONTEXT: Final[dict[str, Any]] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
#: What sources state of the people and rights in them: title and column.
STATED: Final = (
    ("licence", "licence"),
    ("consent of the depicted", "consent"),
    ("minors", "minors"),
    ("faces", "face_policy"),
)
_KINDS: Final = {
    "string": "sc:Text",
    "int64": "sc:Integer",
    "double": "sc:Float",
    "bool": "sc:Boolean",
}


def croissant(dataset: Dataset) -> dict[str, Any]:
    """JSON-LD: every tar with its sha256, and the index's flat columns as records."""
    sources = dataset.used_sources
    credits_ = sorted({str(row["credit"]) for row in sources if row["credit"]})
    index = (dataset.folder / INDEX_FILE).read_bytes()
    files = [
        _file("index", INDEX_FILE, "application/x-parquet", len(index), _sha256(index)),
        *(_file(f.shard, f.shard, "application/x-tar", f.bytes, f.sha256) for f in dataset.files),
    ]
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": [
            "http://mlcommons.org/croissant/1.0",
            "http://mlcommons.org/croissant/RAI/1.0",
        ],
        "name": dataset.title,
        "description": "Subject-to-video triplets: reference images, caption, clip.",
        "license": sorted({str(row["licence"]) for row in sources}) or ["unverified"],
        "citeAs": "; ".join(credits_) or "no source states a credit",
        **_responsible(sources),
        "version": "1.0.0",
        "distribution": files,
        "recordSet": [
            _splits(dataset.parts),
            {
                "@type": "cr:RecordSet",
                "@id": "samples",
                "name": "samples",
                "description": "One row per sample; members are in the tar named by `shard`.",
                "key": {"@id": "samples/sample_id"},
                "field": [_field(field) for field in INDEX if str(field.type) in _KINDS],
            },
        ],
    }


def _responsible(sources: list[Row]) -> dict[str, Any]:
    """Croissant's RAI vocabulary, as far as the sources state it; nothing is assumed."""
    kinds = Counter(f"{row['kind']} ({row['origin'] or 'origin not stated'})" for row in sources)
    stated = [
        f"{title}: {value} for {count} of {len(sources)} sources"
        for title, column in STATED
        for value, count in sorted(Counter(str(r[column] or "unverified") for r in sources).items())
    ]
    return {
        "rai:dataCollection": "; ".join(f"{n} of {kind}" for kind, n in sorted(kinds.items()))
        or "no source",
        "rai:dataPreprocessingProtocol": [
            "videos are split into shots; clips are filtered by measured quality, captioned, and "
            "their subjects detected, segmented and paired; every threshold is in the run's "
            "run.json, every model of a sample's scores in its tables"
        ],
        "rai:personalSensitiveInformation": stated or ["no source"],
        "rai:dataLimitations": [
            "captions, boxes, masks and pairs are made by models and can be wrong; what a source "
            "does not state of licence or consent is written as unverified"
        ],
        "rai:dataReleaseMaintenancePlan": "takedown by source, clip, subject or sample id: "
        "`s2v-data takedown` writes anew the shards that hold it",
    }


def _file(name: str, url: str, kind: str, size: int, sha256: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "contentUrl": url,
        "contentSize": f"{size} B",
        "encodingFormat": kind,
        "sha256": sha256,
    }


def _splits(parts: list[str]) -> dict[str, Any]:
    """The splits by Croissant's own vocabulary; column ``part`` of the samples names one of them.

    It does so in words: where a field *references* another, mlcroissant joins the two, and as it
    reads Parquet as bytes and this list as text, no record would be left.
    """
    return {
        "@type": "cr:RecordSet",
        "@id": "splits",
        "name": "splits",
        "description": "test shares no source and no identity with the others; val are other "
        "scenes of training sources.",
        "dataType": "cr:Split",
        "key": {"@id": "splits/name"},
        "field": [
            {
                "@type": "cr:Field",
                "@id": "splits/name",
                "name": "name",
                "dataType": "sc:Text",
            }
        ],
        "data": [{"splits/name": part} for part in parts],
    }


def _field(field: pa.Field) -> dict[str, Any]:
    words = {"description": "one of the splits"} if field.name == "part" else {}
    return {
        "@type": "cr:Field",
        "@id": f"samples/{field.name}",
        "name": field.name,
        "dataType": _KINDS[str(field.type)],
        "source": {"fileObject": {"@id": "index"}, "extract": {"column": field.name}},
        **words,
    }


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
