"""The canary: a caption can never land on another clip.

Every clip of a real film has a code of its own burnt in. Whatever happens between a clip and its
caption (threads, batches, retries, answers out of order, lost connections, actors of Ray), the
caption must speak of the clip's own code. Swapped captions have been shipped for months elsewhere.
The actors are in test_engine_ray.py, which has them already.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, ClassVar

import pytest
from canary import CODES, UNITS, captioned, make_film, served, stages, strayed
from vlm_double import Handler, double, pictures, read_code, reads_the_code

from s2v.datapipe.engine.stage import Row, Unit
from s2v.datapipe.engine.store import StageStore
from s2v.datapipe.measure.caption import CaptionStage
from s2v.datapipe.roles import Caption, ClipView


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_film(tmp_path_factory.mktemp("canary") / "codes.mp4")


def test_the_code_survives_film_and_jpeg(film: Path, tmp_path: Path) -> None:
    """Else the canary below would prove nothing."""
    with double(reads_the_code(0)) as server:
        captioned(tmp_path, film, stages(served(server.url)))
    assert {tuple({read_code(p) for p in pictures(r)}) for r in server.requests} == {
        (code,) for code in CODES.values()
    }
    assert all(len(pictures(r)) == 3 for r in server.requests)


@pytest.mark.parametrize("seed", [1, 2])
def test_every_caption_is_its_own_clips_through_threads_retries_and_drops(
    film: Path, tmp_path: Path, seed: int
) -> None:
    with double(reads_the_code(seed, trouble=0.4)) as server:
        found = captioned(tmp_path, film, stages(served(server.url)))
    assert strayed(found) == []
    assert server.most_at_once > 4
    assert len(server.requests) > 1.2 * len(CODES)


def test_an_answer_meant_for_another_request_is_not_taken(film: Path, tmp_path: Path) -> None:
    """A gateway hands every third answer to the request before: with its own id, as it came."""
    last: list[tuple[str, str]] = []

    def mixes(request: dict[str, Any], handler: Handler) -> None:
        said = json.dumps({"caption": f"codes {sorted({read_code(p) for p in pictures(request)})}"})
        mine = (said, handler.headers["X-Request-Id"])
        last.append(mine)
        text, request_id = last[-2] if len(last) % 3 == 0 else mine
        handler.say(text, request_id=request_id)

    with double(mixes) as server:
        found = captioned(tmp_path, film, stages(served(server.url)))
    assert strayed(found) == []
    assert len(server.requests) > 1.2 * len(CODES)


def test_kept_answers_are_their_own_clips_too(film: Path, tmp_path: Path) -> None:
    kept = str(tmp_path / "answers")
    with double(reads_the_code(3)) as server:
        model = served(server.url, answers=kept)
        assert strayed(captioned(tmp_path / "one", film, stages(model))) == []
        asked = len(server.requests)
        assert strayed(captioned(tmp_path / "two", film, stages(model))) == []
        assert len(server.requests) == asked


def test_one_bad_row_costs_no_other_row(film: Path, tmp_path: Path) -> None:
    bad = {CODES["clip07"]: "refused", CODES["clip21"]: "nonsense", CODES["clip40"]: "poison"}
    good = reads_the_code(4, trouble=0.2)

    def spoilt(request: dict[str, Any], handler: Handler) -> None:
        shown = pictures(request)
        probe = request.get("max_tokens") == 4
        kind = None if probe else bad.get(read_code(shown[0]))
        if probe:
            handler.say("grey")
        elif kind == "refused":
            handler.send('{"error": {"message": "cannot load the image"}}', 400)
        elif kind == "nonsense":
            handler.say("<html>")
        elif kind == "poison":
            handler.send('{"error": {"message": "list index out of range"}}', 500)
        else:
            good(request, handler)

    with double(spoilt) as server:
        found = captioned(tmp_path, film, stages(served(server.url, tries=6)))
    assert strayed(found) == ["clip07", "clip21", "clip40"]
    store = StageStore(tmp_path, "caption", "f")
    rows = [r for n in range(UNITS) for r in store.rows(f"u{n}").get("quarantine", [])]
    told = {row["id"]: (row["error"], row["message"]) for row in rows}
    assert {clip: error for clip, (error, _) in told.items()} == dict.fromkeys(
        ("clip07", "clip21", "clip40"), "AnswerError"
    )
    assert "cannot load the image" in told["clip07"][1]
    assert "no valid answer in 3 attempts" in told["clip21"][1]
    assert "list index out of range" in told["clip40"][1]


class EmbeddedReader:
    """A captioner in the process that reads the code off its frames."""

    model_id, prompt_sha256 = "reader", "0"

    def load(self) -> None:
        pass

    def caption(self, view: ClipView) -> Caption:
        return Caption(f"codes {sorted({read_code(frame) for frame in view.frames})}")


class ServedReader(EmbeddedReader):
    concurrency = 16


@pytest.mark.parametrize("model", [EmbeddedReader(), ServedReader()], ids=["embedded", "threads"])
def test_captions_made_in_the_process_are_their_own_clips(
    film: Path, tmp_path: Path, model: EmbeddedReader
) -> None:
    assert strayed(captioned(tmp_path, film, stages(model))) == []


class Unsound(EmbeddedReader):
    """Says things of three clips that fit no table, no text file and no page."""

    spoilt: ClassVar = {
        CODES["clip03"]: " ",
        CODES["clip04"]: "codes " * 400,
        CODES["clip05"]: "codes\n<hr>",
    }

    def caption(self, view: ClipView) -> Caption:
        return Caption(self.spoilt.get(read_code(view.frames[0])) or super().caption(view).text)


def test_captions_that_fit_nowhere_cost_their_clips_only(film: Path, tmp_path: Path) -> None:
    assert strayed(captioned(tmp_path, film, stages(Unsound()))) == ["clip03", "clip04", "clip05"]
    store = StageStore(tmp_path, "caption", "f")
    rows = [r for n in range(UNITS) for r in store.rows(f"u{n}").get("quarantine", [])]
    told = {row["id"]: row["message"] for row in rows}
    assert "empty" in told["clip03"]
    assert "2400 characters" in told["clip04"]
    assert "one line" in told["clip05"]


# The canary can die: each of these is a way in which captions have landed on other clips.


class InOrderOfArrival(CaptionStage):
    """Files the n-th answer that comes back under the n-th clip, as batching in flight did."""

    def each(self, unit: Unit, clips: Iterable[str], work: Callable[[str], list[Row]]) -> list[Row]:
        wanted = sorted(clips)
        with ThreadPoolExecutor(16) as pool:
            arrived = [done.result() for done in as_completed(pool.submit(work, c) for c in wanted)]
        return [
            {**row, "clip_id": clip}
            for clip, rows in zip(wanted, arrived, strict=True)
            for row in rows
        ]


def test_the_canary_dies_when_answers_are_filed_in_order_of_arrival(
    film: Path, tmp_path: Path
) -> None:
    with double(reads_the_code(5)) as server:
        found = captioned(tmp_path, film, stages(served(server.url), InOrderOfArrival))
    assert len(found) == len(CODES)
    assert len(strayed(found)) > len(CODES) / 2


def test_the_canary_dies_when_a_server_swaps_answers_under_the_right_ids(
    film: Path, tmp_path: Path
) -> None:
    """No client can see this one; that it would show here is why the canary reads pictures."""
    before = ["codes [7]"]

    def swaps(request: dict[str, Any], handler: Handler) -> None:
        before.append(f"codes {sorted({read_code(p) for p in pictures(request)})}")
        handler.say(json.dumps({"caption": before[-2]}))

    with double(swaps) as server:
        found = captioned(tmp_path, film, stages(served(server.url)))
    assert len(found) == len(CODES)
    assert len(strayed(found)) > len(CODES) / 2
