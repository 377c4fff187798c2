"""Grounding DINO as ported to transformers: the default production detector.

Weights are a model folder (``config.json``, safetensors, tokenizer, ``preprocessor_config.json``)
or a hub id that is in the local Hugging Face cache. docs/detection.md says which public
checkpoints fit and why this port is the default.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from pydantic import Field

from s2v.datapipe.backends.checkpoints import (
    check_config,
    check_safetensors,
    model_folder,
    safetensors_files,
)
from s2v.datapipe.backends.grounding import SEPARATORS, Floats, GroundingOptions, TokenGrounder
from s2v.datapipe.backends.torch_nets import computing, device
from s2v.datapipe.backends.weights import cause, digest, existing_folder
from s2v.datapipe.base.settings import parse
from s2v.datapipe.roles import Image, WeightsError

if TYPE_CHECKING:
    import torch

_WHAT: Final = (
    "a Grounding DINO of transformers (such as IDEA-Research/grounding-dino-tiny): config.json, "
    "model.safetensors, preprocessor_config.json and a tokenizer"
)
_NEEDED: Final = ("config.json", "preprocessor_config.json")
_TOKENIZERS: Final = ("tokenizer.json", "vocab.txt")
_TOKENIZER_FILES: Final = (*_TOKENIZERS, "tokenizer_config.json", "special_tokens_map.json")


class Options(GroundingOptions):
    """Options of this backend."""

    weights: str = Field(description="model folder, or hub id org/name")
    revision: str = Field(default="main", description="of a hub id")
    download: bool = Field(default=False, description="fetch a hub id that is not cached")


def detector(options: dict[str, Any], where: str, shared: dict[str, Any]) -> GroundingDino:
    """Factory for :mod:`s2v.datapipe.backends.registry`.

    Raises:
        SettingsError: unknown or missing options.
        WeightsError: the weights are not there.
    """
    return GroundingDino(parse(Options, options, where), where)


class GroundingDino(TokenGrounder):
    """``transformers.GroundingDinoForObjectDetection`` behind the role's Protocol."""

    def __init__(self, options: Options, where: str = "roles.detector") -> None:
        super().__init__(options)
        self.settings = options
        self._where = where
        self._digest = digest(self._files(self._folder()))
        self._net: Any = None
        self._processor: Any = None
        self._tokenizer: Any = None

    @property
    def model_id(self) -> str:
        """Name, digest of the weights, and the options that answers depend on."""
        return f"grounding-dino-2+{self._digest}+{self.options.identity()}"

    def load(self) -> None:
        """Check the folder and load it; makes no connection unless ``download`` is set.

        Raises:
            WeightsError: something in the folder is missing, cut short, another model's, or not
                what the run started with.
            SettingsError: the device is not there.
        """
        import torch
        from transformers import AutoTokenizer, GroundingDinoForObjectDetection
        from transformers.models.grounding_dino import GroundingDinoImageProcessor
        from transformers.utils import logging

        folder = self._folder()
        files = self._files(folder)
        check_config(folder, "grounding-dino")
        for path in safetensors_files(folder):
            check_safetensors(path)
        if digest(files) != self._digest:
            raise WeightsError(
                f"{folder}: not the files that this run started with; every machine needs the same"
            )
        self._on = device(self.options.device, self._where)
        computing(self._on, self.options.dtype, self._where)
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # transformers' own
        local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(folder, **local)
            self._processor = GroundingDinoImageProcessor.from_pretrained(
                folder, local_files_only=True
            )
            loaded: Any = GroundingDinoForObjectDetection.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,  # told below, by name
                output_loading_info=True,
            )
        except Exception as error:
            raise WeightsError(
                f"{folder}: not loadable ({cause(error)}); expected {_WHAT}; fetch it again"
            ) from error
        net, info = loaded
        shapes = sorted(str(told[0]) for told in info["mismatched_keys"])
        missing = sorted(info["missing_keys"])
        if missing or shapes:
            # transformers fills them with random numbers and only warns.
            raise WeightsError(
                f"{folder}: {len(missing)} weights missing, {len(shapes)} of another shape (first: "
                f"{(missing or shapes)[0]}); config.json and the weights are of different models"
            )
        self._check_vocabulary(folder)
        self.text_limit = int(net.config.max_text_len)
        self._net = net.to(self._on).eval()
        mend_text_positions(self._net)

    def tokens(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens."""
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def run(self, images: Sequence[Image], ids: Sequence[int]) -> tuple[Floats, Floats]:
        """One text on images of one size."""
        import torch

        # The layout is told, not guessed: a frame three pixels high looks like channels first.
        seen = self._processor(
            images=list(images), input_data_format="channels_last", return_tensors="pt"
        ).to(self._on)
        text = torch.tensor([list(ids)] * len(images), device=self._on)
        with torch.inference_mode(), computing(self._on, self.options.dtype, self._where):
            out = self._net(
                pixel_values=seen["pixel_values"],
                pixel_mask=seen.get("pixel_mask"),
                input_ids=text,
                token_type_ids=torch.zeros_like(text),
                attention_mask=torch.ones_like(text),
            )
        scores = out.logits.float().sigmoid().cpu().numpy()
        return scores, np.asarray(out.pred_boxes.float().cpu().numpy(), np.float32)

    def _folder(self) -> Path:
        opts = self.settings
        folder = model_folder(opts.weights, opts.revision, opts.download, _WHAT)
        return existing_folder(folder, _NEEDED, _WHAT)

    def _files(self, folder: Path) -> list[Path]:
        tokenizer = [folder / n for n in _TOKENIZER_FILES if (folder / n).is_file()]
        if not any(path.name in _TOKENIZERS for path in tokenizer):
            raise WeightsError(
                f"{folder}: no tokenizer ({' or '.join(_TOKENIZERS)}); expected {_WHAT}; fetch it "
                "again"
            )
        return [*(folder / n for n in _NEEDED), *tokenizer, *safetensors_files(folder)]

    def _check_vocabulary(self, folder: Path) -> None:
        for token, number in SEPARATORS.items():
            found = self._tokenizer.convert_tokens_to_ids(token)
            if found != number:
                raise WeightsError(
                    f"{folder}: its tokenizer has {token!r} at {found}, not at {number} as BERT's "
                    "uncased vocabulary; the net would run phrases together; fetch the model's own "
                    "tokenizer"
                )


def mend_text_positions(net: Any) -> None:
    """Give every token the position, and the position's code, that the net was trained with.

    Two faults of transformers 5 (seen in 5.19), found by giving this port and the authors' code
    the same weights: the full stop behind a phrase gets position 0 instead of the place after the
    phrase's last word, and the text enhancer's sine code of the positions is cut to whole numbers,
    as it takes the integer type of its input. Both change the features of all words. Hooks on this
    one net hand the right positions to BERT, and as floats to the encoder; nothing else of
    transformers is touched, and a release without the faults gets the same numbers twice.
    """
    encoder = net.model.encoder

    def into_bert(_: Any, args: tuple[Any, ...], told: dict[str, Any]) -> Any:
        ids, *rest = args
        names = ("attention_mask", "token_type_ids", "position_ids")
        encoder.text_positions = positions(ids)
        named = dict(zip(names, rest, strict=False))
        return (ids,), {**named, **told, "position_ids": encoder.text_positions}

    def into_encoder(_: Any, args: tuple[Any, ...], told: dict[str, Any]) -> Any:
        return args, {**told, "text_position_ids": encoder.text_positions.float()}

    net.model.text_backbone.register_forward_pre_hook(into_bert, with_kwargs=True)
    encoder.register_forward_pre_hook(into_encoder, with_kwargs=True)


def positions(ids: torch.Tensor) -> torch.Tensor:
    """Position of every token in its phrase, the separator that ends it included.

    Args:
        ids: token ids ``[texts, tokens]``, each text from [CLS] to [SEP].

    Returns:
        int64 ``[texts, tokens]``; 0 for [CLS] and [SEP].
    """
    import torch

    places = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    ends = torch.isin(ids, torch.tensor(sorted(SEPARATORS.values()), device=ids.device))
    # The last separator before each token, itself not counted.
    before = torch.where(ends, places, 0).cummax(dim=1)[0].roll(1, dims=1)
    found = places - before - 1
    found[:, 0] = found[:, -1] = 0
    return found
