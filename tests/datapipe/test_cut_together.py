"""Clips cut in one pass have the bytes of clips cut one by one, and one's fault is its own."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from media_corpus import Corpus

from s2v.datapipe import cutting
from s2v.datapipe.base.media.cut import cut_clip
from s2v.datapipe.base.media.cut_together import MAX_TOGETHER, Span, cut_together, together
from s2v.datapipe.base.media.errors import MediaError
from s2v.datapipe.base.media.probe import probe

ENCODING = {"short_side": 72, "crf": 20, "preset": "veryfast"}


def spans(folder: Path, times: list[tuple[int, int]]) -> list[Span]:
    return [Span(a, b, folder / f"{n}.mp4") for n, (a, b) in enumerate(times)]


@pytest.mark.parametrize("name", ["whole.mp4", "ten.mp4", "film.mkv", "mirrored.mp4"])
@pytest.mark.parametrize("fps", [None, 10])
def test_the_bytes_are_those_of_single_cuts(
    corpus: Corpus, tmp_path: Path, name: str, fps: int | None
) -> None:
    film = corpus[name]
    length = probe(film).duration_us
    marks = [0, length // 5, length // 2, length]
    group = spans(tmp_path / "together", list(itertools.pairwise(marks)))
    made = cut_together(film, group, fps=fps, **ENCODING)
    for span, one in zip(group, made, strict=True):
        alone = cut_clip(
            film, span.start_us, span.end_us, tmp_path / "alone.mp4", fps=fps, **ENCODING
        )
        assert (one.sha256, one.frames) == (alone.sha256, alone.frames)
        assert Path(one.path).read_bytes() == (tmp_path / "alone.mp4").read_bytes()
    assert {path.name for path in (tmp_path / "together").iterdir()} == {
        span.dst.name for span in group
    }


def test_only_clips_that_share_pictures_are_cut_together(corpus: Corpus, tmp_path: Path) -> None:
    film = corpus["whole.mp4"]
    step = probe(film).duration_us // 20
    every = spans(tmp_path, [(n * step, (n + 1) * step) for n in range(20)])
    groups = together(film, every[::-1])
    assert [span for group in groups for span in group] == every
    assert max(map(len, groups)) <= MAX_TOGETHER
    assert len(groups) < 20
    assert together(film, every[:1]) == [every[:1]]
    assert all(len(group) == 1 for group in together(corpus["uneven.mp4"], every[:15]))


def job(folder: Path, film: Path, start: int, end: int) -> dict[str, Any]:
    source = {"video_id": "film", "kind": "video", "path": str(film), "sha256": "0", "etag": None}
    clip = {"clip_id": f"film-{start}", "kind": "video", "start_us": start, "end_us": end}
    return cutting._job(folder, clip, source, ENCODING)


def test_the_fault_of_one_clip_is_not_its_neighbours(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    film = corpus["half.mp4"]
    monkeypatch.setattr(cutting.staging, "local_path", lambda source: source["path"])
    length = probe(film).duration_us
    step = length // 4
    jobs = [job(tmp_path, film, n * step, (n + 1) * step) for n in range(4)]
    with pytest.raises(MediaError):
        cut_together(
            film,
            [Span(j["start_us"], j["end_us"], tmp_path / "no.mp4") for j in jobs[1:2] + jobs[3:]],
        )
    answers = cutting._cut_batch({"jobs": json.dumps(jobs)})
    assert [a["clip_id"] for a in answers] == [j["clip_id"] for j in jobs]
    alone = [bool(cutting._cut({"job": json.dumps(j)})["message"]) for j in jobs]
    assert [bool(a["message"]) for a in answers] == alone
    assert True in alone
    assert False in alone
    assert [Path(j["target"]).exists() for j in jobs] == [not bad for bad in alone]


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(0, 300), st.integers(1, 20)), max_size=40
    )
)
def test_every_clip_is_dealt_once_and_only_with_its_own_film(
    clips: list[tuple[str, int, int]],
) -> None:
    jobs = [
        {"source": {"video_id": v, "kind": "video"}, "start_us": s * 10**6,
         "end_us": (s + n) * 10**6, "clip_id": f"{i}"}
        for i, (v, s, n) in enumerate(clips)
    ]  # fmt: skip
    batches = cutting.neighbours(jobs)
    assert sorted(j["clip_id"] for b in batches for j in b) == sorted(j["clip_id"] for j in jobs)
    for batch in batches:
        assert 0 < len(batch) <= MAX_TOGETHER
        assert len({one["source"]["video_id"] for one in batch}) == 1
