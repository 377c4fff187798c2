"""Croissant description (MLCommons, version 1.0) of a shard folder."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from s2v.datapipe.base.shards import INDEX, INDEX_FILE

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
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
_KINDS: Final = {
    "string": "sc:Text",
    "int64": "sc:Integer",
    "double": "sc:Float",
    "bool": "sc:Boolean",
}


def croissant(dataset: Dataset) -> dict[str, Any]:
    """JSON-LD: every tar with its sha256, and the index's flat columns as records."""
    licences = sorted({str(row["licence"]) for row in dataset.sources.to_pylist()})
    index = (dataset.folder / INDEX_FILE).read_bytes()
    files = [
        _file("index", INDEX_FILE, "application/x-parquet", len(index), _sha256(index)),
        *(_file(f.shard, f.shard, "application/x-tar", f.bytes, f.sha256) for f in dataset.files),
    ]
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": dataset.title,
        "description": "Subject-to-video triplets: reference images, caption, clip.",
        "license": licences,
        "version": "1.0.0",
        "distribution": files,
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "samples",
                "name": "samples",
                "description": "One row per sample; members are in the tar named by `shard`.",
                "key": {"@id": "samples/sample_id"},
                "field": [_field(field) for field in INDEX if str(field.type) in _KINDS],
            }
        ],
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


def _field(field: pa.Field) -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": f"samples/{field.name}",
        "name": field.name,
        "dataType": _KINDS[str(field.type)],
        "source": {"fileObject": {"@id": "index"}, "extract": {"column": field.name}},
    }


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
