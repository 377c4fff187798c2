"""The proof that is part of an export: the stock class, loaded from what was written.

Two things are asked. Every tensor in the file is the source's, bit for bit, after the rounding
that was asked for. And on a random input the stock class gives what our network gives, computed
in float32 on both sides, with no references and with two.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from s2v.datapipe.base.atomic import write_json
from s2v.model.checkpoints.identify import identify
from s2v.model.checkpoints.keymaps import WAN_DIFFUSERS
from s2v.model.checkpoints.loading import wan_pieces
from s2v.model.checkpoints.weights import in_folder
from s2v.model.conditioning import Condition
from s2v.model.errors import ModelError
from s2v.model.export.layouts import COMFY_FILE, diffusers_config
from s2v.model.export.source import Source
from s2v.model.wan import WanModel
from s2v.model.wan_config import WanConfig

TOLERANCE: Final = 1e-5  # relative L2, float32
_GRID: Final = (3, 3, 5)  # latent frames, rows and columns of patches
_REFERENCES: Final = (0, 2)
_TEXT: Final = 7  # rows; the rest is padding


def check(source: Source, folder: Path, to: str, dtype: str | None) -> dict[str, Any]:
    """Compare what lies in ``folder`` with its source.

    Returns:
        ``{"tensors": n, "rel_l2": worst, "against": class}``.

    Raises:
        ModelError: a tensor differs, the stock class does not load it, or its output differs.
    """
    compared = _same_tensors(source, folder / "transformer" if to == "diffusers" else folder, dtype)
    # One network in memory at a time: 14B in float32 takes 57 GB.
    ours = outputs_of(source, dtype)
    stock = stock_transformer(source.config, folder, to)
    worst = compare(stock, source.config, ours)
    if worst > TOLERANCE:
        raise ModelError(
            f"{folder.name}: diffusers' class gives another output than our network "
            f"(relative L2 {worst:.2e}, at most {TOLERANCE:.0e}); nothing is exported"
        )
    return {"tensors": compared, "rel_l2": worst, "against": type(stock).__name__}


def outputs_of(source: Source, dtype: str | None) -> dict[int, Tensor]:
    """Our network's output by number of references, on the inputs of :func:`inputs`."""
    # The stock class makes rotary angles in float64, whatever the weights were trained with.
    model = source.model(dtype, rope_precision="float64")
    return run_ours(model, source.config)


@torch.no_grad()
def run_ours(model: WanModel, config: WanConfig) -> dict[int, Tensor]:
    """Output by number of references."""
    out = {}
    for k in _REFERENCES:
        x, text, image = inputs(config, k)
        T = _GRID[0]
        condition = Condition(
            text=text[:, :_TEXT],
            text_mask=torch.ones(1, _TEXT, dtype=torch.bool),
            references=x[:, :, T:],
            reference_mask=torch.ones(1, k, dtype=torch.bool),
            image=image,
            image_mask=torch.ones(1, image.shape[1], dtype=torch.bool),
        )
        out[k] = model(x[:, :, :T], torch.tensor([0.5]), condition)
    return out


@torch.no_grad()
def compare(stock: nn.Module, config: WanConfig, ours: Mapping[int, Tensor]) -> float:
    """Worst relative L2 of the stock class against our outputs."""
    worst = 0.0
    for k, expected in ours.items():
        x, text, image = inputs(config, k)
        shown = image.flatten(1, 2) if config.image_width is not None and k else None
        if shown is not None and config.image_positions is not None:
            shown = image[0]  # it takes the first and the last frame as two rows of a batch
        if config.image_width is not None and shown is None:
            continue  # the stock class cannot run without image tokens where it has the branch
        got = stock(
            hidden_states=x,
            timestep=torch.tensor([500.0]),
            encoder_hidden_states=text,
            encoder_hidden_states_image=shown,
            return_dict=False,
        )[0]
        worst = max(worst, float((got - expected).norm() / expected.norm().clamp(min=1e-30)))
    return worst


def inputs(config: WanConfig, references: int) -> tuple[Tensor, Tensor, Tensor]:
    """Frames ``[1, C, T + K, H, W]``, padded text ``[1, L, Dt]``, image ``[1, K, N, Di]``."""
    random = torch.Generator().manual_seed(references)
    T, rows, columns = _GRID
    _, ph, pw = config.patch
    shape = (1, config.in_channels, T + references, rows * ph, columns * pw)
    frames = torch.randn(shape, generator=random)
    text = torch.zeros(1, config.text_tokens, config.text_width)
    text[:, :_TEXT] = torch.randn(1, _TEXT, config.text_width, generator=random)
    tokens = (config.image_positions or 514) // 2 if config.image_width else 1
    image = torch.randn(1, references, tokens, config.image_width or 1, generator=random)
    return frames, text, image


def stock_transformer(config: WanConfig, folder: Path, to: str) -> nn.Module:
    """diffusers' class in float32, by its own loader, strictly.

    Raises:
        ModelError: diffusers is not installed, or it does not load what was written.
    """
    try:
        from diffusers import WanTransformer3DModel
    except ImportError as error:
        raise ModelError(
            f"the parity check needs diffusers ({error}); install s2v-model[wan]"
        ) from None
    logging.getLogger("diffusers.models.modeling_utils").addFilter(_worth_telling)
    try:
        if to == "diffusers":
            model, told = WanTransformer3DModel.from_pretrained(
                folder / "transformer", torch_dtype=torch.float32, output_loading_info=True,
                local_files_only=True,
            )  # fmt: skip
            faults = [k for key in ("missing_keys", "unexpected_keys") for k in told[key]]
            if faults or told["mismatched_keys"] or told["error_msgs"]:
                raise ModelError(f"{folder.name}: does not load strictly: {faults[:4] or told}")
        else:
            model = _single_file(WanTransformer3DModel, config, folder, to)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"{folder.name}: diffusers does not load it ({error})") from None
    return model.eval()  # type: ignore[no-any-return]  # diffusers is not typed here


def _worth_telling(record: logging.LogRecord) -> bool:
    """Not its advice on types that are to stay float32: all are, here."""
    return "should be kept in float32" not in record.getMessage()


def _single_file(stock: Any, config: WanConfig, folder: Path, to: str) -> Any:
    """diffusers' own converter of original names, which lacks the first-and-last-frame ones."""
    if to == "comfyui":
        given: Any = str(folder / COMFY_FILE)
    else:  # it takes one file or a mapping; shards are given as a mapping of mapped tensors
        weights = in_folder(folder)[0]
        given = {name: weights.read(name) for name in weights.entries}
    if config.image_positions is not None:
        weights = in_folder(folder)[0]
        pieces = wan_pieces(weights, identify(weights))
        given = {WAN_DIFFUSERS.there(n) or n: weights.read(p.source) for n, p in pieces.items()}
        model = stock(**{k: v for k, v in diffusers_config(config).items() if k[0] != "_"})
        model.load_state_dict({k: v.float() for k, v in given.items()})
        return model
    with tempfile.TemporaryDirectory() as temporary:
        write_json(Path(temporary) / "config.json", diffusers_config(config))
        return stock.from_single_file(
            given, config=temporary, local_files_only=True, torch_dtype=torch.float32
        )


def _same_tensors(source: Source, folder: Path, dtype: str | None) -> int:
    written = in_folder(folder)[0]
    pieces = wan_pieces(written, identify(written))
    if pieces.keys() != source.pieces.keys():
        odd = sorted(pieces.keys() ^ source.pieces.keys())
        raise ModelError(f"{folder.name}: {odd[0]} is in one of source and export only")
    for name, piece in pieces.items():
        expected = source.weights.read(source.pieces[name].source)
        if dtype is not None:
            expected = expected.to(getattr(torch, dtype))
        if not torch.equal(_bits(written.read(piece.source)), _bits(expected)):
            raise ModelError(f"{folder.name}: {name} was not written as it is; check the disk")
    return len(pieces)


def _bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)
