"""The audit's pages as a reader has them: from disk, without a network, labels and all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from report_run import build_run

from s2v.datapipe.audit.labels import read_labels
from s2v.datapipe.cli import main

if TYPE_CHECKING:
    from conftest import Browser

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = build_run(tmp_path_factory.mktemp("run"), shards=False)
    assert main(["audit", str(run), "--pairs", "6", "--quiet"]) == 0
    return run / "audit"


def test_the_sheet_shows_its_pictures_and_asks_nobody_for_anything(
    audited: Path, browser: Browser
) -> None:
    browser.open(audited / "sheet.html")
    browser.collect()
    assert browser.said == []
    asked = [url for url in browser.requests if not url.startswith("data:")]
    assert asked == [(audited / "sheet.html").as_uri()]
    loaded = browser.run("return [...document.images].map(i => i.complete && i.naturalWidth > 0)")
    assert len(loaded) == 24
    assert all(loaded)
    assert browser.run("return document.title") == "Audit of A film's subjects & others"
    wide = "return document.documentElement.scrollWidth <= window.innerWidth"
    assert browser.run(wide)


def test_what_is_ticked_on_the_blind_page_is_what_the_audit_reads(
    audited: Path, browser: Browser, tmp_path: Path
) -> None:
    browser.open(audited / "blind.html")
    browser.run("localStorage.clear()")
    browser.open(audited / "blind.html")
    text = browser.wait(
        """
        const cards = [...document.querySelectorAll("[data-pair]")];
        const tick = (card, column, value) =>
          card.querySelector(`[data-column="${column}"] input[value="${value}"]`).click();
        tick(cards[0], "same_subject", "no");
        tick(cards[0], "near_copy", "unsure");
        tick(cards[2], "same_subject", "yes");
        HTMLAnchorElement.prototype.click = () => {};  // the file is read here, not downloaded
        URL.createObjectURL = (blob) => { blob.text().then(done); return "blob:here"; };
        document.getElementById("save").click();
        """
    )
    path = tmp_path / "labels.csv"
    path.write_text(text)
    answers = read_labels(path).answers
    given = [answers[name] for name in sorted(answers)]
    assert given[:3] == [{"wrong": "yes", "copy": "unsure"}, {}, {"wrong": "no"}]
    assert not any(given[3:])
    assert browser.run("return document.getElementById('count').textContent") == "2 of 6 labelled"
    page = (audited / "blind.html").read_text()
    assert "no judge" not in page
    assert "similarity" not in page
    browser.collect()
    assert [line for line in browser.said if "Refused to" in line] == []


def test_answers_outlive_the_tab_and_can_be_taken_back(audited: Path, browser: Browser) -> None:
    browser.open(audited / "blind.html")
    browser.run("localStorage.clear()")
    browser.open(audited / "blind.html")
    said = "return document.getElementById('count').textContent"
    assert browser.run(said) == "0 of 6 labelled"
    browser.run(
        "const tick = (n, c, v) => document.querySelectorAll('[data-pair]')[n]"
        ".querySelector(`[data-column='${c}'] input[value='${v}']`).click();"
        "tick(1, 'same_subject', 'unsure'); tick(4, 'near_copy', 'yes');"
    )
    browser.open(audited / "sheet.html")
    browser.open(audited / "blind.html")  # as after closing it
    assert browser.run(said) == "2 of 6 labelled; 2 answers are from before"
    checked = "return [...document.querySelectorAll('input:checked')].map(i => i.value)"
    assert browser.run(checked) == ["unsure", "yes"]
    browser.run("window.confirm = () => true; document.getElementById('clear').click()")
    browser.open(audited / "blind.html")
    assert browser.run(said) == "0 of 6 labelled"
