"""The page: nothing in it runs that is not ours, nothing is fetched, and it shows what is there."""

from __future__ import annotations

import base64
import hashlib
import math
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
from page_reader import Page
from report_run import CREDIT, HOSTILE, build_run, hostile_world
from synthetic_tables import film_world

from s2v.datapipe.base.markup import media_type
from s2v.datapipe.base.shards import ShardIndex
from s2v.datapipe.pair.evidence import CONTEXT_RULES
from s2v.datapipe.report.gallery import by_priority
from s2v.datapipe.report.page import PageTooLargeError, build_report
from s2v.datapipe.report.pair_cards import PairCards
from s2v.datapipe.report.refusals import (
    NEAR_COPY,
    OTHER_SUBJECT,
    make_refusals,
)
from s2v.datapipe.report.run import RunFolder
from s2v.datapipe.report.sections import (
    Card,
    LineChart,
    Media,
    MediaGrid,
    Paragraph,
    Section,
    Series,
    Table,
)
from s2v.datapipe.report.wording import RULE_TEXT

LOADS = {"src", "poster", "data", "srcset", "action", "background", "xlink:href"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def html(run: Path) -> str:
    return build_report(run, run / "report.html").read_text()


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


@pytest.fixture(scope="module")
def jpeg(run: Path) -> bytes:
    return next(iter(ShardIndex.open(run / "shards"))).read("ref0.jpg")


def test_a_caption_with_a_script_stays_text(page: Page, html: str) -> None:
    assert HOSTILE not in html
    assert len(page.all("script")) == 1  # ours
    captions = [text for text in page.text("p") if HOSTILE in text]
    assert captions
    assert "<b>240</b> frames are declared" in "".join(page.text("td"))


def test_the_page_asks_nobody_for_anything(page: Page) -> None:
    for tag, attributes in page.elements:
        for name in LOADS & attributes.keys():
            assert str(attributes[name]).startswith("data:"), (tag, name)
        if "href" in attributes:
            assert str(attributes["href"]).startswith("#")
        assert "style" not in attributes  # the policy forbids it
        assert not [name for name in attributes if name.startswith("on")]
    assert not {"link", "iframe", "object", "embed", "base"} & {tag for tag, _ in page.elements}
    (style,) = page.text("style")
    assert "@import" not in style
    assert set(re.findall(r"url\(([^)]*)\)", style)) == {"#hatch"}


def test_the_policy_admits_our_own_style_and_script_only(page: Page) -> None:
    (policy,) = [
        str(meta["content"])
        for meta in page.all("meta")
        if meta.get("http-equiv") == "Content-Security-Policy"
    ]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    for kind in ("script", "style"):
        (source,) = page.text(kind)
        digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy


def test_the_script_never_makes_markup_of_data() -> None:
    from importlib import resources

    source = resources.files("s2v.datapipe.report").joinpath("page.js").read_text()
    for danger in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert danger not in source


def test_every_sample_is_shown_with_its_phrases_marked(run: Path, html: str) -> None:
    cards = dict(re.findall(r'<article [^>]*id="sample-(\w+)"[^>]*>(.*?)</article>', html, re.S))
    index = ShardIndex.open(run / "shards")
    assert cards.keys() == {sample.id for sample in index}
    several = 0
    for sample in index:
        meta, card = sample.meta(), Page(cards[sample.id])
        marks = [(text[: -len(str(n + 1))], n) for n, text in enumerate(card.text("mark"))]
        assert marks == [(ref.phrase, n) for n, ref in enumerate(meta.refs)]
        colours = [mark["class"] for mark in card.all("mark")]
        figures = [one.get("class") for one in card.all("figure")]
        assert colours == [f"m{n}" for n in range(len(meta.refs))] == figures[:-1]
        assert len(card.all("img")) == len(meta.refs)
        assert [video.get("src", "")[:22] for video in card.all("video")] == [
            "data:video/mp4;base64,"
        ]
        several += len(meta.refs) > 1
    assert several


def test_clips_wait_for_the_reader(page: Page) -> None:
    assert page.all("video")
    for video in page.all("video"):
        assert {"muted", "loop", "controls", "playsinline", "poster"} <= video.keys()
        assert "autoplay" not in video
        assert video["preload"] == "none"
        assert video["aria-label"]


def test_pictures_and_charts_speak_to_those_who_do_not_see_them(page: Page, html: str) -> None:
    assert all(image.get("alt") for image in page.all("img"))
    drawn = [svg for svg in page.all("svg") if svg.get("role") == "img"]
    assert len(drawn) > 10
    ids = [str(attributes["id"]) for _, attributes in page.elements if "id" in attributes]
    assert Counter(ids).most_common(1)[0][1] == 1
    for svg in drawn:
        named = str(svg.get("aria-labelledby", "")).split()
        assert svg.get("aria-label") or (len(named) == 2 and set(named) <= set(ids))
    assert page.all("html")[0]["lang"] == "en"
    assert all(th.get("scope") for th in page.all("th"))
    assert html.count("<h1") == 1


def test_the_shot_that_the_trailer_shares_with_the_film_is_shown_as_refused(page: Page) -> None:
    articles = [text for text in page.text("article") if RULE_TEXT["duplicate_clip"] in text]
    assert any("film at" in text and "trailer at" in text for text in articles)
    assert any(RULE_TEXT["face_mismatch"] in text for text in page.text("article"))


def test_the_same_two_clips_are_not_shown_refused_twice(run: Path) -> None:
    opened = RunFolder(run)
    refused = [r for r in opened.rows("pairs") if set(r["rules"]) & set(NEAR_COPY)]
    clips = {frozenset((r["target_clip_id"], r["reference_clip_id"])) for r in refused}
    assert len(clips) < len(refused)
    made = make_refusals(opened, PairCards(opened), NEAR_COPY, 1000, lambda size: size > 0)
    assert (len(made.cards), made.total) == (len(clips), len(refused))
    assert len(set(made.cards)) == len(made.cards)


def test_a_second_report_encodes_nothing_again(run: Path, html: str, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (run / "previews").iterdir()}
    assert len(before) >= 2
    assert build_report(run, tmp_path / "again.html").read_text() == html
    assert {path: path.stat().st_mtime_ns for path in (run / "previews").iterdir()} == before


def test_all_near_copy_rules_of_the_pairing_have_their_place() -> None:
    judged_without_looking = {"same_clip", "min_gap", "copy_not_measured"}
    assert set(NEAR_COPY) == set(CONTEXT_RULES) - judged_without_looking
    assert not set(NEAR_COPY) & set(OTHER_SUBJECT)


def test_credits_and_thresholds_can_be_read(page: Page) -> None:
    said = "".join(page.text("header"))
    assert CREDIT in said
    assert "CC-BY-4.0" in said
    assert "A film's subjects & others" in page.text("h1")[0]
    labels = [text for text in page.text("text") if text[:5] in ("lower", "upper", "min 2")]
    assert {"lower 0.72", "upper 0.93"} <= set(labels) or len(labels) >= 6


def test_the_same_run_gives_the_same_bytes(run: Path, html: str, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    shutil.rmtree(copy / "previews")
    assert build_report(copy, tmp_path / "again.html").read_text() == html


def test_the_page_keeps_to_its_bound_and_says_what_it_left_out(
    run: Path, html: str, tmp_path: Path
) -> None:
    bound = len(html.encode()) * 2 // 3
    path = build_report(run, tmp_path / "small.html", max_bytes=bound)
    assert path.stat().st_size <= bound
    small = Page(path.read_text())
    shown = sum("sample" in str(one.get("class")).split() for one in small.all("article"))
    total = len(ShardIndex.open(run / "shards"))
    assert 0 < shown < total
    assert f"{shown} of {total} samples of the shards" in "".join(small.text("p"))
    with pytest.raises(PageTooLargeError, match="max_bytes = 9000"):
        build_report(run, tmp_path / "tiny.html", max_bytes=9000)
    assert not (tmp_path / "tiny.html").exists()


def test_the_first_cards_show_the_variety_of_all(run: Path) -> None:
    samples = list(ShardIndex.open(run / "shards"))
    ordered = by_priority(samples)
    assert sorted(s.id for s in ordered) == sorted(s.id for s in samples)
    assert [s.id for s in by_priority(samples[::-1])] == [s.id for s in ordered]

    def strata(some: list) -> set[tuple[str, str, str]]:  # type: ignore[type-arg]  # of samples
        return {(s.row["pair_type"], s.row["scenario"], s.row["video_id"]) for s in some}

    kinds = len(strata(samples))
    assert strata(ordered[: 2 * kinds]) == strata(samples)
    shown = Counter(sample.row["pair_type"] for sample in ordered[:10])
    assert min(shown.values()) >= 2


def test_a_damaged_shard_costs_its_cards_and_not_the_page(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    shutil.rmtree(copy / "previews")
    for tar in (copy / "shards").glob("cross-*.tar"):
        tar.unlink()
    path = build_report(copy, tmp_path / "report.html")
    text = "".join(Page(path.read_text()).text("article"))
    assert "the shard is missing" in text
    assert "in-paired" in path.read_text()


def test_a_run_without_shards_says_so(tmp_path: Path) -> None:
    run = build_run(tmp_path / "run", film_world(), shards=False)
    said = build_report(run, tmp_path / "report.html").read_text()
    assert "No shards were written yet" in said
    assert "Conservation holds" in said


def test_a_run_of_nothing_but_quarantine_still_gives_a_page(tmp_path: Path) -> None:
    world = hostile_world()
    for name, rows in world.rows.items():
        if name not in ("sources", "quarantine"):
            rows.clear()
    world.rows["sources"][:] = world.rows["sources"][-1:]
    world._phrases.clear()
    run = build_run(tmp_path / "run", world, shards=False)
    said = Page(build_report(run, tmp_path / "report.html").read_text())
    assert "120 are there" in "".join(said.text("td"))


def test_sections_of_callers_come_through_whole_and_escaped(
    run: Path, jpeg: bytes, tmp_path: Path
) -> None:
    losses = Series("training", range(2000), [9 / (1 + n / 100) for n in range(2000)])
    sections = [
        Section(
            "Training <1>",
            [
                Paragraph("a & b"),
                Table(("metric", "mean"), [("<i>face</i>", 0.51234), ("text", None)], note="n=3"),
                LineChart("Loss", [losses, Series("gap", [1, 2], [math.nan, 3.0])], "step", "loss"),
                LineChart("Loss, by decades", [losses], "step", "loss", log_y=True),
                MediaGrid(
                    [
                        Card(
                            [Media(jpeg, alt="a cup", mark=1)],
                            "the red cup falls",
                            spans=[(0, 11, 1)],
                            notes=["seed 3"],
                        )
                    ]
                ),
            ],
        )
    ]
    made = Page(build_report(run, tmp_path / "report.html", sections).read_text())
    assert "Training <1>" in made.text("h2")
    assert "<i>face</i>" in made.text("th")
    assert {"0.5123", "–"} <= set(made.text("td"))
    assert "the red cup2" in made.text("mark")
    assert "seed 3" in made.text("li")
    rows = [text for text in made.text("tr") if text.startswith("gap")]
    assert rows == ["gap133331"]  # one point of value 3, one left out
    charts_made = [svg for svg in made.all("svg") if svg.get("viewbox") == "0 0 640 280"]
    assert len(charts_made) == 2
    # The long line is thinned and keeps both ends of its range.
    assert max(len(str(path["d"])) for path in made.all("path")) < 20_000


def test_more_media_than_the_page_may_hold_are_left_out_and_counted(
    run: Path, html: str, jpeg: bytes, tmp_path: Path
) -> None:
    cards = [Card([Media(jpeg, alt=f"picture {n}")]) for n in range(400)]
    bound = len(html.encode()) + 400_000
    sections = [Section("Many", [MediaGrid(cards)]), Section("More", [MediaGrid(cards)])]
    path = build_report(run, tmp_path / "report.html", sections, max_bytes=bound)
    assert path.stat().st_size <= bound
    notes = [text for text in Page(path.read_text()).text("p") if "of 400 shown" in text]
    assert len(notes) == 2
    assert "sample-" in path.read_text()  # the gallery keeps its part


def test_media_of_an_unknown_kind_are_refused(run: Path, tmp_path: Path) -> None:
    section = Section("Bad", [MediaGrid([Card([Media(b"<svg onload=x>", alt="no")])])])
    with pytest.raises(ValueError, match="neither JPEG"):
        build_report(run, tmp_path / "report.html", [section])


def test_files_are_known_by_their_bytes(jpeg: bytes, run: Path) -> None:
    clip = next((run / "previews").glob("*.mp4")).read_bytes()
    assert (media_type(jpeg), media_type(clip)) == ("image/jpeg", "video/mp4")
