"""GME on Qwen2-VL behind `ImageTextEmbedder`, asked as OpenS2V asks it (arXiv 2412.16855).

A vision-language model reads a picture or a text inside a chat, and the state of the last token is
the vector. Four things decide the number besides the weights, and are kept as published: the
instruction of a text, another one for pictures; two resizings of a picture, to at most 1280 tokens;
the cut at 1800 tokens; and positions that count tokens one by one, also inside a picture. The
published code asks the language model without positions, so that Qwen2-VL's own rows and columns
are never used; the library's usual way would give other vectors.

The release of seven billion parameters runs in half precision on a GPU, as published, and in single
precision where there is none (33 GB of memory, minutes per video).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import PIL.Image
import torch

from s2v.datapipe.base.embedded.net import check_image, one_torch_thread, require, unit
from s2v.evals.encoders import Image, Vectors
from s2v.evals.encoders.torch_files import from_folder
from s2v.evals.errors import EvalError

OF_TEXT: Final = "Find an image that matches the given text."
OF_IMAGE: Final = "You are a helpful assistant."
PICTURE: Final = "<|vision_start|><|image_pad|><|vision_end|>"
LONGEST: Final = 1800
"""Tokens that are read; what lies behind is not."""
FIRST: Final = (4, 16384)
SECOND: Final = (256, 1280)
"""Least and most tokens of a picture after the first and after the second resizing."""


def chat(instruction: str, content: str) -> str:
    """The conversation whose last token, the end of text, becomes the vector."""
    return (
        f"<|im_start|>system\n{instruction}<|im_end|>\n<|im_start|>user\n{content}<|im_end|>\n"
        "<|im_start|>assistant\n<|endoftext|>"
    )


def fitted(height: int, width: int, tokens: tuple[int, int], step: int = 28) -> tuple[int, int]:
    """The size nearest to a picture's that is whole tokens, within the bounds (Qwen2-VL).

    Args:
        height: pixels.
        width: pixels.
        tokens: least and most of them.
        step: pixels of a token's side.

    Returns:
        Height and width, multiples of ``step``.
    """
    low, high = (n * step * step for n in tokens)
    sides = [max(step, round(side / step) * step) for side in (height, width)]
    if sides[0] * sides[1] > high:
        shrink = math.sqrt(height * width / high)
        sides = [max(step, math.floor(s / shrink / step) * step) for s in (height, width)]
    elif sides[0] * sides[1] < low:
        grow = math.sqrt(low / (height * width))
        sides = [math.ceil(s * grow / step) * step for s in (height, width)]
    return sides[0], sides[1]


def resized(image: Image, step: int = 28) -> PIL.Image.Image:
    """Resized twice, bicubic and rounded to whole grey levels each time."""
    picture = PIL.Image.fromarray(image)
    for tokens in (FIRST, SECOND):
        height, width = fitted(picture.height, picture.width, tokens, step)
        picture = picture.resize((width, height), PIL.Image.Resampling.BICUBIC)
    return picture


class Gme:
    """Unit vectors of pictures and texts in one space.

    Args:
        folder: of a release: ``config.json``, safetensors, tokenizer; loaded strictly and at once.
        stated: names of the files whose digest was checked; every JSON and weight file of the
            folder must be among them, for each can change the number.

    Raises:
        EvalError: a missing, damaged or unchecked file, or another model's.
    """

    def __init__(self, folder: Path, stated: Mapping[str, str]) -> None:
        self.id = f"gme-{folder.name}"
        read = {p.name for p in folder.iterdir() if p.suffix in (".json", ".safetensors", ".txt")}
        if unchecked := sorted(read - set(stated)):
            raise EvalError(f"{folder}: state the sha256 of {', '.join(unchecked)}, too")
        transformers = require("transformers")
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        half = self._device.type == "cuda"
        net = from_folder(
            transformers.Qwen2VLForConditionalGeneration, folder,
            dtype=torch.float16 if half else torch.float32, attn_implementation="sdpa",
        )  # fmt: skip
        self._net: Any = net.model.to(self._device)  # the head that speaks is not needed
        try:
            self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False
            )
        except (OSError, ValueError, KeyError) as error:
            raise EvalError(f"{folder}: no readable tokenizer: {str(error)[:200]}") from error
        self._image_token = int(net.config.image_token_id)
        if self._tokenizer.convert_tokens_to_ids("<|image_pad|>") != self._image_token:
            raise EvalError(f"{folder}: tokenizer and config.json name different image tokens")
        vision = net.config.vision_config
        self._merge = int(vision.spatial_merge_size)
        self._step = int(vision.patch_size) * self._merge
        module = require("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl")
        self._pixels: Any = module.Qwen2VLImageProcessorPil(
            do_resize=False,  # done already; the library's own bounds come from a file
            patch_size=vision.patch_size,
            merge_size=vision.spatial_merge_size,
            temporal_patch_size=vision.temporal_patch_size,
        )

    def embed_images(self, images: Sequence[Image]) -> Vectors:
        """(N, D) float32, L2-normalised; each picture passes alone.

        Args:
            images: RGB uint8 (H, W, 3).
        """
        rows = []
        for image in images:
            check_image(image)
            seen = self._pixels(images=[resized(image, self._step)], return_tensors="pt")
            tokens = int(seen["image_grid_thw"].prod()) // self._merge**2
            text = chat(OF_IMAGE, PICTURE).replace("<|image_pad|>", "<|image_pad|>" * tokens)
            rows.append(self._vector(text, seen))
        return unit(np.stack(rows))

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        """(N, D) float32, L2-normalised; each text passes alone."""
        return unit(np.stack([self._vector(chat(OF_TEXT, text)) for text in texts]))

    def _ids(self, text: str) -> torch.Tensor:
        ids = self._tokenizer(text, add_special_tokens=False)["input_ids"][:LONGEST]
        return torch.tensor([ids], device=self._device)

    def _vector(self, text: str, seen: Mapping[str, torch.Tensor] | None = None) -> Vectors:
        ids = self._ids(text)
        with torch.inference_mode(), one_torch_thread():
            states = self._net.get_input_embeddings()(ids)
            if seen is not None:
                found = self._net.get_image_features(
                    seen["pixel_values"].to(self._device), seen["image_grid_thw"].to(self._device)
                )
                picture = torch.cat(list(found.pooler_output)).to(states.dtype)
                states = states.clone()
                states[ids == self._image_token] = picture
            # No positions: they are counted one by one.
            answer = self._net.language_model(inputs_embeds=states, use_cache=False)
            last: Vectors = answer.last_hidden_state[0, -1].float().cpu().numpy()
        return last
