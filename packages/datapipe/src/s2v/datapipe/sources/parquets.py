"""Pictures in Parquet: a column of bytes, or of ``struct<bytes, path>`` as Hugging Face writes.

A stranger's Parquet is decoded by native code, so these functions run in the media room's child
processes (:func:`~s2v.datapipe.base.media.sandbox.run_isolated`) and hand back plain values.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, Final

from s2v.datapipe.base.media.errors import MediaError, MediaErrorKind, from_os_error
from s2v.datapipe.base.media.images import MAX_IMAGE_BYTES

ALL: Final = ("*",)
"""In place of columns: every one that can hold pictures."""

_ROWS_AT_ONCE: Final = 16
_CAPTION_COLUMNS: Final = ("caption", "text", "prompt")


def picture_columns(path: str, columns: Sequence[str]) -> tuple[str, ...]:
    """Columns that hold pictures: the given ones, checked, :data:`ALL`, or the only one that can.

    Raises:
        MediaError: ``not_media`` (no Parquet), ``unsupported`` (no such column, or a choice).
    """
    schema = _open(path).schema_arrow
    able = [field.name for field in schema if _holds_bytes(field.type)]
    if tuple(columns) == ALL:
        return tuple(able)
    for name in columns:
        if name not in able:
            raise MediaError(
                MediaErrorKind.UNSUPPORTED,
                path,
                f"column {name!r} holds no bytes; those that do: {', '.join(able) or 'none'}",
            )
    if columns:
        return tuple(columns)
    if len(able) != 1:
        raise MediaError(
            MediaErrorKind.UNSUPPORTED,
            path,
            f"{len(able)} columns hold bytes ({', '.join(able) or 'none'}); name the pictures' in "
            'columns = ["..."]',
        )
    return tuple(able)


def cells(
    path: str, columns: Sequence[str], captions: Sequence[str]
) -> Iterator[tuple[int, list[tuple[str | None, int]], list[str | None]]]:
    """Per row: its number, ``(sha256, bytes)`` of each picture, and the captions.

    A picture without bytes gives ``(None, 0)``. Captions are columns or fields of structs, like
    ``description.item``; what is no text gives ``None``.

    Raises:
        MediaError: ``not_media``, ``corrupt``, ``unsupported``.
    """
    import pyarrow as pa

    file = _open(path)
    pictures = picture_columns(path, columns)
    texts = _caption_paths(path, file.schema_arrow, captions)
    wanted = sorted({*pictures, *(text[0] for text in texts)})
    number = 0
    try:
        for batch in file.iter_batches(_ROWS_AT_ONCE, columns=wanted, use_threads=False):
            for row in batch.to_pylist():
                found = [_digest(_bytes(row[name])) for name in pictures]
                yield number, found, [_field(row, text) for text in texts]
                number += 1
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise MediaError(
            MediaErrorKind.CORRUPT, path, f"row {number} cannot be read: {str(error)[:300]}"
        ) from None


def cell(path: str, row: int, column: str) -> bytes:
    """Bytes of one picture; only the row group that it lies in is read.

    Raises:
        MediaError: ``missing`` (row), ``empty`` (no bytes), and those of :func:`cells`.
    """
    import pyarrow as pa

    file = _open(path)
    picture_columns(path, (column,))
    first = 0
    try:
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            if row < first + count:
                return _cell(file, group, row - first, column, path)
            first += count
    except (pa.ArrowException, OSError) as error:
        raise MediaError(
            MediaErrorKind.CORRUPT, path, f"row {row} cannot be read: {str(error)[:300]}"
        ) from None
    raise MediaError(MediaErrorKind.MISSING, path, f"row {row}: there are {first}")


def _cell(file: Any, group: int, index: int, column: str, path: str) -> bytes:
    batches = file.iter_batches(
        _ROWS_AT_ONCE, row_groups=[group], columns=[column], use_threads=False
    )
    for batch in batches:
        if index < batch.num_rows:
            value = batch.column(0)[index].as_py()
            data = _bytes(value)
            if not data:
                named = value.get("path") if isinstance(value, dict) else None
                only = f", only the path {str(named)[:200]!r}" if named else ""
                raise MediaError(
                    MediaErrorKind.EMPTY, path, f"the row holds no bytes in {column!r}{only}"
                )
            if len(data) > MAX_IMAGE_BYTES:
                raise MediaError(
                    MediaErrorKind.TOO_LARGE, path, f"{len(data)} bytes for one picture"
                )
            return data
        index -= batch.num_rows
    raise MediaError(MediaErrorKind.CORRUPT, path, f"row group {group} ends early")


def _open(path: str) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path, pre_buffer=False, memory_map=False)
    except FileNotFoundError as error:
        raise from_os_error(error, path) from None
    except (pa.ArrowException, OSError) as error:
        raise MediaError(
            MediaErrorKind.NOT_MEDIA, path, f"cannot be read as Parquet ({str(error)[:200]})"
        ) from None


def _holds_bytes(kind: Any) -> bool:
    from pyarrow import types

    if types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _holds_bytes(kind.field(index).type)
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _bytes(value: Any) -> bytes | None:
    if isinstance(value, dict):
        value = value.get("bytes")
    return value if isinstance(value, bytes) else None


def _digest(data: bytes | None) -> tuple[str | None, int]:
    return (hashlib.sha256(data).hexdigest(), len(data)) if data else (None, 0)


def _caption_paths(path: str, schema: Any, captions: Sequence[str]) -> list[list[str]]:
    if not captions:
        known = [name for name in _CAPTION_COLUMNS if name in schema.names]
        return [[known[0]]] if known else []
    for caption in captions:
        if caption.split(".")[0] not in schema.names:
            raise MediaError(
                MediaErrorKind.UNSUPPORTED,
                path,
                f"captions names {caption!r}; its columns are {', '.join(schema.names)}",
            )
    return [caption.split(".") for caption in captions]


def _field(row: dict[str, Any], path: list[str]) -> str | None:
    value: Any = row
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, str) and value.strip() else None
