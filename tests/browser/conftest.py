"""A real Chromium without a network, and what it said and asked for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--disable-dev-shm-usage",  # containers give it 64 MB
    "--window-size=1300,900",
)


class Browser:
    """A page in Chromium."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver
        self.requests: list[str] = []
        self.said: list[str] = []

    def open(self, page: Path, fragment: str = "") -> None:
        """Load a file; what was said and asked for before is forgotten."""
        self.driver.get("about:blank")
        self.collect()
        self.requests.clear()
        self.said.clear()
        self.driver.get(page.as_uri() + fragment)

    def run(self, script: str, *arguments: Any) -> Any:
        """Run a function body in the page."""
        return self.driver.execute_script(script, *arguments)

    def wait(self, script: str, *arguments: Any) -> Any:
        """Run a body that calls ``done(value)``, at most 20 s."""
        body = "const done = arguments[arguments.length - 1];" + script
        return self.driver.execute_async_script(body, *arguments)

    def collect(self) -> None:
        """Read the browser's logs."""
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                self.requests.append(message["params"]["request"]["url"])
        for entry in self.driver.get_log("browser"):
            self.said.append(f"{entry['level']}: {entry['message']}")

    def emulate(self, **features: str) -> None:
        """Prefer ``prefers_reduced_motion="reduce"`` and the like, or nothing."""
        wanted = [{"name": k.replace("_", "-"), "value": v} for k, v in features.items()]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": wanted})


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    program = shutil.which("chromium") or shutil.which("google-chrome")
    bridge = shutil.which("chromedriver")
    if not program or not bridge:
        pytest.skip("no chromium and chromedriver on the PATH: apt-get install chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    # Naming the driver keeps selenium from looking for one on the network.
    driver = webdriver.Chrome(options=options, service=Service(bridge))
    driver.set_script_timeout(20)
    yield driver
    driver.quit()


@pytest.fixture
def browser(chromium: webdriver.Chrome) -> Iterator[Browser]:
    made = Browser(chromium)
    yield made
    made.emulate()


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a whole small run, with a section as a job adds it."""
    from report_run import build_run

    from s2v.datapipe.base.shards import ShardIndex
    from s2v.datapipe.report.page import Section, build_report
    from s2v.datapipe.report.sections import Card, LineChart, Media, MediaGrid, Series

    run = build_run(tmp_path_factory.mktemp("run"))
    sample = next(iter(ShardIndex.open(run / "shards")))
    card = Card(
        [
            Media(sample.read("ref0.jpg"), alt="the reference", mark=0),
            Media(sample.read("mp4"), alt="what the model made of it"),
        ],
        caption="the rabbit runs",
        spans=[(0, 10, 0)],
    )
    loss = LineChart("Loss", [Series("train", range(50), [1 / (n + 1) for n in range(50)])],
                     "step", "loss", log_y=True)  # fmt: skip
    section = Section("Training", [loss, MediaGrid([card])])
    return build_report(run, run / "report.html", [section])
