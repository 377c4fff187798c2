"""The report as a reader has it: in a real browser, from disk, without a network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from report_run import HOSTILE
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select

from s2v.datapipe.base.shards import ShardIndex

if TYPE_CHECKING:
    from conftest import Browser

pytestmark = pytest.mark.browser

VISIBLE = "return [...document.querySelectorAll('.sample')].filter(c => c.offsetParent).length"
PLAYING = "return [...document.querySelectorAll('video')].filter(v => !v.paused).length"
ACTIVE = "const e = document.activeElement; return e.id || e.name || e.tagName"
UNTIL_PLAYING = """
const look = () => {
  const on = [...document.querySelectorAll('video')].filter(v => !v.paused && v.currentTime > 0);
  if (on.length) done(on.length); else setTimeout(look, 50);
};
look();
"""


def test_it_loads_in_silence_and_asks_nobody(browser: Browser, report: Path) -> None:
    browser.open(report)
    browser.run("document.querySelector('#triplets').scrollIntoView()")
    browser.wait(UNTIL_PLAYING)
    browser.run("window.scrollTo(0, document.body.scrollHeight)")
    browser.wait("setTimeout(() => done(1), 300)")
    browser.collect()
    assert browser.said == []
    assert browser.requests[0] == report.as_uri()
    assert {url.split(":")[0] for url in browser.requests[1:]} <= {"data"}


def test_the_policy_stops_what_a_page_might_still_try(browser: Browser, report: Path) -> None:
    browser.open(report)
    outcome = browser.wait(
        """
        document.addEventListener('securitypolicyviolation', e => done(e.effectiveDirective));
        const image = new Image(); image.src = 'https://example.org/x.png';
        """
    )
    assert outcome == "img-src"


def test_every_clip_can_be_played(browser: Browser, report: Path) -> None:
    browser.emulate(prefers_reduced_motion="reduce")  # nothing starts by itself
    browser.open(report)
    clips = browser.wait(
        """
        Promise.all([...document.querySelectorAll('video')].map(async v => {
          await v.play();
          const seen = [v.duration, v.readyState, v.videoWidth, v.muted, v.loop];
          v.pause();
          return seen;
        })).then(done, e => done(String(e)));
        """
    )
    assert len(clips) == len(ShardIndex.open(report.parent / "shards")) + 1  # and the section's
    for duration, ready, width, muted, loop in clips:
        assert duration == pytest.approx(1.0, abs=0.2)
        assert ready >= 2
        assert width > 0
        assert muted
        assert loop


def test_clips_play_in_sight_and_rest_out_of_it(browser: Browser, report: Path) -> None:
    browser.open(report)
    browser.run("document.querySelector('#triplets').scrollIntoView({behavior: 'instant'})")
    assert 0 < browser.wait(UNTIL_PLAYING) < 12
    browser.run("document.querySelector('#motion').click()")
    assert browser.run(PLAYING) == 0
    assert browser.run("return document.querySelector('#motion').textContent") == "Play clips"


def test_nothing_moves_for_those_who_ask_for_rest(browser: Browser, report: Path) -> None:
    browser.emulate(prefers_reduced_motion="reduce")
    browser.open(report)
    browser.run("document.querySelector('#triplets').scrollIntoView()")
    browser.wait("setTimeout(() => done(1), 500)")
    assert browser.run(PLAYING) == 0


def test_a_phrase_has_the_colour_of_its_reference(browser: Browser, report: Path) -> None:
    browser.open(report)
    seen = browser.run(
        """
        return [...document.querySelectorAll('.sample')].map(card => [
          [...card.querySelectorAll('.caption mark')].map(
            m => getComputedStyle(m).borderBottomColor),
          [...card.querySelectorAll('.refs .frame')].map(f => getComputedStyle(f).borderTopColor),
        ]);
        """
    )
    assert all(marks == frames for marks, frames in seen)
    assert all(marks for marks, _ in seen)
    several = [marks for marks, _ in seen if len(marks) > 1]
    assert several
    assert all(len(set(marks)) == len(marks) for marks in several)


def test_every_figure_has_its_name_above_or_below_it(browser: Browser, report: Path) -> None:
    browser.open(report)
    figures = browser.run(
        """
        return [...document.querySelectorAll('figure')].map(f => {
          const own = f.getBoundingClientRect();
          const name = (f.querySelector('figcaption') || f).getBoundingClientRect();
          return [own.left <= name.left + 1, name.right <= own.right + 1, name.height > 10];
        });
        """
    )
    assert len(figures) > 60
    assert all(all(one) for one in figures)


def test_the_filter_shows_what_is_asked_for_and_can_be_passed_on(
    browser: Browser, report: Path
) -> None:
    browser.open(report)
    index = ShardIndex.open(report.parent / "shards")
    kinds = [sample.row["pair_type"] for sample in index]
    assert browser.run(VISIBLE) == len(kinds)
    form = browser.driver.find_element(By.ID, "filter")
    Select(form.find_element(By.NAME, "pair")).select_by_value("cross")
    assert browser.run(VISIBLE) == kinds.count("cross")
    count = browser.driver.find_element(By.ID, "count")
    assert count.text == f"{kinds.count('cross')} of {len(kinds)} shown"
    Select(form.find_element(By.NAME, "scenario")).select_by_value("single-human")
    people = [s.row["scenario"] for s in index if s.row["pair_type"] == "cross"]
    assert browser.run(VISIBLE) == people.count("single-human") > 0

    fragment = browser.run("return location.hash")
    browser.open(report, fragment)
    assert browser.run(VISIBLE) == people.count("single-human")
    browser.driver.find_element(By.CSS_SELECTOR, "#filter [type=reset]").click()
    browser.wait("setTimeout(() => done(1), 50)")
    assert browser.run(VISIBLE) == len(kinds)
    assert browser.run("return location.hash") == ""


def test_an_empty_choice_says_so(browser: Browser, report: Path) -> None:
    browser.open(report, "#pair=in&scenario=single-human&source=bunny")
    assert browser.run(VISIBLE) == 0
    assert browser.driver.find_element(By.ID, "none").is_displayed()


def test_a_made_up_address_does_no_harm(browser: Browser, report: Path) -> None:
    browser.open(report, "#pair=%3Cscript%3E&scenario=nothing&toString=1&__proto__=2")
    assert browser.run(VISIBLE) == len(ShardIndex.open(report.parent / "shards"))
    browser.collect()
    assert browser.said == []


def test_a_caption_with_a_script_is_read_and_not_run(browser: Browser, report: Path) -> None:
    browser.open(report)
    captions = browser.run(
        "return [...document.querySelectorAll('.caption')].map(c => c.textContent)"
    )
    assert any(HOSTILE in caption for caption in captions)
    assert browser.driver.title.startswith("A film's subjects & others")
    assert browser.run("return document.querySelectorAll('script').length") == 1


def test_the_keyboard_reaches_everything(browser: Browser, report: Path) -> None:
    browser.open(report)
    body = browser.driver.find_element(By.TAG_NAME, "body")
    body.send_keys(Keys.TAB)
    assert browser.run("return document.activeElement.className") == "skip"
    reached = set()
    for _ in range(40):
        browser.driver.switch_to.active_element.send_keys(Keys.TAB)
        reached.add(browser.run(ACTIVE))
    assert {"pair", "scenario", "source", "masks", "motion", "A", "VIDEO"} <= reached
    browser.driver.find_element(By.NAME, "pair").send_keys("i")
    assert browser.run("return document.querySelector('[name=pair]').value") == "in"
    browser.driver.find_element(By.ID, "masks").send_keys(Keys.SPACE)
    assert browser.driver.find_element(
        By.CSS_SELECTOR, ".sample:not([hidden]) .refs .overlay"
    ).is_displayed()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_in_dark(browser: Browser, report: Path, scheme: str) -> None:
    browser.emulate(prefers_color_scheme=scheme)
    browser.open(report)
    worst = browser.run(CONTRAST)
    assert worst["ratio"] >= 4.5, json.dumps(worst)


@pytest.mark.parametrize("width", [320, 700])
def test_a_narrow_window_needs_no_sideways_scrolling(
    browser: Browser, report: Path, width: int
) -> None:
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        browser.open(report)
        assert browser.run("return document.documentElement.scrollWidth") <= width
    finally:
        browser.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("width", [700, 900, 1100, 1300])
def test_all_names_of_the_parts_are_in_sight_and_hide_no_heading(
    browser: Browser, report: Path, width: int
) -> None:
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        browser.open(report)
        inner, outer = browser.run(
            "const b = document.querySelector('nav ul'); return [b.scrollWidth, b.clientWidth]"
        )
        assert inner <= outer
        right = browser.run(
            "return Math.max(...[...document.querySelectorAll('nav a')]"
            ".map(a => a.getBoundingClientRect().right))"
        )
        assert right <= width
        covered = browser.run(
            """
            const bar = document.querySelector('nav');
            return [...document.querySelectorAll('main h2, main h3')].filter(heading => {
              heading.scrollIntoView({behavior: 'instant'});
              return heading.getBoundingClientRect().top < bar.getBoundingClientRect().bottom;
            }).map(heading => heading.textContent);
            """
        )
        assert covered == []
    finally:
        browser.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_paper_gets_the_cards_and_not_the_controls(browser: Browser, report: Path) -> None:
    browser.open(report)
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert browser.run("return document.querySelector('nav').offsetParent") is None
        assert not browser.driver.find_element(By.ID, "filter").is_displayed()
        assert browser.driver.find_element(By.CLASS_NAME, "sample").is_displayed()
        printed = browser.driver.execute_cdp_cmd("Page.printToPDF", {})["data"]
        assert report.stat().st_size / 20 < len(printed) < 5 * report.stat().st_size
    finally:
        browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_without_script_all_cards_and_controls_are_there(browser: Browser, report: Path) -> None:
    browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.open(report)
        cards = browser.driver.find_elements(By.CLASS_NAME, "sample")
        assert len(cards) == len(ShardIndex.open(report.parent / "shards"))
        assert not browser.driver.find_element(By.ID, "filter").is_displayed()
    finally:
        browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


# The lowest contrast of any text with what is painted under it (WCAG 2.2, 1.4.3).
CONTRAST = """
const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
const rgba = colour => {
  canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
  const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data; return [r, g, b, a / 255];
};
const over = (top, under) => top.slice(0, 3).map((v, i) => v * top[3] + under[i] * (1 - top[3]));
const light = c => {
  const linear = v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const [r, g, b] = c.map(v => linear(v / 255));
  return .2126 * r + .7152 * g + .0722 * b;
};
const ground = e => {
  const layers = [];
  for (; e; e = e.parentElement) layers.push(rgba(getComputedStyle(e).backgroundColor));
  return layers.reverse().reduce((under, top) => over(top, under), [255, 255, 255]);
};
let worst = {ratio: 99};
for (const e of document.querySelectorAll('body *')) {
  const own = [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim());
  if (!own || !e.getClientRects().length || e.closest('script, desc, title, option')) continue;
  const style = getComputedStyle(e);
  const under = ground(e.closest('svg') || e);
  const ink = over(rgba(e.closest('svg') ? style.fill : style.color), under);
  const [low, high] = [light(ink), light(under)].sort((a, b) => a - b);
  const ratio = (high + .05) / (low + .05);
  if (ratio < worst.ratio) worst = {ratio, tag: e.tagName, class: String(e.className),
                                    text: e.textContent.slice(0, 40)};
}
return worst;
"""
