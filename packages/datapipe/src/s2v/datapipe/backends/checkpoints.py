"""Checkpoints of the production models: found without a network, whole, and safe to read.

Three things go wrong with weights, each with a riddle for an error: a model id that a library
quietly downloads on every worker, a download that broke off, and a file of another model. Here
each is one line that names the file and the way out. Nothing is fetched unless it was asked for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from s2v.datapipe.backends.weights import cause, existing_file
from s2v.datapipe.roles import WeightsError

if TYPE_CHECKING:
    import torch

_HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_INDEX: Final = "model.safetensors.index.json"
_SINGLE: Final = "model.safetensors"


def model_folder(weights: str, revision: str, download: bool, what: str) -> Path:
    """The folder of a model that is named by path or by hub id (``org/name``).

    Args:
        weights: a folder, or a hub id, which is looked for in the local Hugging Face cache.
        revision: branch, tag or commit of a hub id.
        download: fetch a hub id that the cache lacks; without it no connection is made.
        what: what the model should be, for the message.

    Raises:
        WeightsError: it is not there; for a hub id the message says how to fetch it.
    """
    local = Path(weights).expanduser()
    if local.exists() or not _HUB_ID.fullmatch(weights):
        return local
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = ["*.json", "*.safetensors", "*.txt"]
    fetch = f"hf download {weights}" + ("" if revision == "main" else f" --revision {revision}")
    try:
        found = snapshot_download(
            weights, revision=revision, local_files_only=not download, allow_patterns=patterns
        )
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
        if download:
            raise WeightsError(
                f"{weights}: cannot be downloaded ({cause(error)}); run `{fetch}` where "
                "there is a network, or give the folder of the model"
            ) from None
        raise WeightsError(
            f"{weights}: no such folder, and not in the local Hugging Face cache; expected {what}; "
            f"run `{fetch}`, or set download = true, or give the folder of the model"
        ) from None
    return Path(found)


def safetensors_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder, one or its shards.

    Raises:
        WeightsError: there are none, the index is damaged, or a shard is missing.
    """
    if (folder / _SINGLE).is_file():
        return [folder / _SINGLE]
    index = folder / _INDEX
    if not index.is_file():
        raise WeightsError(
            f"{folder}: neither {_SINGLE} nor {_INDEX} in it; fetch the model again "
            "(weights in pickled form, pytorch_model.bin, are not read)"
        )
    shards = sorted({str(name) for name in _json(index).get("weight_map", {}).values()})
    if not shards or any("/" in name or name.startswith(".") for name in shards):
        raise WeightsError(f"{index}: names no shards beside it; fetch it again")
    return [existing_file(folder / name, f"a shard named in {_INDEX}") for name in shards]


def check_safetensors(path: Path) -> None:
    """Compare the size that the file's header states with the size that it has.

    Raises:
        WeightsError: it was cut short, or is no safetensors file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise WeightsError(f"{path}: cut short, or no safetensors file; fetch it again")
        try:
            header = json.loads(file.read(length))
            ends = [int(t["data_offsets"][1]) for n, t in header.items() if n != "__metadata__"]
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            raise WeightsError(f"{path}: not a safetensors file; fetch it again") from None
    stated = 8 + length + max(ends, default=0)
    if stated != size:
        raise WeightsError(
            f"{path}: {size} bytes, but its header states {stated}: cut short; fetch it again"
        )


def check_config(folder: Path, model_type: str) -> None:
    """See that ``config.json`` describes a model of this type.

    Raises:
        WeightsError: it is another model's, or unreadable.
    """
    path = existing_file(folder / "config.json", f"the configuration of a {model_type} model")
    found = _json(path).get("model_type")
    if found != model_type:
        raise WeightsError(
            f"{path}: model_type is {found!r}, not {model_type!r}; these are another model's "
            "weights"
        )


def state_dict(path: Path, what: str) -> dict[str, torch.Tensor]:
    """Read a ``.pth`` checkpoint: tensors only, no code is run.

    A checkpoint that keeps its tensors under ``model`` or ``state_dict`` gives those; a
    ``module.`` in front of every name, as data-parallel training leaves it, goes.

    Raises:
        WeightsError: it is missing, cut short, or holds anything but tensors by name.
    """
    import torch

    existing_file(path, what)
    try:
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise  # the machine's fault, not the file's
    except Exception as error:  # noqa: BLE001  a damaged file makes torch raise anything
        if type(error).__name__ == "UnpicklingError":  # it holds more than tensors
            raise WeightsError(
                f"{path}: not a plain checkpoint of tensors ({cause(error)}); expected {what}"
            ) from None
        raise WeightsError(
            f"{path}: cut short or no checkpoint ({cause(error)}); expected {what}; fetch it again"
        ) from None
    for key in ("model", "state_dict"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not all(
        isinstance(name, str) and torch.is_tensor(tensor) for name, tensor in loaded.items()
    ):
        raise WeightsError(f"{path}: holds no tensors by name; expected {what}")
    return {name.removeprefix("module."): tensor for name, tensor in loaded.items()}


def fill(net: torch.nn.Module, tensors: Mapping[str, torch.Tensor], path: Path, what: str) -> None:
    """Load the tensors into ``net``; every parameter must be there, in its shape.

    Raises:
        WeightsError: names missing, unknown or of another shape.
    """
    own = net.state_dict()
    missing = sorted(set(own) - set(tensors))
    unknown = sorted(set(tensors) - set(own))
    shapes = sorted(n for n in set(own) & set(tensors) if own[n].shape != tensors[n].shape)
    if missing or unknown or shapes:
        name = (missing or unknown or shapes)[0]
        raise WeightsError(
            f"{path}: {len(missing)} weights missing, {len(unknown)} unknown, {len(shapes)} of "
            f"another shape (first: {name}); not the weights of {what}"
        )
    net.load_state_dict(dict(tensors))


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: not readable as JSON ({cause(error)})") from None
    if not isinstance(found, dict):
        raise WeightsError(f"{path}: not a JSON object")
    return found
