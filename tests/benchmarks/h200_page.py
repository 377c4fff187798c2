"""From the rows of h200.py to the tables of docs/benchmarks.md."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]
NONE = "No GPU figure exists yet: the script has run on a CPU at toy size only."


def page(rows: list[Row]) -> str:
    """Conditions, then one table per section; a toy run says only that there is no figure."""
    about = rows[0]
    if about.get("toy"):
        return NONE
    parts = [
        f"Measured on {about.get('device')} ({about.get('memory_gib')} GiB), torch "
        f"{about.get('torch')}, CUDA {about.get('cuda')}, cuDNN {about.get('cudnn')}, diffusers "
        f"{about.get('diffusers') or 'absent'}; peak {about.get('peak_tflops')} TFLOP/s dense "
        "bf16. One device: NVIDIA's 17.8 to 32.9 % are of 14B on 8 to 128 H100, another scale; "
        "the like-for-like figure is the one of diffusers in the same run."
    ]
    tables = {
        "ceilings": [("case", "what"), ("tflops", "TFLOP/s"), ("gb_s", "GB/s")],
        "attention": [
            ("case", "shape and kernel"), ("forward_tflops", "forward TFLOP/s"),
            ("tflops", "forward and backward"), ("error_max", "off fp64"),
        ],
        "step": _STEP,
        "mmdit": _STEP,
        "mixed": [*_STEP, ("graphs", "graphs")],
    }  # fmt: skip
    for section, columns in tables.items():
        found = [row for row in rows if row["section"] == section]
        if found:
            parts += ["", f"**{section}**", "", *_table(found, columns)]
    ratio = _ratio(rows)
    if ratio is not None:
        parts += ["", f"Ours over diffusers, best of each, 4 references: **{ratio:.2f}**."]
    return "\n".join(parts)


_STEP = [
    ("case", "case"), ("seconds", "s/sample"), ("tokens_s", "tokens/s"), ("tflops", "TFLOP/s"),
    ("mfu", "MFU"), ("hfu", "HFU"), ("ceiling", "ceiling"), ("peak_gib", "peak GiB"),
]  # fmt: skip


def _table(rows: list[Row], columns: list[tuple[str, str]]) -> list[str]:
    lines = ["| " + " | ".join(title for _, title in columns) + " |", "|---" * len(columns) + "|"]
    for row in rows:
        cells = [_cell(key, row) for key, _ in columns]
        if "error" in row:
            cells[1] = str(row["error"]).replace("|", "/")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _cell(key: str, row: Row) -> str:
    value = row.get(key)
    if value is None:
        return ""
    if key in ("mfu", "hfu", "ceiling"):
        return f"{value:.1%}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _ratio(rows: list[Row]) -> float | None:
    """Best of diffusers' times over the best of ours, with four references."""
    found = {}
    for who in ("ours", "diffusers"):
        times = [
            row["seconds"]
            for row in rows
            if row["section"] == "step"
            and str(row["case"]).startswith(f"{who}, 4 references")
            and row.get("seconds")
        ]
        if not times:
            return None
        found[who] = min(times)
    return found["diffusers"] / found["ours"]
