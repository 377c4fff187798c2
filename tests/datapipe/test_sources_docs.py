"""What the documentation of sources shows can be run, and listing costs what it says."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from s2v.datapipe.base.settings import parse
from s2v.datapipe.config import Settings
from s2v.datapipe.sources import SourceSpec, list_sources

ROWS = 20_000
DOCS = Path(__file__).parents[2] / "docs" / "sources.md"


def test_every_configuration_in_the_documentation_is_one() -> None:
    blocks = re.findall(r"```toml\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    found = [parse(Settings, tomllib.loads(block), "docs/sources.md") for block in blocks]
    assert sum(len(one.sources) for one in found) > 5
    assert any(one.downloads.allow for one in found)


def test_the_manifest_in_the_documentation_is_one(tmp_path: Path) -> None:
    [block] = re.findall(r"```csv\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "m.csv").write_text(block)
    rows = list_sources([SourceSpec(manifest=str(tmp_path / "m.csv"))])
    assert [row["from_us"] for row in rows] == [12_000_000, 40_000_000]
    assert len({row["long_video_id"] for row in rows}) == 1


def test_rows_cost_microseconds_and_few_kilobytes_so_that_a_million_can_be_listed(
    tmp_path: Path,
) -> None:
    (tmp_path / "film.mp4").write_bytes(b"film")
    path = tmp_path / "m.csv"
    with path.open("w") as file:
        file.write("path,from_us,to_us,licence,url,given_caption\n")
        for n in range(ROWS):
            file.write(
                f"film.mp4,{n * 1000000},{n * 1000000 + 900000},CC BY 4.0,"
                f"https://h.example/watch?v={n},a man in a red coat walks along a street {n}\n"
            )
    script = (
        "import resource, sys, time\n"
        "from s2v.datapipe.sources import SourceSpec, list_sources\n"
        "before = resource.getrusage(resource.RUSAGE_SELF)\n"
        "rows = list_sources([SourceSpec(manifest=sys.argv[1])])\n"
        "after = resource.getrusage(resource.RUSAGE_SELF)\n"
        "print(len(rows), after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,\n"
        "      (after.ru_maxrss - before.ru_maxrss) / 1024)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True
    )
    count, cpu, megabytes = done.stdout.split()
    print(f"{count} rows: {float(cpu):.1f} CPU s, {float(megabytes):.0f} MB more")
    assert int(count) == ROWS
    assert float(cpu) / ROWS < 300e-6
    assert float(megabytes) / ROWS < 8e-3
