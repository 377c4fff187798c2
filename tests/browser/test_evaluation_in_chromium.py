"""The evaluation's page and the study's page as people have them: from disk, in a real browser."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import PIL.Image
import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from s2v.evals.report.page import build_report
from s2v.evals.run import evaluate
from s2v.evals.study.build import build
from s2v.evals.study.ingest import ingest
from s2v.evals.study.records import Key, load_key
from s2v.evals.study.result import report

if TYPE_CHECKING:
    from conftest import Browser

pytestmark = pytest.mark.browser

HOSTILE = "</script><script>document.title='taken'</script><b>bold</b>"
SAVED = """
const make = URL.createObjectURL;
window.saved = null;
URL.createObjectURL = (blob) => {
  blob.text().then((text) => { window.saved = text; });
  return make(blob);
};
"""
TEXT = "const look = () => window.saved ? done(window.saved) : setTimeout(look, 20); look();"


def encode(path: Path, seed: int, step: int) -> None:
    big = np.random.default_rng(seed).integers(0, 255, (12, 24, 3), np.uint8)
    big = np.asarray(np.kron(big, np.ones((8, 8, 1), np.uint8)))
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        for n in range(8):
            frame = np.ascontiguousarray(big[:, n * step : n * step + 160])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("evaluated")
    lines = []
    for n in range(3):
        PIL.Image.fromarray(np.full((60, 40, 3), 60 * n + 40, np.uint8)).save(root / f"r{n}.png")
        for m, model in enumerate(("first-model", "second-model")):
            encode(root / f"{n}{m}.mp4", n, 1 + m * 2)
            lines.append({
                "sample_id": f"s{n}-{m}", "video": f"{n}{m}.mp4", "prompt": f"{HOSTILE} {n}",
                "refs": [{"path": f"r{n}.png", "mask": None, "phrase": "x", "class": "thing"}],
                "model": model, "source": "generated", "reference_id": f"ref{n}", "seed": 0,
                "scenario": ("one", "two")[n % 2],
            })  # fmt: skip
    path = root / "manifest.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def page(manifest: Path) -> Path:
    out = manifest.parent / "scores"
    evaluate(manifest, out, "motion", progress=False, replicates=100)
    return build_report([out], manifest.parent / "report.html", title=HOSTILE)


@pytest.fixture(scope="module")
def study(manifest: Path) -> Path:
    out = manifest.parent / "study"
    build([manifest], out, mode="pairwise", raters=2, per_rater=3, gold=1, repeats=1)
    return out


def quiet(browser: Browser) -> None:
    """No complaint of the browser, no request to anybody."""
    browser.wait("setTimeout(() => done(1), 200)")
    browser.collect()
    assert [u for u in browser.requests if not u.startswith(("file:", "data:", "blob:"))] == []
    assert browser.said == []


def test_the_report_shows_methods_under_each_other_beside_their_reference(
    browser: Browser, page: Path
) -> None:
    browser.open(page)
    quiet(browser)
    assert browser.run("return document.title").startswith(HOSTILE)
    assert browser.run("return document.querySelector('b').textContent") != "bold"
    panels = browser.run("""
      return [...document.querySelectorAll('.panel')].map(p => {
        const left = p.querySelector('.references img').getBoundingClientRect();
        const rows = [...p.querySelectorAll('.strip')].map(i => i.getBoundingClientRect());
        return [left.right, ...rows.map(r => r.left), rows[0].bottom, rows[1].top,
                ...[...p.querySelectorAll('img')].map(i => i.naturalWidth)];
      });""")
    assert len(panels) == 3
    for right, first, second, bottom, top, *widths in panels:
        assert right < first == second
        assert bottom < top
        assert all(width > 20 for width in widths)


def test_the_report_fits_a_telephone_and_names_its_charts(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.driver.set_window_size(500, 900)
    try:
        wide = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert browser.run(wide) == 0
    finally:
        browser.driver.set_window_size(1300, 900)
    unnamed = browser.run("""
      return [...document.querySelectorAll('svg[role=img]')].filter(
        s => !s.getAttribute('aria-labelledby').split(' ').every(id => document.getElementById(id))
      ).length;""")
    assert unnamed == 0
    assert browser.run("return document.querySelectorAll('svg[role=img]').length") >= 2


def press(browser: Browser, *keys: str) -> None:
    browser.driver.find_element(By.TAG_NAME, "body").send_keys(*keys)


def where(browser: Browser) -> str:
    return str(browser.run("return document.getElementById('where').textContent"))


def count(browser: Browser) -> str:
    return str(browser.run("return document.getElementById('count').textContent"))


def start(browser: Browser, study: Path, rater: str) -> Key:
    browser.open(study / "rate" / f"{rater}.html")
    browser.run("localStorage.clear()")
    browser.open(study / "rate" / f"{rater}.html")
    return load_key(study)


def test_videos_play_from_disk_and_nobody_is_asked(browser: Browser, study: Path) -> None:
    start(browser, study, "r01")
    ready = browser.wait("""
      const videos = [...document.querySelectorAll('video')];
      const look = () => videos.every(v => v.readyState >= 2)
        ? done(videos.map(v => [v.videoWidth, v.error])) : setTimeout(look, 30);
      look();""")
    assert len(ready) == 2
    assert all(width > 0 and error is None for width, error in ready)
    assert browser.run("return document.querySelector('#references img').naturalWidth") == 40
    assert browser.run("return document.getElementById('prompt').textContent").startswith(HOSTILE)
    quiet(browser)


def test_answers_by_keyboard_survive_a_reload_and_reach_the_report(
    browser: Browser, study: Path, tmp_path: Path
) -> None:
    key = start(browser, study, "r01")
    items = key.sessions["r01"]
    assert count(browser) == f"0 of {len(items)} answered"
    press(browser, Keys.ARROW_RIGHT)
    assert where(browser).startswith("Item 1 ")  # no skipping
    chosen = {}
    for n, item in enumerate(items):
        wanted = item.expect or ("left", "right")[item.models.index("first-model")]
        chosen[item.id] = wanted
        press(browser, *(str(1 + key.choices.index(wanted)) * len(key.questions)))
        if n == 1:
            browser.open(study / "rate" / "r01.html")
            assert count(browser) == f"2 of {len(items)} answered"
            assert where(browser).startswith("Item 3 ")
        else:
            press(browser, Keys.ARROW_RIGHT)
    assert count(browser) == f"{len(items)} of {len(items)} answered"
    browser.run(SAVED)
    browser.driver.find_element(By.ID, "save").click()
    saved = tmp_path / "answers.json"
    saved.write_text(browser.wait(TEXT))
    rows = ingest(study, [saved])
    assert {r["item"]: r["choice"] for r in rows} == chosen
    assert sorted({r["place"] for r in rows}) == list(range(len(items)))
    from s2v.evals.study.exclude import Rules

    got = report(study, rules=Rules(min_seconds=0), replicates=100)
    assert all(f.wins["first-model"].estimate == 1.0 for f in got.findings)
    browser.open(study / "report.html")
    quiet(browser)
    assert "first-model" in browser.run("return document.querySelector('table').textContent")


def test_buttons_do_what_the_keys_do_and_answers_can_be_changed(
    browser: Browser, study: Path
) -> None:
    start(browser, study, "r02")
    for question in ("subject", "prompt", "quality"):
        for choice in ("left", "same"):
            browser.driver.find_element(
                By.CSS_SELECTOR, f"[data-question={question}][data-choice={choice}]"
            ).click()
    pressed = browser.run(
        "return [...document.querySelectorAll('[aria-pressed=true]')].map(b => b.dataset.choice)"
    )
    assert pressed == ["same"] * 3
    browser.driver.find_element(By.ID, "next").click()
    assert where(browser).startswith("Item 2 ")
    browser.driver.find_element(By.ID, "back").click()
    assert where(browser).startswith("Item 1 ")
    assert browser.run("return document.querySelectorAll('[aria-pressed=true]').length") == 3


def test_a_page_that_is_open_twice_loses_no_answer(browser: Browser, study: Path) -> None:
    start(browser, study, "r02")
    first = browser.driver.current_window_handle
    browser.driver.switch_to.new_window("tab")
    try:
        browser.driver.get((study / "rate" / "r02.html").as_uri())
        second = browser.driver.current_window_handle
        press(browser, *"111", Keys.ARROW_RIGHT)  # item 1, which the first window does not show
        press(browser, *"222")
        browser.driver.switch_to.window(first)
        assert count(browser).startswith("2 of ")
        last = "[data-question=subject][data-choice=right]"  # item 1 again: the last word counts
        browser.driver.find_element(By.CSS_SELECTOR, last).click()
        browser.run(SAVED)
        browser.driver.find_element(By.ID, "save").click()
        here = json.loads(browser.wait(TEXT))
        browser.driver.switch_to.window(second)
        assert count(browser).startswith("2 of ")
        browser.run(SAVED)
        browser.driver.find_element(By.ID, "save").click()
        there = json.loads(browser.wait(TEXT))
    finally:
        browser.driver.switch_to.window(first)
        for handle in browser.driver.window_handles:
            if handle != first:
                browser.driver.switch_to.window(handle)
                browser.driver.close()
        browser.driver.switch_to.window(first)
    first_item, second_item = (given["answers"] for given in here["given"])
    assert first_item == {"subject": "right", "prompt": "left", "quality": "left"}
    assert set(second_item.values()) == {"same"}
    assert here == there
