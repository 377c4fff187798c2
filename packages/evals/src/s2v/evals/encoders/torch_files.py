"""Reading a state dict that came from a stranger: tensors only, every name accounted for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from s2v.evals.errors import EvalError


def read_state(path: Path, *, below: str | None = None) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint, on the CPU.

    Args:
        path: a ``.safetensors`` file, or one of torch (read with ``weights_only``).
        below: key under which the file keeps them, if it does.

    Raises:
        EvalError: damaged, or something other than named tensors.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, zipfile, pickle and safetensors each have their own
        raise EvalError(f"{path}: no readable state dict: {type(error).__name__}") from error
    if below is not None and isinstance(state, Mapping) and below in state:
        state = state[below]
    if not isinstance(state, Mapping) or not all(
        isinstance(v, torch.Tensor) for v in state.values()
    ):
        raise EvalError(f"{path}: expected named tensors")
    return {str(k).removeprefix("module."): v for k, v in state.items()}


def fill(net: torch.nn.Module, state: Mapping[str, torch.Tensor], path: Path) -> torch.nn.Module:
    """Load strictly: a missing, unknown or differently shaped tensor is an error.

    Args:
        net: whose parameters are replaced; it is put into inference mode.
        state: every tensor of it and no other.
        path: for the message.

    Raises:
        EvalError: the checkpoint is another architecture's.
    """
    try:
        net.load_state_dict(state, strict=True)
    except RuntimeError as error:
        text = " ".join(str(error).split())
        raise EvalError(
            f"{path}: not a state dict of {type(net).__name__}: {text[:300]}"
        ) from error
    return net.eval().requires_grad_(False)


def from_folder(kind: Any, folder: Path, **arguments: object) -> Any:
    """A transformers model whose every tensor came from the folder, and none was left over.

    Args:
        kind: the model's class; no code of the folder's is run.
        folder: ``config.json`` and safetensors.
        arguments: for ``from_pretrained``.

    Raises:
        EvalError: a file is missing or damaged, or another model's.
    """
    try:
        net, said = kind.from_pretrained(
            str(folder), local_files_only=True, output_loading_info=True,
            use_safetensors=True, **arguments,
        )  # fmt: skip
    except (OSError, ValueError, RuntimeError) as error:
        raise EvalError(f"{folder}: {type(error).__name__}: {str(error)[:200]}") from error
    wrong = {k: sorted(map(str, v)) for k, v in said.items() if k.endswith("_keys") and v}
    if wrong:
        raise EvalError(f"{folder}: not the weights of a {kind.__name__}: {str(wrong)[:300]}")
    return net.eval().requires_grad_(False)
