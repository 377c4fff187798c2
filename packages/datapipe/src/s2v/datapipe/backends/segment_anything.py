"""Segment Anything 1.0 (``segment-anything``): box -> mask of the whole frame.

Weights are one published checkpoint, ``sam_vit_b_01ec64.pth``, ``sam_vit_l_0b3195.pth`` or
``sam_vit_h_4b8939.pth``; which one it is shows in its own tensors. The image is embedded once per
frame, whatever the number of boxes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from s2v.datapipe.backends.checkpoints import fill, state_dict
from s2v.datapipe.backends.torch_nets import Precision, computing, device, widen
from s2v.datapipe.backends.weights import digest, existing_file
from s2v.datapipe.base.media import boxes as geometry
from s2v.datapipe.base.media import masks as mask_geometry
from s2v.datapipe.base.settings import parse
from s2v.datapipe.roles import Box, Image, Mask, Segment, WeightsError

if TYPE_CHECKING:
    import torch

_WHAT: Final = "a Segment Anything checkpoint, such as sam_vit_b_01ec64.pth"

ModelType = Literal["vit_b", "vit_l", "vit_h"]


class Architecture(BaseModel):
    """Sizes of a SAM; the published ones are in :data:`PUBLISHED`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image_size: int = Field(default=1024, ge=32, description="longer side of the input, pixels")
    patch_size: int = 16
    embed_dim: int
    depth: int
    heads: int
    global_attention: tuple[int, ...]
    window: int = 14
    channels: int = Field(default=256, description="of the image embedding and of the prompts")
    decoder_heads: int = 8
    decoder_mlp: int = 2048


PUBLISHED: Final[dict[str, Architecture]] = {
    "vit_b": Architecture(embed_dim=768, depth=12, heads=12, global_attention=(2, 5, 8, 11)),
    "vit_l": Architecture(embed_dim=1024, depth=24, heads=16, global_attention=(5, 11, 17, 23)),
    "vit_h": Architecture(embed_dim=1280, depth=32, heads=16, global_attention=(7, 15, 23, 31)),
}


class Options(BaseModel):
    """Options of this backend."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weights: str = Field(description="checkpoint file, .pth")
    model_type: Literal["auto"] | ModelType = Field(
        default="auto", description="else as the checkpoint's own tensors say"
    )
    architecture: Architecture | None = Field(
        default=None, description="of a SAM of other sizes than the published ones"
    )
    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:0, ...")
    dtype: Precision = Field(default="float32", description="float16 on GPUs; changes masks")
    multimask: bool = Field(
        default=False,
        description="ask for three masks and take the best by predicted IoU and by agreement with "
        "the box; off, as OpenS2V does: a box leaves little to guess",
    )
    box_batch: int = Field(default=16, ge=1, description="boxes decoded at once")


def segmenter(options: dict[str, Any], where: str, shared: dict[str, Any]) -> SegmentAnything:
    """Factory for :mod:`s2v.datapipe.backends.registry`.

    Raises:
        SettingsError: unknown or missing options.
        WeightsError: the checkpoint is not there.
    """
    return SegmentAnything(parse(Options, options, where), where)


class SegmentAnything:
    """SAM behind the role's Protocol."""

    def __init__(self, options: Options, where: str = "roles.segmenter") -> None:
        self.options = options
        self._where = where
        self._digest = digest([self._file()])
        self._predictor: Any = None

    @property
    def model_id(self) -> str:
        """Name, digest of the checkpoint, and the options that masks depend on."""
        opts = self.options
        return f"segment-anything-1+{self._digest}+dtype={opts.dtype},multimask={opts.multimask}"

    def load(self) -> None:
        """Read the checkpoint and build the net that it is of.

        Raises:
            WeightsError: it is missing, cut short, another model's, or not what the run started
                with.
            SettingsError: the device is not there.
        """
        from segment_anything import SamPredictor

        path = self._file()
        if digest([path]) != self._digest:
            raise WeightsError(
                f"{path}: not the file that this run started with; every machine needs the same"
            )
        on = device(self.options.device, self._where)
        computing(on, self.options.dtype, self._where)
        tensors = state_dict(path, _WHAT)
        name, sizes = self._sizes(tensors, path)
        net = build(sizes)
        fill(net, tensors, path, name)
        self._on = on
        self._predictor = SamPredictor(net.to(on).eval())

    def segment(self, image: Image, boxes: Sequence[Box], banks: Sequence[str]) -> list[Segment]:
        """Masks ``[H, W]`` of the whole frame, one per box, in order.

        The score is SAM's own prediction of the mask's IoU with the truth; it was trained by
        regression and may leave 0..1 a little. A box without a pixel gives an empty mask without
        a score.
        """
        import torch

        height, width = image.shape[:2]
        clipped = [geometry.clip(box, width, height) for box in boxes]
        usable = [n for n, box in enumerate(clipped) if geometry.area(box) > 0]
        made = [Segment(np.zeros((height, width), np.bool_)) for _ in boxes]
        if not usable:
            return made
        shown = np.ascontiguousarray(widen(image))
        with torch.inference_mode(), computing(self._on, self.options.dtype, self._where):
            self._predictor.set_image(shown)
            for start in range(0, len(usable), self.options.box_batch):
                chosen = usable[start : start + self.options.box_batch]
                found, scores = self._decode([clipped[n] for n in chosen])
                for n, masks, own in zip(chosen, found, scores, strict=True):
                    whole = masks[:, :height, :width]
                    best = choose(whole, own, clipped[n])
                    made[n] = Segment(np.ascontiguousarray(whole[best]), round(float(own[best]), 4))
            self._predictor.reset_image()
        return made

    def _decode(
        self, boxes: Sequence[Box]
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
        """Masks ``[boxes, candidates, H, W]`` of the image shown, and their predicted IoU."""
        import torch

        predictor = self._predictor
        asked = torch.tensor(boxes, dtype=torch.float32, device=self._on)
        asked = predictor.transform.apply_boxes_torch(asked, predictor.original_size)
        masks, scores, _ = predictor.predict_torch(
            point_coords=None,
            point_labels=None,
            boxes=asked,
            multimask_output=self.options.multimask,
        )
        return masks.cpu().numpy(), scores.float().cpu().numpy()

    def _file(self) -> Path:
        return existing_file(self.options.weights, _WHAT)

    def _sizes(self, tensors: Mapping[str, torch.Tensor], path: Path) -> tuple[str, Architecture]:
        if self.options.architecture is not None:
            return "the SAM that architecture describes", self.options.architecture
        position = tensors.get("image_encoder.pos_embed")
        if position is None:
            raise WeightsError(
                f"{path}: no image_encoder.pos_embed in it; expected {_WHAT} (SAM 2 is another "
                "model)"
            )
        seen = {sizes.embed_dim: name for name, sizes in PUBLISHED.items()}
        found = seen.get(int(position.shape[-1]))
        wanted = self.options.model_type
        if found is None:
            raise WeightsError(
                f"{path}: an image encoder of {int(position.shape[-1])} channels, and "
                f"{', '.join(sorted(PUBLISHED))} have {', '.join(map(str, sorted(seen)))}; name "
                "its sizes in architecture"
            )
        if wanted not in ("auto", found):
            raise WeightsError(f"{path}: is a {found}, but model_type says {wanted}")
        return found, PUBLISHED[found]


def build(sizes: Architecture) -> Any:
    """A SAM of these sizes with random weights, from the package's own classes.

    The package's builders know the published sizes only; for those this gives the same net.
    """
    import torch
    from segment_anything.modeling import (
        ImageEncoderViT,
        MaskDecoder,
        PromptEncoder,
        Sam,
        TwoWayTransformer,
    )

    grid = sizes.image_size // sizes.patch_size
    return Sam(
        image_encoder=ImageEncoderViT(
            depth=sizes.depth,
            embed_dim=sizes.embed_dim,
            img_size=sizes.image_size,
            mlp_ratio=4,
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
            num_heads=sizes.heads,
            patch_size=sizes.patch_size,
            qkv_bias=True,
            use_rel_pos=True,
            global_attn_indexes=sizes.global_attention,
            window_size=sizes.window,
            out_chans=sizes.channels,
        ),
        prompt_encoder=PromptEncoder(
            embed_dim=sizes.channels,
            image_embedding_size=(grid, grid),
            input_image_size=(sizes.image_size, sizes.image_size),
            mask_in_chans=16,
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(
                depth=2,
                embedding_dim=sizes.channels,
                mlp_dim=sizes.decoder_mlp,
                num_heads=sizes.decoder_heads,
            ),
            transformer_dim=sizes.channels,
            iou_head_depth=3,
            iou_head_hidden_dim=256,
        ),
        pixel_mean=[123.675, 116.28, 103.53],
        pixel_std=[58.395, 57.12, 57.375],
    )


def choose(masks: npt.NDArray[np.bool_], scores: npt.NDArray[np.float32], box: Box) -> int:
    """Which of several masks of one box to take.

    Args:
        masks: ``[n, H, W]``.
        scores: predicted IoU of each, ``[n]``.
        box: the prompt.

    Returns:
        Index of the largest product of predicted IoU and :func:`agreement`; the first of equals.
    """
    if len(masks) == 1:
        return 0
    worth = [
        max(float(score), 0.0) * agreement(mask, box)
        for mask, score in zip(masks, scores, strict=True)
    ]
    return int(np.argmax(worth))


def agreement(mask: Mask, box: Box) -> float:
    """IoU of the box around a mask with the box asked for: a part of the thing, or more than it,
    fills the box badly however sure the net is of its outline."""
    around = mask_geometry.bounding_box(mask)
    return 0.0 if around is None else geometry.iou(around, box)
