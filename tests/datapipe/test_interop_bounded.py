"""A stranger's JSON of any size is read entry by entry, and never trusted with its types."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from s2v.datapipe.interop import bounded
from s2v.datapipe.interop.bounded import Fields, entries, load
from s2v.datapipe.interop.errors import InteropError, RowError
from s2v.datapipe.interop.imported import class_of, find_phrase, to_frame


def _value(random_: random.Random, depth: int) -> Any:
    kind = random_.randrange(7 if depth else 4)
    if kind == 0:
        return random_.choice([0, -17, 3.25e-7, 10**14, True, None])
    if kind < 4:
        return "".join(random_.choices('ab{}[]",:\\\n\u00e9\U0001f600 ', k=random_.randrange(30)))
    if kind == 4:
        return [_value(random_, depth - 1) for _ in range(random_.randrange(5))]
    return {f"k{n}": _value(random_, depth - 1) for n in range(random_.randrange(5))}


@pytest.mark.parametrize("seed", range(30))
def test_entries_are_those_of_a_whole_parse_wherever_reads_end(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    random_ = random.Random(seed)
    monkeypatch.setattr(bounded, "_CHUNK", random_.choice([1, 2, 7, 64]))
    data = {f'"{n}\u00fc\\': _value(random_, 3) for n in range(random_.randrange(9))}
    path = tmp_path / "a.json"
    text = json.dumps(data, indent=random_.choice([None, 2]), ensure_ascii=seed % 2 == 0)
    path.write_bytes(("\ufeff" * (seed % 3 == 0) + text).encode())
    assert dict(entries(path)) == data
    if seed % 3:
        assert load(path) == data


def test_an_entry_over_the_bound_stops_there(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"small": 1, "large": "x" * 3_000_000}))
    found = entries(path, max_entry=1_000_000)
    assert next(found) == ("small", 1)
    with pytest.raises(InteropError, match="entry 'large': does not end within 1000000 char"):
        next(found)
    with pytest.raises(InteropError, match="over 1000 bytes"):
        load(path, 1000)


def test_a_file_of_200_mb_is_read_in_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.json"
    one = json.dumps({"counts": "x" * 200_000})
    with path.open("w") as handle:
        handle.write("{")
        for n in range(1000):
            handle.write(f'{"," if n else ""}"{n}": {one}')
        handle.write("}")
    program = (
        "import resource, sys; from pathlib import Path\n"
        "from s2v.datapipe.interop.bounded import entries\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "count = sum(len(v['counts']) for _, v in entries(Path(sys.argv[1])))\n"
        "print(count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True
    )
    count, grown_kib = map(int, done.stdout.split())
    assert count == 200_000_000
    assert grown_kib < 30_000


@pytest.mark.parametrize(
    ("ask", "value"),
    [
        (lambda f: f.text("k"), 5),
        (lambda f: f.text("k"), " "),
        (lambda f: f.text("k", 3), "long"),
        (lambda f: f.number("k"), True),
        (lambda f: f.number("k"), "1"),
        (lambda f: f.text("k"), "half a character: \ud83d"),
        (lambda f: f.number("k"), float("inf")),
        (lambda f: f.number("k"), float("nan")),
        (lambda f: f.number("k"), 10**400),
        (lambda f: f.numbers("k", 4), [0, 0, float("nan"), 9]),
        (lambda f: f.integer("k"), 1.5),
        (lambda f: f.integer("k"), 1e300),
        (lambda f: f.numbers("k", 2), [1]),
        (lambda f: f.numbers("k", 2), [1, None]),
        (lambda f: f.integers("k", 2), [1, 2.5]),
        (lambda f: f.items("k"), {}),
        (lambda f: f.object("k"), []),
        (lambda f: f.raw("other"), 1),
    ],
)
def test_a_value_of_another_type_is_the_rows_reason_and_shown(ask: Any, value: Any) -> None:
    with pytest.raises(RowError, match=r"^unreadable row: row"):
        ask(Fields({"k": value}, "row"))


@pytest.mark.parametrize(
    ("phrase", "caption", "span"),
    [
        ("man", "A woman and a man.", (14, 17)),
        ("the Dog", "The dog barks.", (0, 7)),
        ("cat", "Two cats.", (4, 7)),
    ],
)
def test_a_phrase_is_found_as_a_word_first(
    phrase: str, caption: str, span: tuple[int, int]
) -> None:
    assert find_phrase(phrase, caption) == span


def test_a_phrase_that_is_not_there_is_refused() -> None:
    with pytest.raises(RowError, match="phrase not in the caption"):
        find_phrase("owl", "A dog.")
    # Lower case that has another length would shift every position behind it.
    with pytest.raises(RowError, match="phrase not in the caption"):
        find_phrase("DOG", "\u0130\u0130 dog")


@pytest.mark.parametrize(
    ("phrase", "noun", "category"),
    [
        ("a woman in a red coat", "woman", "human"),
        ("the small brown dog", "dog", "animal"),
        ("man wearing sunglasses", "man", "human"),
        ("white lace top", "top", "other"),
        ("In", "in", "other"),
    ],
)
def test_the_class_of_a_phrase_follows_its_head_noun(phrase: str, noun: str, category: str) -> None:
    assert class_of(phrase) == (noun, category)


def test_boxes_may_stand_out_by_a_rounded_pixel_only() -> None:
    assert to_frame((0, 0, 768.4, 432), 768, 1920, 1080) == (0, 0, 1920, 1080)
    assert to_frame((10, 10, 20, 20), 768, 640, 360) == (10, 10, 20, 20)  # was not enlarged
    with pytest.raises(RowError, match="box outside the frame"):
        to_frame((0, 0, 832, 432), 768, 1920, 1080)  # one of seven published boxes is like this
    with pytest.raises(RowError, match="has no area"):
        to_frame((10, 10, 10.2, 30), None, 640, 360)
