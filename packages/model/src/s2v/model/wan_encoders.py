"""The frozen parts of the released variant: Wan's VAE, umT5 and CLIP ViT-H.

They fill the Protocols of :mod:`s2v.model.encoders` and do to their inputs what Wan2.1's own code
does. Weights come from files or folders on disk, in any layout that
:mod:`s2v.model.checkpoints` reads; nothing is downloaded. Every id holds the sha256 of the
weights, so that cached features of other weights never fit.
"""

from __future__ import annotations

import hashlib
import html
import re
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from s2v.datapipe.base.atomic import sha256_file
from s2v.model.data.references import fit_and_pad
from s2v.model.errors import ModelError

Pixels = npt.NDArray[np.uint8]

#: Files that make a model what it is; all else in its folder (README, images) does not count.
_COUNTED: Final = {".safetensors", ".pth", ".pt", ".bin", ".json", ".model"}
#: What CLIP was trained with; Wan normalises references so.
_CLIP_MEAN: Final = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD: Final = (0.26862954, 0.26130258, 0.27577711)
_SHORT: Final = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


def fingerprint(path: str | Path) -> str:
    """Sha256 of a file, or of the names and contents of a folder's weights and settings.

    Raises:
        ModelError: nothing there.
    """
    path = Path(path)
    if path.is_file():
        return sha256_file(path)
    files = sorted(p for p in path.rglob("*") if p.suffix in _COUNTED and p.is_file())
    if not files:
        raise ModelError(f"{path}: no such file, and no folder with weights")
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(path)}\0{sha256_file(file)}\n".encode())
    return digest.hexdigest()


def clean_prompt(text: str) -> str:
    """Mend broken Unicode and HTML entities and fold white space, as Wan does to every prompt."""
    import ftfy

    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return re.sub(r"\s+", " ", text).strip()


class Umt5Text:
    """umT5's last states, one row per token and ``</s>`` last; the network pads them with zeros.

    Args:
        module: ``transformers.UMT5EncoderModel``.
        tokenizer: a tokenizer of ``transformers``.
        sha256: of weights and tokenizer.
        tokens: longer prompts are cut to this many (Wan: 512).
    """

    def __init__(self, module: Any, tokenizer: Any, sha256: str, tokens: int = 512) -> None:
        self.module = module.eval().requires_grad_(False)
        self.tokenizer, self.tokens = tokenizer, tokens
        self.id = self.named(sha256, tokens, module.dtype)
        self.width = int(module.config.d_model)

    @classmethod
    def load(
        cls,
        weights: str | Path,
        tokenizer: str | Path,
        *,
        tokens: int = 512,
        dtype: torch.dtype = torch.bfloat16,
        device: torch.device | None = None,
    ) -> Umt5Text:
        """Read ``models_t5_umt5-xxl-enc-bf16.pth`` or a folder, and the tokenizer's folder.

        Raises:
            ModelError: a file is missing or holds something else.
        """
        from s2v.model.checkpoints.frozen import load_umt5

        words = _tokenizer(Path(tokenizer))  # first: the weights take a while
        module = load_umt5(weights, dtype=dtype).to(device)
        return cls(module, words, cls.sha256(weights, tokenizer), tokens)

    @staticmethod
    def sha256(weights: str | Path, tokenizer: str | Path) -> str:
        """Of weights and tokenizer."""
        made = f"{fingerprint(weights)}{fingerprint(tokenizer)}"
        return hashlib.sha256(made.encode()).hexdigest()

    @staticmethod
    def named(sha256: str, tokens: int, dtype: torch.dtype) -> str:
        """The id."""
        return f"umt5-{sha256[:16]}-{tokens}-{_SHORT[dtype]}"

    @torch.no_grad()
    def encode(self, text: str) -> Tensor:
        """``[L, Dt]`` float32, ``1 <= L <= tokens``."""
        ids = self.tokenizer(
            clean_prompt(text), truncation=True, max_length=self.tokens, return_tensors="pt"
        ).input_ids.to(self.module.device)
        states: Tensor = self.module(ids).last_hidden_state[0]
        return states.float().cpu()

    def length(self, text: str) -> int:
        """Tokens before the cut, ``</s>`` included."""
        return len(self.tokenizer(clean_prompt(text), verbose=False).input_ids)


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    if not folder.is_dir():
        raise ModelError(
            f"{folder}: no such folder; the tokenizer of umT5 is the folder google/umt5-xxl that "
            "comes with Wan2.1's weights"
        )
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise ModelError(f"{folder}: no tokenizer of transformers ({first})") from None


class ClipTokens:
    """CLIP ViT-H's states before its last block: one class token and one per patch.

    Args:
        module: ``transformers.CLIPVisionModelWithProjection`` or ``CLIPVisionModel``.
        sha256: of the weights.
        fit: how an image comes to the square that CLIP sees. ``stretch`` is Wan's way; ``pad``
            keeps its aspect on white, as references for the VAE.
    """

    def __init__(self, module: Any, sha256: str, fit: str = "stretch") -> None:
        self.module = module.eval().requires_grad_(False)
        config = module.config
        self.size, self.fit = int(config.image_size), fit
        self.width = int(config.hidden_size)
        self.tokens = (self.size // int(config.patch_size)) ** 2 + 1
        self.id = self.named(sha256, fit, module.dtype)

    @staticmethod
    def named(sha256: str, fit: str, dtype: torch.dtype) -> str:
        """The id."""
        return f"clip-{sha256[:16]}-{fit}-{_SHORT[dtype]}"

    @classmethod
    def load(
        cls,
        weights: str | Path,
        *,
        fit: str = "stretch",
        dtype: torch.dtype = torch.bfloat16,
        device: torch.device | None = None,
    ) -> ClipTokens:
        """Read ``models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth`` or a folder.

        Raises:
            ModelError: a file is missing or holds something else.
        """
        from s2v.model.checkpoints.frozen import load_clip

        return cls(load_clip(weights, dtype=dtype).to(device), fingerprint(weights), fit)

    def pixels(self, image: Pixels) -> Tensor:
        """RGB ``[h, w, 3]`` -> ``[1, 3, size, size]`` float32, normalised for CLIP."""
        if self.fit == "pad":
            side = max(image.shape[:2])
            image = fit_and_pad(image, (side, side), "white")
        x = torch.tensor(image, dtype=torch.float32).permute(2, 0, 1)[None] / 127.5 - 1
        # As Wan: bicubic without antialiasing on [-1, 1], values beyond it are kept.
        x = F.interpolate(x, size=(self.size, self.size), mode="bicubic", align_corners=False)
        mean, std = (torch.tensor(v)[None, :, None, None] for v in (_CLIP_MEAN, _CLIP_STD))
        return (x / 2 + 0.5 - mean) / std

    @torch.no_grad()
    def encode(self, image: Pixels) -> Tensor:
        """RGB ``[h, w, 3]`` of any size -> ``[tokens, width]`` float32 (ViT-H: 257 x 1280)."""
        module = self.module
        x = self.pixels(image).to(module.device, module.dtype)
        states: Tensor = module(pixel_values=x, output_hidden_states=True).hidden_states[-2][0]
        return states.float().cpu()


class WanVae:
    """Wan2.1's causal VAE: 16 channels, stride (4, 8, 8), its mode, whitened per channel.

    A reference is encoded alone, as a video of one frame; causality makes that the first latent
    frame of any video that begins with it.

    Args:
        module: ``diffusers.AutoencoderKLWan``.
        sha256: of the weights.
    """

    def __init__(self, module: Any, sha256: str) -> None:
        self.module = module.eval().requires_grad_(False)
        self.fingerprint = self.named(sha256, module.dtype)
        self.channels = int(module.config.z_dim)
        shape = (-1, 1, 1, 1)
        self.mean = torch.tensor(module.config.latents_mean, dtype=torch.float32).view(shape)
        self.std = torch.tensor(module.config.latents_std, dtype=torch.float32).view(shape)

    @staticmethod
    def named(sha256: str, dtype: torch.dtype) -> str:
        """The fingerprint."""
        return f"wan-vae-{sha256[:16]}-{_SHORT[dtype]}"

    @classmethod
    def load(
        cls,
        weights: str | Path,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ) -> WanVae:
        """Read ``Wan2.1_VAE.pth`` or a folder of diffusers.

        Raises:
            ModelError: a file is missing or holds something else.
        """
        from s2v.model.checkpoints.frozen import load_vae

        return cls(load_vae(weights, dtype=dtype).to(device), fingerprint(weights))

    @torch.no_grad()
    def encode(self, video: Pixels) -> Tensor:
        """``[F, H, W, 3]`` -> ``[C, (F-1)/4+1, H/8, W/8]`` float32.

        Raises:
            ModelError: sizes that the strides do not divide.
        """
        frames, height, width, _ = video.shape
        if (frames - 1) % 4 or height % 8 or width % 8:
            raise ModelError(
                f"a video of {frames} frames of {height} x {width}: Wan's VAE takes 4n+1 frames "
                "and sides that 8 divides"
            )
        x = torch.tensor(video, dtype=torch.float32).permute(3, 0, 1, 2)[None] / 127.5 - 1
        coded = self.module.encode(x.to(self.module.device, self.module.dtype))
        mode: Tensor = coded.latent_dist.mode()[0].float().cpu()
        return (mode - self.mean) / self.std

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Pixels:
        """``[C, T, H, W]`` -> ``[4 (T-1) + 1, 8 H, 8 W, 3]``."""
        z = latents.float().cpu() * self.std + self.mean
        video = self.module.decode(z[None].to(self.module.device, self.module.dtype)).sample[0]
        pixels = (video.float().cpu().clamp(-1, 1) + 1) * 127.5
        return np.asarray(pixels.round().byte().permute(1, 2, 3, 0).contiguous().numpy(), np.uint8)
