# SPDX-License-Identifier: Apache-2.0
"""Subject-to-video with Phantom-Wan in diffusers: one to four reference images, or none.

    from diffusers import DiffusionPipeline
    pipe = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    frames = pipe("a rabbit runs", references=[Image.open("rabbit.png")]).frames[0]

It needs nothing but diffusers and transformers. What the released code does is kept: a reference
is fitted into the frame, centred and padded with white; its latents stand behind the video's in
time and are put back before every step; three branches (negative prompt with zero latents in the
references' slots; negative prompt with references; prompt with references) and two scales.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from diffusers import WanPipeline
from diffusers.pipelines.wan.pipeline_output import WanPipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image, ImageOps

MAX_REFERENCES = 4
#: Wan2.1's own negative prompt, which the release uses as the unconditional text.
NEGATIVE_PROMPT = (
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，"
    "低质量，JPEG压缩残留，丑陋的，残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，"
    "形态畸形的肢体，手指融合，静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走"
)


def fit_on_white(image: Image.Image, height: int, width: int) -> Image.Image:
    """Scale to fit inside ``width x height`` keeping the aspect (Lanczos), centre, pad white.

    Sizes are cut, not rounded, as in the release. Transparent pixels lie on white, as the padding:
    the release lets what is hidden below them show, mostly black.
    """
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        cut_out = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", cut_out.size, (255,) * 4), cut_out)
    image = image.convert("RGB")
    ratio = image.width / image.height
    if ratio > width / height:
        size = (width, max(1, int(width / ratio)))
    else:
        size = (max(1, int(height * ratio)), height)
    image = image.resize(size, Image.Resampling.LANCZOS)
    left, top = (width - size[0]) // 2, (height - size[1]) // 2
    border = (left, top, width - size[0] - left, height - size[1] - top)
    return ImageOps.expand(image, border, fill=(255, 255, 255))


class PhantomPipeline(WanPipeline):  # type: ignore[misc]  # diffusers is not typed here
    """Text and reference images to video.

    Components are WanPipeline's: tokenizer, umT5 text encoder, Wan's VAE, UniPC scheduler and a
    ``WanTransformer3DModel`` with the weights of Phantom-Wan.
    """

    def encode_references(
        self, references: list[Image.Image], height: int, width: int, device: torch.device
    ) -> torch.Tensor:
        """Latents ``[1, C, K, height / 8, width / 8]``, each image coded on its own."""
        config, dtype = self.vae.config, self.vae.dtype
        shape = (1, config.z_dim, 1, 1, 1)
        mean = torch.tensor(config.latents_mean, device=device, dtype=dtype).view(shape)
        std = torch.tensor(config.latents_std, device=device, dtype=dtype).view(shape)
        latents = []
        for image in references:
            pixels = np.asarray(fit_on_white(image, height, width), dtype=np.float32)
            frame = torch.from_numpy(pixels / 127.5 - 1).permute(2, 0, 1)[None, :, None]
            coded = self.vae.encode(frame.to(device, dtype)).latent_dist.mode()
            latents.append((coded - mean) / std)
        out: torch.Tensor = torch.cat(latents, dim=2).float()
        return out

    def _set_timesteps(self, steps: int, device: torch.device) -> torch.Tensor:
        """The release's grid: 0.999 to 0 in equal parts, before the scheduler's shift."""
        if self.scheduler.config.get("use_flow_sigmas"):
            grid = np.linspace(0.999, 0, steps + 1)[:-1]
            self.scheduler.set_timesteps(sigmas=grid, device=device)
        else:
            self.scheduler.set_timesteps(steps, device=device)
        self.scheduler.set_begin_index(0)
        timesteps: torch.Tensor = self.scheduler.timesteps
        return timesteps

    def _check(self, references: Any, height: int, width: int, num_frames: int) -> None:
        if self.transformer.config.image_dim is not None:
            raise ValueError(
                "this transformer takes image tokens; PhantomPipeline is for networks without them"
            )
        if len(references) > MAX_REFERENCES:
            raise ValueError(
                f"{len(references)} references, at most {MAX_REFERENCES} are supported"
            )
        for image in references:
            if not isinstance(image, Image.Image):
                raise TypeError(f"references must be PIL images, not {type(image).__name__}")
        if (num_frames - 1) % self.vae_scale_factor_temporal:
            raise ValueError(f"num_frames {num_frames} must be 4n + 1 (1, 5, 9, ..., 81)")
        stride = self.vae_scale_factor_spatial * self.transformer.config.patch_size[1]
        if height % stride or width % stride:
            raise ValueError(f"{width} x {height} must divide by {stride}")

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        references: list[Image.Image] | None = None,
        negative_prompt: str | None = None,
        height: int = 480,
        width: int = 832,
        num_frames: int = 81,
        num_inference_steps: int = 50,
        guidance_scale_image: float = 5.0,
        guidance_scale_text: float = 7.5,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        output_type: str = "np",
        return_dict: bool = True,
        attention_kwargs: dict[str, Any] | None = None,
        callback_on_step_end: Callable[..., dict[str, Any]] | None = None,
        max_sequence_length: int = 512,
    ) -> WanPipelineOutput | tuple[Any]:
        """Make one video per prompt; all prompts share the references.

        Args:
            prompt: what happens; name each reference's subject in it.
            references: zero to four images, in the order in which the prompt names them.
            negative_prompt: of both unconditional branches; the release's without it.
            height: pixels, a multiple of 16.
            width: pixels, a multiple of 16.
            num_frames: 4n + 1.
            num_inference_steps: steps of the scheduler.
            guidance_scale_image: weight of "references against none".
            guidance_scale_text: weight of "prompt against none".
            generator: of the first noise.
            latents: the first noise itself, ``[B, 16, T + K, height / 8, width / 8]``.
            prompt_embeds: in place of ``prompt``, padded with zeros to 512 rows.
            negative_prompt_embeds: in place of ``negative_prompt``.
            output_type: ``np``, ``pt``, ``pil`` or ``latent``.
            return_dict: a ``WanPipelineOutput``, else a tuple.
            attention_kwargs: given to the transformer; ``{"scale": s}`` weighs a LoRA.
            callback_on_step_end: ``(pipe, step, t, {"latents": ...})``, may return new latents.
            max_sequence_length: rows of text.
        """
        references = list(references or [])
        self._check(references, height, width, num_frames)
        device = self._execution_device
        if negative_prompt is None and negative_prompt_embeds is None:
            negative_prompt = NEGATIVE_PROMPT
        batch = len(prompt) if isinstance(prompt, list) else 1
        if prompt_embeds is not None:
            batch = prompt_embeds.shape[0]
        negatives: str | list[str] | None = negative_prompt
        if isinstance(prompt, list) and isinstance(negative_prompt, str):
            negatives = [negative_prompt] * batch
        text, null = self.encode_prompt(
            prompt=prompt,
            negative_prompt=negatives,
            do_classifier_free_guidance=True,
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
            max_sequence_length=max_sequence_length,
            device=device,
        )
        dtype = self.transformer.dtype
        text, null = text.to(dtype), null.to(dtype)
        K = len(references)
        T = (num_frames - 1) // self.vae_scale_factor_temporal + 1
        h, w = (n // self.vae_scale_factor_spatial for n in (height, width))
        channels = self.transformer.config.in_channels
        shape = (batch, channels, T + K, h, w)
        if latents is None:
            latents = randn_tensor(shape, generator=generator, device=device, dtype=torch.float32)
        elif tuple(latents.shape) != shape:
            raise ValueError(f"latents are {tuple(latents.shape)}, {shape} are needed")
        z = latents.to(device, torch.float32)
        tail = z.new_zeros(batch, channels, K, h, w)
        if K:
            coded = self.encode_references(references, height, width, device)
            tail = coded.to(z).expand(batch, -1, -1, -1, -1)

        def velocity(tail_: torch.Tensor, embeds: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            frames = torch.cat([z[:, :, :T], tail_], dim=2).to(dtype)
            out: torch.Tensor = self.transformer(
                hidden_states=frames,
                timestep=t.expand(batch),
                encoder_hidden_states=embeds,
                attention_kwargs=attention_kwargs,
                return_dict=False,
            )[0]
            return out.float()

        timesteps = self._set_timesteps(num_inference_steps, device)
        with self.progress_bar(total=len(timesteps)) as bar:
            for i, t in enumerate(timesteps):
                with_text = velocity(tail, text, t)
                with_image = velocity(tail, null, t)
                # Without references the first two branches are the same one.
                neither = velocity(torch.zeros_like(tail), null, t) if K else with_image
                guided = (
                    neither
                    + guidance_scale_image * (with_image - neither)
                    + guidance_scale_text * (with_text - with_image)
                )
                z = self.scheduler.step(guided, t, z, return_dict=False)[0]
                if callback_on_step_end is not None:
                    told = callback_on_step_end(self, i, t, {"latents": z})
                    z = (told or {}).get("latents", z)
                bar.update()
        z = z[:, :, :T]
        video = z if output_type == "latent" else self._decoded(z, output_type)
        self.maybe_free_model_hooks()
        return WanPipelineOutput(frames=video) if return_dict else (video,)

    def _decoded(self, latents: torch.Tensor, output_type: str) -> Any:
        config = self.vae.config
        latents = latents.to(self.vae.dtype)
        shape = (1, config.z_dim, 1, 1, 1)
        mean = torch.tensor(config.latents_mean).view(shape).to(latents)
        std = torch.tensor(config.latents_std).view(shape).to(latents)
        video = self.vae.decode(latents * std + mean, return_dict=False)[0]
        return self.video_processor.postprocess_video(video, output_type=output_type)
