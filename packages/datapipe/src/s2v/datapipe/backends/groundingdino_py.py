"""Grounding DINO by its authors, as packaged in groundingdino-py 0.4.0.

Kept working for those who have its checkpoints (``groundingdino_swint_ogc.pth``,
``groundingdino_swinb_cogcoor.pth``); :mod:`s2v.datapipe.backends.grounding_dino` is the default.
Three things of the package are done otherwise here:

* It calls three methods of ``BertModel`` that transformers 5 no longer has. They are given to the
  one instance that the detector owns (:func:`give_back_methods`); transformers stays as it is for
  everybody else in the process.
* Its configuration is a Python file that it imports. Here the file is read as literals and never
  run.
* It loads a pretrained BERT from the hub, only to overwrite it with the checkpoint's. Here BERT is
  built from the configuration of ``text_encoder``, and every weight must be in the checkpoint.
"""

from __future__ import annotations

import ast
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any, Final

import numpy as np
from pydantic import Field

from s2v.datapipe.backends.checkpoints import check_config, fill, model_folder, state_dict
from s2v.datapipe.backends.grounding import SEPARATORS, Floats, GroundingOptions, TokenGrounder
from s2v.datapipe.backends.torch_nets import computing, device
from s2v.datapipe.backends.weights import digest, existing_file, existing_folder
from s2v.datapipe.base.settings import parse
from s2v.datapipe.roles import Image, WeightsError

_WHAT: Final = "a checkpoint of groundingdino-py, such as groundingdino_swint_ogc.pth"
_TEXT: Final = "the text encoder's configuration and tokenizer (google-bert/bert-base-uncased)"
_PUBLISHED: Final = {
    "swint_ogc": "GroundingDINO_SwinT_OGC.py",
    "swinb": "GroundingDINO_SwinB_cfg.py",
}

#: In the published files, and used by no inference: labels of the training's denoising, and a
#: buffer that transformers no longer stores.
_UNUSED: Final = ("label_enc.weight", "bert.embeddings.position_ids")

#: The package looks its tokenizer and BERT up in module functions while it builds a net.
_BUILDING = threading.Lock()


class Options(GroundingOptions):
    """Options of this backend."""

    weights: str = Field(description="checkpoint file, .pth")
    config: str = Field(
        default="swint_ogc",
        description="swint_ogc, swinb, or a configuration file in the package's form",
    )
    text_encoder: str = Field(
        default="google-bert/bert-base-uncased",
        description="folder or hub id of BERT: config.json and tokenizer, no weights needed",
    )
    revision: str = Field(default="main", description="of a hub id")
    download: bool = Field(default=False, description="fetch a hub id that is not cached")
    short_side: int = Field(default=800, ge=32, description="pixels that the net is shown")
    long_side: int = Field(default=1333, ge=32, description="pixels, at most")

    def identity(self) -> str:
        """Sizes count too."""
        return f"{super().identity()},config={Path(self.config).name},sides={self.short_side}-" + (
            f"{self.long_side}"
        )


def detector(options: dict[str, Any], where: str, shared: dict[str, Any]) -> GroundingDinoPy:
    """Factory for :mod:`s2v.datapipe.backends.registry`.

    Raises:
        SettingsError: unknown or missing options.
        WeightsError: checkpoint, configuration or text encoder are not there.
    """
    return GroundingDinoPy(parse(Options, options, where), where)


class GroundingDinoPy(TokenGrounder):
    """The authors' net behind the role's Protocol."""

    def __init__(self, options: Options, where: str = "roles.detector") -> None:
        super().__init__(options)
        self.settings = options
        self._where = where
        self._digest = digest(self._files())
        self._net: Any = None

    @property
    def model_id(self) -> str:
        """Name, digest of the files, and the options that answers depend on."""
        return f"groundingdino-py-1+{self._digest}+{self.settings.identity()}"

    def load(self) -> None:
        """Build the net and load the checkpoint; makes no connection unless ``download`` is set.

        Raises:
            WeightsError: a file is missing, cut short, another model's, or not what the run
                started with.
            SettingsError: the device is not there.
        """
        if digest(self._files()) != self._digest:
            raise WeightsError(
                f"{self.settings.weights}: not the files that this run started with; every machine "
                "needs the same"
            )
        self._on = device(self.options.device, self._where)
        computing(self._on, self.options.dtype, self._where)
        path = existing_file(self.settings.weights, _WHAT)
        tensors = state_dict(path, _WHAT)
        net = build(read_config(self.settings.config), self._text_folder())
        for unused in _UNUSED:
            tensors.pop(unused, None)
        fill(net, tensors, path, f"the configuration {self.settings.config!r}")
        for token, number in SEPARATORS.items():
            if net.tokenizer.convert_tokens_to_ids(token) != number:
                raise WeightsError(
                    f"{self.settings.text_encoder}: its tokenizer has {token!r} elsewhere than at "
                    f"{number}; expected {_TEXT}"
                )
        self.text_limit = int(net.max_text_len)
        self._net = net.to(self._on).eval()

    def tokens(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens."""
        return list(self._net.tokenizer(text, add_special_tokens=False)["input_ids"])

    def run(self, images: Sequence[Image], ids: Sequence[int]) -> tuple[Floats, Floats]:
        """One text on images of one size."""
        import groundingdino.datasets.transforms as published
        import torch
        from groundingdino.util.misc import nested_tensor_from_tensor_list
        from PIL import Image as Pictures

        prepare = published.Compose(
            [
                published.RandomResize([self.settings.short_side], self.settings.long_side),
                published.ToTensor(),
                published.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
            ]
        )
        pixels = [prepare(Pictures.fromarray(image), None)[0] for image in images]
        samples = nested_tensor_from_tensor_list(pixels).to(self._on)
        with (
            torch.inference_mode(),
            computing(self._on, self.options.dtype, self._where),
            _told_ids(self._net, ids),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore", FutureWarning)  # the package's torch.cuda.amp
            out = self._net(samples, captions=[""] * len(images))
        scores = out["pred_logits"].float().sigmoid().cpu().numpy()
        return scores, np.asarray(out["pred_boxes"].float().cpu().numpy(), np.float32)

    def _text_folder(self) -> Path:
        opts = self.settings
        folder = model_folder(opts.text_encoder, opts.revision, opts.download, _TEXT)
        existing_folder(folder, ["config.json"], _TEXT)
        check_config(folder, "bert")
        if not _tokenizer_files(folder):
            raise WeightsError(f"{folder}: no tokenizer.json or vocab.txt; expected {_TEXT}")
        return folder

    def _files(self) -> list[Path]:
        text = self._text_folder()
        files = [existing_file(self.settings.weights, _WHAT), text / "config.json"]
        if self.settings.config not in _PUBLISHED:
            files.append(existing_file(self.settings.config, "a configuration file"))
        return [*files, *_tokenizer_files(text)]


def read_config(name: str) -> dict[str, Any]:
    """A configuration of the package: assignments of literals, read without running them.

    Args:
        name: a key of the published ones, or a file.

    Raises:
        WeightsError: no such file, or something in it is no literal.
    """
    if name in _PUBLISHED:
        where = f"groundingdino-py's {_PUBLISHED[name]}"
        text = resources.files("groundingdino.config").joinpath(_PUBLISHED[name]).read_text()
    else:
        where = name
        text = existing_file(name, "a configuration file").read_text(encoding="utf-8")
    try:
        found = {
            target.id: ast.literal_eval(node.value)
            for node in ast.parse(text).body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
    except (SyntaxError, ValueError) as error:
        raise WeightsError(
            f"{where}: not plain assignments of values ({error}); configuration files are read, "
            "never run"
        ) from None
    if found.get("modelname") != "groundingdino":
        raise WeightsError(f"{where}: modelname is not 'groundingdino'; another model's")
    # They save memory in training, and only warn here.
    return {**found, "use_checkpoint": False, "use_transformer_ckpt": False}


def build(config: dict[str, Any], text_encoder: Path) -> Any:
    """The authors' net with random weights.

    Args:
        config: of :func:`read_config`.
        text_encoder: folder with BERT's ``config.json`` and tokenizer.

    Raises:
        WeightsError: the configuration lacks something or does not fit together.
    """
    with _BUILDING, warnings.catch_warnings():
        # Of the package's own age: old names of timm, torch.meshgrid without its argument.
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", UserWarning)
        from groundingdino.models import build_model
        from groundingdino.util.slconfig import SLConfig

        try:
            with _local_text_encoder(text_encoder):
                return build_model(SLConfig({**config, "text_encoder_type": str(text_encoder)}))
        except (AttributeError, KeyError, AssertionError, TypeError, ValueError) as error:
            raise WeightsError(f"configuration: the net cannot be built ({error})") from error


def give_back_methods(bert: Any) -> Any:
    """Give a ``BertModel`` the three methods that groundingdino-py takes from it.

    As they were until transformers 4, for an encoder without pruned heads, on this instance
    alone.
    """
    import torch

    def extended(mask: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        """0 where tokens may look, the lowest number elsewhere: ``[B, 1, 1 or N, N]``."""
        return invert(mask)

    def invert(mask: torch.Tensor) -> torch.Tensor:
        shown = mask[:, None, :, :] if mask.dim() == 3 else mask[:, None, None, :]
        shown = shown.to(bert.dtype)
        return (1.0 - shown) * torch.finfo(bert.dtype).min

    def heads(mask: Any, layers: int, *_: Any, **__: Any) -> list[None]:
        if mask is not None:
            raise ValueError("masks of attention heads are not known to transformers 5")
        return [None] * layers

    bert.get_extended_attention_mask = extended
    bert.invert_attention_mask = invert
    bert.get_head_mask = heads
    return bert


@contextmanager
def _local_text_encoder(folder: Path) -> Iterator[None]:
    """Let the package build BERT from ``folder`` alone; its own functions come back after."""
    from groundingdino.util import get_tokenlizer
    from transformers import AutoTokenizer, BertConfig, BertModel

    def tokenizer(_: Any) -> Any:
        try:
            return AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise WeightsError(f"{folder}: no usable tokenizer ({error})") from error

    def language_model(_: Any) -> Any:
        config = BertConfig.from_pretrained(folder, local_files_only=True)
        return give_back_methods(BertModel(config))  # type: ignore[no-untyped-call]  # transformers'

    kept = get_tokenlizer.get_tokenlizer, get_tokenlizer.get_pretrained_language_model
    get_tokenlizer.get_tokenlizer = tokenizer
    get_tokenlizer.get_pretrained_language_model = language_model
    try:
        yield
    finally:
        get_tokenlizer.get_tokenlizer, get_tokenlizer.get_pretrained_language_model = kept


class _Told:
    """Stands in for the tokenizer of one call: the ids are known already."""

    def __init__(self, ids: Sequence[int]) -> None:
        self._ids = list(ids)

    def __call__(self, captions: Sequence[str], **_: Any) -> Any:
        import torch
        from transformers import BatchEncoding

        ids = torch.tensor([self._ids] * len(captions))
        return BatchEncoding(
            {
                "input_ids": ids,
                "token_type_ids": torch.zeros_like(ids),
                "attention_mask": torch.ones_like(ids),
            }
        )


@contextmanager
def _told_ids(net: Any, ids: Sequence[int]) -> Iterator[None]:
    """Have the net use these token ids: spans are right only for the ids they were made with."""
    kept, net.tokenizer = net.tokenizer, _Told(ids)
    try:
        yield
    finally:
        net.tokenizer = kept


def _tokenizer_files(folder: Path) -> list[Path]:
    names = ("tokenizer.json", "vocab.txt", "tokenizer_config.json")
    found = [folder / name for name in names if (folder / name).is_file()]
    return found if any(p.name != "tokenizer_config.json" for p in found) else []
