"""``s2v-model export``: write, check, and only then give it its name."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

from s2v.datapipe.base.atomic import write_bytes, write_json
from s2v.model.checkpoints.writing import digests
from s2v.model.errors import ModelError
from s2v.model.export import layouts, lora, parity
from s2v.model.export.card import card
from s2v.model.export.source import Source, dtype_name, open_source

Layout = Literal["original", "comfyui", "diffusers", "lora"]
LAYOUTS: Final = get_args(Layout)


@dataclass(frozen=True)
class ExportResult:
    """What was written.

    Attributes:
        out: the folder.
        to: layout.
        files: hex sha256 by path within the folder, of the weights.
        parity: what the check measured.
        facts: provenance of the source.
    """

    out: Path
    to: str
    files: dict[str, str]
    parity: dict[str, Any]
    facts: dict[str, Any]


def export(
    path: str | Path,
    to: str,
    out: str | Path,
    *,
    ema: bool = False,
    dtype: str | None = None,
    base: str | Path | None = None,
    rank: int = 64,
    heads: int | None = None,
    shard_bytes: int = 0,
    licence: str = "Apache-2.0",
    pass_over: Sequence[str] = (),
) -> ExportResult:
    """Write weights in another program's layout and prove that it reads them.

    Args:
        path: a run folder, one of its checkpoints, a Wan network in any layout; for ``lora``
            also a LoRA file.
        to: ``original``, ``comfyui``, ``diffusers`` or ``lora``.
        out: a folder that is not there yet.
        ema: the moving average of a run's weights.
        dtype: ``fp32``, ``bf16`` or ``fp16``; as stored without it (a LoRA: fp32).
        base: for ``lora``: the network that it is added to.
        rank: of an extracted LoRA.
        heads: number of heads, where the width is no multiple of 128 and nothing tells.
        shard_bytes: largest file of the original and diffusers layouts; 5 GB at 0.
        licence: SPDX name of the weights' licence.
        pass_over: patterns of tensors that the file holds and the network has not; left out.

    Raises:
        ModelError: another model, options that the stock classes do not have, a folder that is
            there, or a check that fails; then nothing is left behind.
    """
    out, kind = Path(out), dtype_name(dtype)
    if to not in LAYOUTS:
        raise ModelError(f"--to {to}: not one of {', '.join(LAYOUTS)}")
    if out.exists():
        raise ModelError(f"{out}: is there already; give another --out")
    if (to == "lora") != (base is not None):
        raise ModelError(
            "--to lora needs --base, the network that it is added to; others take none"
        )
    if rank < 1:
        raise ModelError(f"--rank {rank}: at least 1")
    source = open_source(
        Path(base or path), ema=ema and base is None, heads=heads, pass_over=pass_over
    )
    _stock_only(source)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        if to == "lora":
            found, facts = lora.from_source(Path(path), source, rank, ema=ema)
            lora.write_lora(found, source, temporary, kind)
            measured = lora.check(source, temporary)
            facts |= {"base": dict(source.facts), "left_out_by_rank": found.left,
                      "left_out_elsewhere": found.other}  # fmt: skip
        else:
            facts = dict(source.facts)
            _write(source, temporary, to, kind, shard_bytes)
            measured = parity.check(source, temporary, to, kind)
        files = _digests(temporary)
        told = {"format": "s2v-export-1", "to": to, "dtype": kind, "source": facts}
        write_json(temporary / "provenance.json", told | {"parity": measured, "sha256": files})
        write_bytes(temporary / "README.md", card(to, facts, measured, licence).encode())
        temporary.rename(out)
    except OSError as error:
        raise ModelError(f"{out}: cannot be written ({error.strerror})") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return ExportResult(out, to, files, measured, facts)


def as_dict(result: ExportResult) -> dict[str, Any]:
    """For printing."""
    return asdict(result) | {"out": str(result.out)}


def _write(source: Source, out: Path, to: str, dtype: str | None, limit: int) -> None:
    if to == "original":
        layouts.write_original(source, out, dtype, limit)
    elif to == "comfyui":
        layouts.write_comfyui(source, out, dtype)
    else:
        layouts.write_diffusers(source, out, dtype, limit)


def _stock_only(source: Source) -> None:
    """Options that change what the network does and that no other program knows."""
    config = source.config
    odd = {
        "reference_position": (config.reference_position, "tail"),
        "reference_timestep": (config.reference_timestep, "same"),
    }
    for name, (value, stock) in odd.items():
        if value != stock:
            raise ModelError(
                f"{source.weights.path}: trained with {name} = {value!r}, which only this trainer "
                f"knows; other programs have {stock!r} and would give another video"
            )


def _digests(folder: Path) -> dict[str, str]:
    found = sorted(folder.rglob("*.safetensors"))
    return {str(p.relative_to(folder)): d for p in found for d in digests([p]).values()}
