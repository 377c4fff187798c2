"""Tensors of a file into a network, one by one.

The network is built with parameters that have shapes and no memory; each is replaced by the
tensor mapped from the file. Without a change of type nothing is copied: a 14B network in float32
takes the pages of its file and no more. What does not fit is an error that lists it; the
release's own loader passes over it in silence.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from s2v.model.checkpoints import identify as ident
from s2v.model.checkpoints.identify import Identity
from s2v.model.checkpoints.keymaps import WAN_DIFFUSERS, Piece
from s2v.model.checkpoints.weights import Weights, groups, of_group, open_weights
from s2v.model.errors import ModelError
from s2v.model.wan import WanModel
from s2v.model.wan_config import WanConfig

_SHOWN: Final = 4  # names per kind of fault; the rest is counted
_FLOATS: Final = {"float32", "float16", "bfloat16", "float64"}
_BUILDING: Final = threading.Lock()


@contextmanager
def without_memory() -> Iterator[None]:
    """Parameters made inside have shapes and no memory; buffers are made as ever.

    ``torch.device("meta")`` would empty buffers too, which no checkpoint fills again. One thread
    at a time: the hook is torch's own registration of parameters.
    """
    register = nn.Module.register_parameter

    def emptied(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if param is not None and not param.is_meta:  # one that is shared stays the same one
            param = nn.Parameter(param.to("meta"), requires_grad=param.requires_grad)
        register(self, name, param)

    with _BUILDING:
        nn.Module.register_parameter = emptied  # type: ignore[method-assign]  # put back below
        try:
            yield
        finally:
            nn.Module.register_parameter = register  # type: ignore[method-assign]


def find(path: Path, kind: str) -> tuple[Weights, Identity]:
    """The weights of one kind at ``path``: a file, an index of shards, or a folder.

    Args:
        path: a folder may be a diffusers one (its ``transformer``, ``vae``, ``text_encoder`` or
            ``image_encoder`` is taken), or hold several models (those of this kind are meant).
        kind: of :class:`Identity`.

    Raises:
        ModelError: nothing there, something else, or several of the kind.
    """
    if not path.exists():
        raise ModelError(f"{path}: no such file or folder")
    if not path.is_dir():
        weights = open_weights(path)
        return weights, checked(weights, kind)
    inner = path / _COMPONENT.get(kind, "")
    if _COMPONENT.get(kind) and inner.is_dir() and groups(inner):
        path = inner
    found, faults = [], []
    for group in groups(path):
        try:
            weights = of_group(group)
        except ModelError as error:  # of no interest where what is meant lies beside it
            faults.append(error)
        else:
            found.append((weights, ident.identify(weights)))
    good = [(w, i) for w, i in found if i.kind == kind]
    if len(good) == 1:
        return good[0]
    if good:
        names = ", ".join(w.path.name for w, _ in good)
        raise ModelError(
            f"{path}: holds {len(good)} of {_WANTED[kind]} ({names}); name one of them"
        )
    if faults:
        raise faults[0]
    there = ", ".join(f"{w.path.name}: {i.model}" for w, i in found) or "no weights"
    raise ModelError(f"{path}: holds {there}, but not {_WANTED[kind]}")


def checked(weights: Weights, kind: str) -> Identity:
    """What opened weights are.

    Raises:
        ModelError: not of this kind.
    """
    identity = ident.identify(weights)
    if identity.kind != kind:
        raise ModelError(f"{weights.path}: {identity.model}, not {_WANTED[kind]}")
    return identity


_WANTED: Final = {
    ident.WAN: "a Wan2.1 or Phantom-Wan network", ident.UMT5: "an umT5 encoder",
    ident.VAE: "Wan's VAE", ident.CLIP: "a CLIP vision tower", ident.LORA: "a LoRA",
    ident.MMDIT: "an MMDiT of this trainer",
}  # fmt: skip
_COMPONENT: Final = {
    ident.WAN: "transformer", ident.UMT5: "text_encoder", ident.VAE: "vae",
    ident.CLIP: "image_encoder",
}  # fmt: skip


def load_wan(
    path: str | Path,
    *,
    dtype: torch.dtype | None = None,
    heads: int | None = None,
    options: Mapping[str, Any] | None = None,
    missing: Sequence[str] = (),
    unexpected: Sequence[str] = (),
) -> WanModel:
    """A Wan2.1 or Phantom-Wan network from any of its layouts.

    Args:
        path: ``.pth``, ``.safetensors``, an index of shards, or a folder of them.
        dtype: floating type of the parameters; as stored without it, and then nothing is copied.
            The time vector's layers and the modulation (:data:`WIDE`) stay float32 in half types.
        heads: needed only where the width is no multiple of 128 and nothing else tells.
        options: what a file cannot say: ``rope_precision``, ``reference_position`` and the like.
            ``image_width`` adds the branch for image tokens to weights that lack it; it starts
            with no effect.
        missing: patterns of parameters that the file may lack, as ``blocks.*.norm3.*``. They
            start as in a fresh network.
        unexpected: patterns of tensors in the file to pass over.

    Raises:
        ModelError: the file is broken or another model's, or does not fit.
    """
    weights, pieces, model, allowed = _opened(path, heads, options, missing)
    left = assign(
        model, weights, pieces, dtype=dtype, missing=allowed, unexpected=unexpected, wide=WIDE
    )
    if left:
        kept = set(left)
        like = dtype or next(p.dtype for n, p in model.named_parameters() if n not in kept)
        made: dict[int, nn.Parameter] = {}
        for name, value in fresh(model, left).items():
            _set(model, name, value().to(like), made)
    return model


def stream_wan(
    path: str | Path,
    *,
    heads: int | None = None,
    options: Mapping[str, Any] | None = None,
    unexpected: Sequence[str] = (),
) -> tuple[WanModel, dict[str, Callable[[], Tensor]]]:
    """As :func:`load_wan` in float32, but nothing is read yet.

    Returns:
        The network without memory, and what gives each of its tensors when it is called; to be
        called in the order of ``named_parameters``, each once.
    """
    weights, pieces, model, allowed = _opened(path, heads, options, ())
    left = check(model, weights, pieces, missing=allowed, unexpected=unexpected)
    values: dict[str, Callable[[], Tensor]] = {
        name: partial(converted, weights, pieces[name], torch.float32)
        for name in model.state_dict(keep_vars=True)
        if name in pieces
    }
    return model, values | fresh(model, left)


def _opened(
    path: str | Path,
    heads: int | None,
    options: Mapping[str, Any] | None,
    missing: Sequence[str],
) -> tuple[Weights, dict[str, Piece], WanModel, tuple[str, ...]]:
    """The file, where each tensor comes from, the empty network, and what may be missing."""
    weights, identity = find(Path(path), ident.WAN)
    told = dict(options or {})
    config = ident.wan_config(weights, identity, heads)
    adds_image = config.image_width is None and told.get("image_width") is not None
    config = WanConfig(**{**config.model_dump(), **told})
    with without_memory():
        model = WanModel(config)
    allowed = (*missing, *(_IMAGE_BRANCH if adds_image else ()))
    return weights, wan_pieces(weights, identity), model, allowed


_IMAGE_BRANCH: Final = ("img_emb.*", "blocks.*.cross_attn.*_img.*")
#: What stays float32 when a network is loaded in half precision, as the release computes it: it
#: modulates every block, and costs one part in a hundred of the memory.
WIDE: Final = ("time_embedding.*", "time_projection.*", "*modulation")


def wan_pieces(weights: Weights, identity: Identity) -> dict[str, Piece]:
    """Original name -> where it comes from; names that no layout knows keep their own."""
    pieces = {}
    for name in weights.entries:
        bare = name.removeprefix(identity.prefix)
        if identity.layout == "diffusers":
            if ".norm_added_q." in bare:  # older folders store it; nothing uses it
                continue
            bare = WAN_DIFFUSERS.back(bare) or bare
        pieces[bare] = Piece(name)
    return pieces


def assign(
    model: nn.Module,
    weights: Weights,
    pieces: Mapping[str, Piece],
    *,
    dtype: torch.dtype | None = None,
    missing: Sequence[str] = (),
    unexpected: Sequence[str] = (),
    optional: Callable[[str], bool] = lambda name: False,
    wide: Sequence[str] = (),
) -> list[str]:
    """Replace the parameters (and stored buffers) of ``model`` by tensors of the file.

    Args:
        model: built inside :func:`without_memory`.
        weights: the file.
        pieces: the model's names -> where each comes from.
        dtype: floating type to convert to.
        missing: patterns of the model's names that may stay as they are.
        unexpected: patterns of names in ``pieces`` that may be left over.
        optional: names of the model that are never missed.
        wide: patterns of the model's names that become float32 where ``dtype`` is a half type.

    Returns:
        Names that stayed as they were.

    Raises:
        ModelError: anything else is missing, left over or of another shape; all are counted.
    """
    left = check(model, weights, pieces, missing=missing, unexpected=unexpected, optional=optional)
    made: dict[int, nn.Parameter] = {}
    for name in model.state_dict(keep_vars=True):
        if name in pieces:
            half = dtype in (torch.bfloat16, torch.float16)
            to = torch.float32 if half and _matches(name, wide) else dtype
            _set(model, name, converted(weights, pieces[name], to), made)
    return left


def wan_fits(weights: Weights, identity: Identity) -> None:
    """Whether :func:`load_wan` would take a Wan file; reads names and shapes only.

    Raises:
        ModelError: it would not.
    """
    with torch.device("meta"):
        model = WanModel(ident.wan_config(weights, identity))
    pieces = wan_pieces(weights, identity)
    check(model, weights, pieces)
    for name in model.state_dict(keep_vars=True):
        _check_type(weights, pieces[name])


def check(
    model: nn.Module,
    weights: Weights,
    pieces: Mapping[str, Piece],
    *,
    missing: Sequence[str] = (),
    unexpected: Sequence[str] = (),
    optional: Callable[[str], bool] = lambda name: False,
) -> list[str]:
    """Names of the model that the file lacks; arguments and errors as :func:`assign`."""
    targets = {name: tuple(t.shape) for name, t in model.state_dict(keep_vars=True).items()}
    shapes = {name: _shape(weights, piece) for name, piece in pieces.items()}
    left = [n for n in targets if n not in pieces]
    faults = {
        "missing": [n for n in left if not _matches(n, missing) and not optional(n)],
        "unexpected": [n for n in pieces if n not in targets and not _matches(n, unexpected)],
        "of another shape": [
            f"{n} {_by(shapes[n])} for {_by(targets[n])}"
            for n in pieces
            if n in targets and shapes[n] != targets[n]
        ],
    }
    if any(faults.values()):
        told = "; ".join(f"{len(v)} {k}: {_listed(v)}" for k, v in faults.items() if v)
        raise ModelError(
            f"{weights.path}: does not fit {type(model).__name__}: {told}; "
            "give the checkpoint of this network; what is left over can be passed over by name "
            "(--pass-over of sample and export, train.start_pass_over)"
        )
    return left


def _shape(weights: Weights, piece: Piece) -> tuple[int, ...]:
    shape = weights.entries[piece.source].shape
    return tuple(piece.take(torch.empty(shape, device="meta")).shape)


def _check_type(weights: Weights, piece: Piece, dtype: torch.dtype | None = None) -> None:
    stored = weights.entries[piece.source].dtype
    if stored.startswith("float8") or (stored not in _FLOATS and dtype is not None):
        raise ModelError(
            f"{weights.path}: {piece.source} is stored as {stored}; "
            "give bf16, fp16 or fp32 weights of the same model"
        )


def converted(weights: Weights, piece: Piece, dtype: torch.dtype | None) -> Tensor:
    """One tensor of the file in ``dtype``, or as stored: then mapped, not copied."""
    _check_type(weights, piece, dtype)
    tensor = piece.take(weights.read(piece.source))
    return tensor.contiguous() if dtype is None else tensor.to(dtype).contiguous()


def _set(model: nn.Module, name: str, tensor: Tensor, made: dict[int, nn.Parameter]) -> None:
    place, _, leaf = name.rpartition(".")
    module = model.get_submodule(place)
    old = getattr(module, leaf)
    if isinstance(old, nn.Parameter):  # tied parameters stay tied
        known = made.get(id(old))
        new = known if known is not None else nn.Parameter(tensor, old.requires_grad)
        made[id(old)] = new
        module._parameters[leaf] = new
    else:
        module._buffers[leaf] = tensor


def fresh(model: WanModel, names: Sequence[str]) -> dict[str, Callable[[], Tensor]]:
    """What gives parameters that a file lacks the values of a fresh network, in float32.

    The image branch of a network that never had one adds nothing at first: its values are zero.
    All draw from one generator: call them in order, each once.
    """
    random = torch.Generator().manual_seed(0)
    std = model.config.width**-0.5

    @torch.no_grad()
    def made(name: str, shape: torch.Size) -> Tensor:
        tensor = torch.zeros(shape)
        if name.endswith("modulation"):
            return tensor.normal_(std=std, generator=random)
        if name.endswith("weight") and ".v_img." not in name and not name.startswith("head."):
            if tensor.dim() == 1:
                return torch.ones_like(tensor)
            nn.init.xavier_uniform_(tensor.flatten(1), generator=random)
        return tensor

    return {name: partial(made, name, model.get_parameter(name).shape) for name in names}


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _by(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(sorted(names)[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
