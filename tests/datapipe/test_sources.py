"""A manifest from a stranger is read whole, or refused in one line that says where and why."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from s2v.datapipe.base.exclusions import read_exclusions
from s2v.datapipe.sources import SourceError, SourceSpec, list_sources


def read(path: Path) -> list[dict[str, object]]:
    return list_sources([SourceSpec(manifest=str(path))])


def refusal(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    with pytest.raises(SourceError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    return message


@pytest.mark.parametrize("row", ["1", "null", '["a.mp4"]', '"a.mp4"'])
def test_a_json_line_that_is_no_object_is_named(tmp_path: Path, row: str) -> None:
    data = f'{{"path": "a.mp4"}}\n\n{row}\n'.encode()
    message = refusal(tmp_path / "m.jsonl", data)
    assert "m.jsonl, line 3:" in message
    assert row in message
    assert '{"path":' in message


@pytest.mark.parametrize("row", ['{"path": ', "[" * 100_000])
def test_a_line_that_is_not_json_is_named(tmp_path: Path, row: str) -> None:
    assert "m.jsonl, line 1: not JSON" in refusal(tmp_path / "m.jsonl", row.encode())


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("m.csv", "path,credit\na.mp4,Zo\u00eb\n"),
        ("m.jsonl", '{"path": "a.mp4"}\n{"path": "b.mp4", "credit": "Zo\u00eb"}\n'),
    ],
)
def test_another_encoding_is_named_with_its_line_and_the_way_out(
    tmp_path: Path, name: str, text: str
) -> None:
    message = refusal(tmp_path / name, text.encode("latin-1"))
    assert f"{name}, line 2: byte 0xeb" in message
    assert "save the manifest as UTF-8" in message


def test_a_file_that_is_no_parquet_is_named(tmp_path: Path) -> None:
    whole = tmp_path / "whole.parquet"
    pq.write_table(pa.table({"path": ["a.mp4"]}), whole)
    for data in (b"", b"path\na.mp4\n", whole.read_bytes()[:-20]):
        assert "cannot be read as Parquet" in refusal(tmp_path / "m.parquet", data)


def test_a_row_with_a_cell_too_many_names_its_line_and_the_cell(tmp_path: Path) -> None:
    message = refusal(tmp_path / "m.csv", b"path,credit\na.mp4,A\nb.mp4,Smith, John\n")
    assert "m.csv, line 3: 3 cells under 2 headings" in message
    assert "' John'" in message
    assert "double quotes" in message


def test_a_quote_that_is_never_closed_is_named(tmp_path: Path) -> None:
    assert "not CSV" in refusal(tmp_path / "m.csv", b'path,credit\na.mp4,"A\nb.mp4,B\n')


def test_an_unknown_key_is_named_with_its_line(tmp_path: Path) -> None:
    assert "m.csv, line 2: unknown key 'pth'" in refusal(tmp_path / "m.csv", b"pth\na.mp4\n")


@pytest.mark.parametrize("name", ["m.csv", "m.jsonl"])
def test_what_excel_and_windows_write_is_read(tmp_path: Path, name: str) -> None:
    lines = {
        "m.csv": ["path,video_id,credit", 'a.mp4,one,"Smith, John"', "b.mp4,two,"],
        "m.jsonl": [
            '{"path": "a.mp4", "video_id": "one", "credit": "Smith, John"}',
            '{"path": "b.mp4", "video_id": "two"}',
        ],
    }[name]
    (tmp_path / name).write_bytes(("\ufeff" + "\r\n".join(lines) + "\r\n").encode())
    rows = read(tmp_path / name)
    assert [(r["video_id"], r["credit"]) for r in rows] == [("one", "Smith, John"), ("two", None)]
    assert rows[0]["path"] == str(tmp_path / "a.mp4")


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85"])
def test_a_line_separator_inside_a_json_string_is_no_end_of_line(tmp_path: Path, mark: str) -> None:
    row = {"path": "a.mp4", "video_id": "one", "credit": f"A{mark}B"}
    path = tmp_path / "m.jsonl"
    path.write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    assert [r["credit"] for r in read(path)] == [f"A{mark}B"]


def test_a_takedown_whose_reason_holds_a_line_separator_is_honoured(tmp_path: Path) -> None:
    line = {
        "key_type": "video_id", "key": "v", "reason": "asked\u2028twice", "by": "x", "when": "now",
    }  # fmt: skip
    path = tmp_path / "x.jsonl"
    path.write_bytes((json.dumps(line, ensure_ascii=False) + "\r\n").encode())
    [found] = read_exclusions(path)
    assert (found.key, found.reason) == ("v", "asked\u2028twice")
