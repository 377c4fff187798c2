"""The authors' code and the port of transformers, with the same weights, give the same boxes.

So neither adapter has the order of tokens, colours, axes or layers wrong, unless both have it wrong
in the same way. It is also what found two faults of transformers 5 that are mended in the adapter.
"""

from __future__ import annotations

import re

import numpy as np
import pytest
import tiny_models
import torch
from detect_models import detector, noise, phrase, written
from safetensors.torch import save_file

from s2v.datapipe.backends.grounding import SEPARATORS
from s2v.datapipe.backends.grounding_dino import positions
from s2v.datapipe.roles import Detector

SWIN = "model.backbone.conv_encoder.model"
BLOCK = rf"{SWIN}.encoder.layers.\1.blocks.\2"

#: Names of the authors' code -> of the port; parts in a row are split off a joint projection.
RENAMED = [
    (r"backbone\.0\.patch_embed\.proj", rf"{SWIN}.embeddings.patch_embeddings.projection"),
    (r"backbone\.0\.patch_embed\.norm", rf"{SWIN}.embeddings.norm"),
    (r"backbone\.0\.norm(\d)", lambda m: f"{SWIN}.hidden_states_norms.stage{int(m[1]) + 1}"),
    (r"backbone\.0\.layers\.(\d)\.downsample", rf"{SWIN}.encoder.layers.\1.downsample"),
    (r"backbone\.0\.layers\.(\d)\.blocks\.(\d)\.norm1", rf"{BLOCK}.layernorm_before"),
    (r"backbone\.0\.layers\.(\d)\.blocks\.(\d)\.norm2", rf"{BLOCK}.layernorm_after"),
    (r"backbone\.0\.layers\.(\d)\.blocks\.(\d)\.mlp\.fc1", rf"{BLOCK}.intermediate.dense"),
    (r"backbone\.0\.layers\.(\d)\.blocks\.(\d)\.mlp\.fc2", rf"{BLOCK}.output.dense"),
    (r"backbone\.0\.layers\.(\d)\.blocks\.(\d)\.attn\.proj", rf"{BLOCK}.attention.output.dense"),
    (r"backbone\.0\.layers\.(\d)\.blocks\.(\d)\.attn", rf"{BLOCK}.attention.self"),
    (r"bert\.", "model.text_backbone."),
    (r"feat_map", "model.text_projection"),
    (r"input_proj", "model.input_proj_vision"),
    (r"transformer\.level_embed", "model.level_embed"),
    (r"transformer\.tgt_embed", "model.query_position_embeddings"),
    (r"transformer\.enc_out_bbox_embed", "model.encoder_output_bbox_embed"),
    (r"transformer\.(enc_output)", r"model.\1"),
    (r"transformer\.decoder\.norm", "model.decoder.layer_norm"),
    (r"transformer\.decoder\.ref_point_head", "model.decoder.reference_points_head"),
    (r"transformer\.encoder\.layers\.(\d)", r"model.encoder.layers.\1.deformable_layer"),
    (r"transformer\.encoder\.text_layers\.(\d)", r"model.encoder.layers.\1.text_enhancer_layer"),
    (r"transformer\.encoder\.fusion_layers\.(\d)", r"model.encoder.layers.\1.fusion_layer"),
    (r"transformer\.decoder\.layers\.(\d)", r"model.decoder.layers.\1"),
    (r"(deformable_layer)\.norm1", r"\1.self_attn_layer_norm"),
    (r"(deformable_layer)\.norm2", r"\1.final_layer_norm"),
    (r"(text_enhancer_layer)\.norm1", r"\1.layer_norm_before"),
    (r"(text_enhancer_layer)\.norm2", r"\1.layer_norm_after"),
    (r"(decoder\.layers\.\d)\.norm1", r"\1.encoder_attn_layer_norm"),
    (r"(decoder\.layers\.\d)\.norm2", r"\1.self_attn_layer_norm"),
    (r"(decoder\.layers\.\d)\.norm3", r"\1.final_layer_norm"),
    (r"catext_norm", "encoder_attn_text_layer_norm"),
    (r"ca_text", "encoder_attn_text"),
    (r"cross_attn", "encoder_attn"),
    (r"linear(\d)", r"fc\1"),
    (r"gamma_v", "vision_param"),
    (r"gamma_l", "text_param"),
    (r"layer_norm_v\.", "layer_norm_vision."),
    (r"layer_norm_l\.", "layer_norm_text."),
    (r"(values_|out_)?v_proj", r"\1vision_proj"),
    (r"(values_|out_)?l_proj", r"\1text_proj"),
]
UNUSED = ("bert.pooler", "relative_position_index", "transformer.decoder.bbox_embed")


def converted(theirs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict of the authors' code under the port's names."""
    ours: dict[str, torch.Tensor] = {}
    for name, tensor in theirs.items():
        if any(part in name for part in UNUSED):
            continue
        new = name
        for pattern, replacement in RENAMED:
            new = re.sub(pattern, replacement, new)  # type: ignore[arg-type]  # text or function
        joint = re.fullmatch(r"(.*)(?:\.qkv\.|\.in_proj_)(weight|bias)", new)
        if joint is None:
            ours[new] = tensor
            continue
        for part, split in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
            ours[f"{joint[1]}.{part}.{joint[2]}"] = split
    return ours


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Detector, Detector]:
    """The tiny model of the authors' code, and the port with its weights.

    The adapter refuses a folder in which a weight is missing, so every one has its counterpart.
    """
    from transformers import GroundingDinoConfig
    from transformers.models.grounding_dino import GroundingDinoImageProcessor

    root = tmp_path_factory.getbasetemp()
    theirs = written(root, "groundingdino_py")
    config = GroundingDinoConfig(
        backbone_config={
            "model_type": "swin",
            "embed_dim": 96,
            "depths": [2, 2, 6, 2],
            "num_heads": [3, 6, 12, 24],
            "window_size": 7,
            "image_size": 224,
            "out_indices": [2, 3, 4],
        },
        text_config={"model_type": "bert", **tiny_models.BERT},
        num_queries=12,
        encoder_layers=1,
        decoder_layers=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
    )
    folder = tiny_models.write_tokenizer(root / "converted")
    config.save_pretrained(folder)
    tensors = torch.load(theirs / "model.pth", weights_only=True)["model"]
    whole = {name: tensor.float().clone() for name, tensor in converted(tensors).items()}
    save_file(whole, folder / "model.safetensors", metadata={"format": "pt"})
    GroundingDinoImageProcessor(size={"shortest_edge": 96, "longest_edge": 160}).save_pretrained(
        folder
    )
    made = (
        detector(root, "groundingdino_py"),
        detector(root, "grounding_dino", weights=str(folder)),
    )
    for one in made:
        one.load()
    return made


def test_positions_are_those_of_the_authors_code() -> None:
    from groundingdino.models.GroundingDINO.bertwarper import (
        generate_masks_with_special_tokens_and_transfer_map,
    )

    ids = torch.tensor([[101, 2001, 2002, 1012, 2003, 1012, 2004, 2005, 2006, 1012, 102]] * 2)
    _, wanted, _ = generate_masks_with_special_tokens_and_transfer_map(
        {"input_ids": ids}, sorted(SEPARATORS.values()), None
    )
    assert torch.equal(positions(ids), wanted)
    assert wanted[0].tolist() == [0, 0, 1, 2, 0, 1, 0, 1, 2, 3, 0]


PHRASES = [phrase("a man in a red shirt"), phrase("a cat"), phrase("the blue car")]


@pytest.mark.parametrize("size", [(96, 128), (150, 96), (96, 160)])
def test_same_weights_same_tokens_same_scores_and_boxes(
    pair: tuple[Detector, Detector], size: tuple[int, int]
) -> None:
    images = [noise(*size, seed) for seed in range(2)]  # of a size that neither resizes
    theirs, ours = (one.ground(images, PHRASES) for one in pair)
    assert any(theirs)
    for a, b in zip(theirs, ours, strict=True):
        assert [hit.phrase for hit in a] == [hit.phrase for hit in b]
        assert np.allclose([h.box for h in a], [h.box for h in b], atol=0.02)
        assert np.allclose([h.score for h in a], [h.score for h in b], atol=2e-4)
