"""What a written sample says of the verdicts on its references."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

from written_run import SETTINGS, WRITE, WritableRun

from s2v.datapipe.base import records
from s2v.datapipe.pair.select import select
from s2v.datapipe.write.write import write_shards


def test_a_samples_json_names_who_judged_its_pair(film_run: WritableRun, tmp_path: Path) -> None:
    tables = film_run.world.tables()
    by_rules = select(tables, SETTINGS)
    best = {row["subject_id"]: row["detection_id"] for row in by_rules.subjects.to_pylist()}
    said = {
        "same_identity": "yes",
        "different_context": "yes",
        "verifier": "vllm:m",
        "prompt_sha256": "5" * 64,
    }
    ends = {
        tuple(sorted((best[row["target_subject_id"]], best[row["reference_subject_id"]])))
        for row in by_rules.pairs.to_pylist()
        if row["accepted"]
    }
    rows = [
        {"verdict_id": f"{a} {b}", "target_detection_id": a, "reference_detection_id": b, **said}
        for a, b in sorted(ends)
    ]
    tables["verdicts"] = records.table("verdicts", rows)
    selection = select(tables, SETTINGS, verdicts=tables["verdicts"])
    out = tmp_path / "shards"
    write_shards(film_run.folder, tables, selection, WRITE, film_run.files, out)
    for pair_type, verifier in (("in", None), ("cross", "vllm:m")):
        metas = []
        for path in sorted(out.glob(f"{pair_type}-*.tar")):
            with tarfile.open(path) as tar:
                files = [tar.extractfile(one) for one in tar if one.name.endswith(".json")]
                metas += [json.load(file) for file in files if file is not None]
        found = [ref["verdicts"] for meta in metas for ref in meta["refs"]]
        assert found
        assert {one["verifier"] for one in found} == {verifier}
        assert {one["prompt_sha256"] for one in found} == {verifier and "5" * 64}
        assert {one["same_identity"] for one in found} == {"yes" if verifier else "not asked"}
