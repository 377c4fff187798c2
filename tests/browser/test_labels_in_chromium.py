"""The page people label on, as they have it: from disk, by keyboard, without a network."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from s2v.datapipe.calibrate.candidates import Candidate
from s2v.datapipe.calibrate.labels import read_labels
from s2v.datapipe.calibrate.page import write_page
from s2v.datapipe.calibrate.pictures import Views

if TYPE_CHECKING:
    from conftest import Browser

pytestmark = pytest.mark.browser

HOSTILE = "</script><script>document.title='taken'</script>"
PAIRS = [
    Candidate("film-s0", "film-s1", 0.123456, ("a", "b"), ()),
    Candidate("film-s1", "film-s2", 0.987654, ("b", "c"), ("min_gap",)),
    Candidate(HOSTILE, 'film, "cut"-s0', 0.555555, ("d", "a"), ()),
]
SAVED = """
const make = URL.createObjectURL;
window.saved = null;
URL.createObjectURL = (blob) => {
  blob.text().then((text) => { window.saved = text; });
  return make(blob);
};
"""
CSV = "const look = () => window.saved ? done(window.saved) : setTimeout(look, 20); look();"


def picture(n: int) -> np.ndarray:
    return np.full((40, 60, 3), 40 * n, np.uint8)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    names = sorted({name for one in PAIRS for name in (one.target, one.reference)})
    pictures = {name: Views(picture(n), picture(n + 1)) for n, name in enumerate(names)}
    return write_page(tmp_path_factory.mktemp("labels"), f"Pairs & {HOSTILE}", PAIRS, pictures)


def press(browser: Browser, *keys: str) -> None:
    browser.driver.find_element(By.TAG_NAME, "body").send_keys(*keys)


def count(browser: Browser) -> str:
    return str(browser.run("return document.getElementById('count').textContent"))


def saved(browser: Browser) -> list[dict[str, str]]:
    browser.run(SAVED)
    browser.driver.find_element(By.ID, "save").click()
    return list(csv.DictReader(io.StringIO(browser.wait(CSV))))


def test_labels_given_by_keyboard_survive_a_reload_and_come_out_as_csv(
    browser: Browser, page: Path, tmp_path: Path
) -> None:
    browser.open(page)
    browser.run("localStorage.clear()")
    browser.open(page)
    assert count(browser) == "0 of 3 labelled"
    press(browser, "1", "3", "2")
    assert count(browser) == "3 of 3 labelled"
    press(browser, "u")
    assert count(browser) == "2 of 3 labelled"
    browser.driver.find_element(By.ID, "who").send_keys("=ann, b")
    browser.open(page)  # as after closing it
    assert count(browser) == "2 of 3 labelled"
    assert "Pair 3" in browser.run("return document.getElementById('where').textContent")
    press(browser, "4", Keys.ARROW_RIGHT)
    assert "Pair 1: same" in browser.run("return document.getElementById('where').textContent")
    rows = saved(browser)
    assert [row["label"] for row in rows] == ["same", "near copy", "unsure"]
    assert [row["target"] for row in rows] == [one.target for one in PAIRS]
    assert [row["reference"] for row in rows] == [one.reference for one in PAIRS]
    assert {row["who"] for row in rows} == {"'=ann, b"}  # no formula in a spreadsheet
    assert all(row["when"].endswith("Z") for row in rows)
    path = tmp_path / "labels.csv"
    path.write_text("target,reference,label\nfilm-s0,film-s1,same\n")
    assert read_labels(path).counts()["same"] == 1


def test_buttons_do_what_the_keys_do(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.run("localStorage.clear()")
    browser.open(page)
    browser.driver.find_element(By.CSS_SELECTOR, "[data-label='near copy']").click()
    browser.driver.find_element(By.ID, "back").click()
    pressed = browser.run(
        "return [...document.querySelectorAll('[aria-pressed=true]')].map(b => b.dataset.label)"
    )
    assert pressed == ["near copy"]
    browser.driver.find_element(By.ID, "undo").click()
    assert count(browser) == "0 of 3 labelled"


def test_the_next_person_can_start_anew(browser: Browser, page: Path) -> None:
    browser.open(page)
    press(browser, "1", "2")
    browser.driver.find_element(By.ID, "who").send_keys("ann")
    browser.run("window.confirm = () => true")
    browser.driver.find_element(By.ID, "forget").click()
    assert count(browser) == "0 of 3 labelled"
    browser.open(page)
    assert count(browser) == "0 of 3 labelled"
    assert browser.run("return document.getElementById('who').value") == ""


def test_nobody_is_asked_and_no_score_can_be_seen(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.wait("setTimeout(() => done(1), 200)")
    browser.collect()
    assert [u for u in browser.requests if not u.startswith(("file:", "data:"))] == []
    assert browser.said == []
    assert browser.run("return document.title") == f"Pairs & {HOSTILE}"
    shown = browser.run("return document.querySelector('img').naturalWidth")
    assert shown == 60
    text = page.read_text(encoding="utf-8")
    for one in PAIRS:
        assert str(one.score) not in text
    assert "min_gap" not in text
