"""Tiny models on disk for the production adapters of faces, embeddings and aesthetics.

None of them knows a face or a picture: the detector finds red squares, the rest is random but
seeded. What runs is the real library code over them: insightface's SCRFD and ArcFace classes on
onnxruntime, open_clip's CLIP with its own pre-processing and tokenizer.

    weights = insightface_folder(tmp_path / "faces")        # roles.faces.weights
    config, weights = open_clip_files(tmp_path / "clip")    # roles.embedder.model, .weights
    head = aesthetic_head(tmp_path / "head.pth")            # roles.aesthetics.head
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from s2v.datapipe.base.embedded.net import require

CELL = 4  # the detector looks at 4 x 4 pixel means
CLIP_DIM = 64
FACE_DIM = 512
RED = (230, 25, 25)

#: Where the five points of a red square lie in it: ArcFace's template, as shares of its side.
POINTS = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655],
     [70.7299, 92.2041]]
) / 112.0  # fmt: skip


def insightface_folder(folder: Path, seed: int = 0) -> Path:
    """A model pack: ``det_tiny.onnx`` and ``rec_tiny.onnx``.

    Args:
        folder: made if absent.
        seed: of the embedder; another seed, other vectors.

    Returns:
        ``folder``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "det_tiny.onnx").write_bytes(_detector().SerializeToString())
    (folder / "rec_tiny.onnx").write_bytes(_recogniser(seed).SerializeToString())
    return folder


def face_picture(
    width: int, height: int, squares: list[tuple[int, int, int]], texture: int = 0
) -> np.ndarray:
    """A grey picture with red squares ``(x, y, side)``, which the tiny detector finds.

    Args:
        width: pixels.
        height: pixels.
        squares: whole pixels; at least 24 a side, a side's length apart.
        texture: seed of a pattern in their green channel, so that their vectors differ.

    Returns:
        RGB uint8 ``[height, width, 3]``.
    """
    image = np.full((height, width, 3), 128, np.uint8)
    for n, (x, y, side) in enumerate(squares):
        image[y : y + side, x : x + side] = RED
        rng = np.random.default_rng([texture, n])
        coarse = rng.integers(0, 50, (4, 4), dtype=np.uint8)
        fine = np.kron(coarse, np.ones((-(-side // 4),) * 2, np.uint8))[:side, :side]
        image[y : y + side, x : x + side, 1] = fine
        image[y : y + side, x : x + side, 2] = fine
    return image


def _detector() -> Any:
    """SCRFD's nine outputs, computed instead of learned.

    At each anchor of stride s a window of 8 s pixels is looked at. Its red mass gives the side of
    a square, its first moments the centre. A window whose rim is red cuts a square, and one whose
    second moments are not a square's holds two: both say no. So all anchors that see one whole
    square give one box.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes: list[Any] = []
    weights: list[Any] = []

    def constant(name: str, value: Any) -> str:
        weights.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
        return name

    def node(kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    # Red less the mean of the others, where the input is (x - 127.5) / 128: 0 for grey, 1 for RED.
    redness = np.array([1.0, -0.5, -0.5], np.float32).reshape(1, 3, 1, 1) * (128 / 150)
    red = node("Conv", ["input", constant("redness", redness)], "raw")
    red = node("Clip", [red, constant("zero", 0.0), constant("one", 1.0)], "red")
    cells = node("AveragePool", [red], "cells", kernel_shape=[CELL, CELL], strides=[CELL, CELL])
    scores, boxes, points = [], [], []
    for stride in (8, 16, 32):
        step, n = stride // CELL, 8 * stride // CELL  # in cells; n is the window's side
        half = n // 2
        at = (np.arange(n + 2) - half - 0.5) / step  # of cell centres, in strides off the anchor
        inside = np.zeros((n + 2, n + 2))
        inside[1:-1, 1:-1] = 1
        kernels = np.stack(
            [
                inside,
                inside * at[None],
                inside * at[:, None],
                inside * (at[None] ** 2 + at[:, None] ** 2),
                1 - inside,
            ]
        )[:, None]
        seen = node(
            "Conv",
            [cells, constant(f"window{stride}", kernels / step**2)],
            f"seen{stride}",
            strides=[step, step],
            pads=[half + 1, half + 1, n + 1 - half - step, n + 1 - half - step],
        )
        parts = [f"{name}{stride}" for name in ("mass", "mx", "my", "mr", "rim")]
        nodes.append(helper.make_node("Split", [seen], parts, axis=1, num_outputs=5))
        mass, mx, my, mr, rim = parts
        safe = node("Max", [mass, constant(f"least{stride}", 0.5)], f"safe{stride}")
        side = node("Sqrt", [safe], f"side{stride}")
        half_side = node("Mul", [side, constant(f"half{stride}", 0.5)], f"half_side{stride}")
        cx, cy = (node("Div", [m, safe], f"c{m}") for m in (mx, my))
        # Spread about the centre over that of a square of this mass, mass / 6: 1 for one square.
        about = node("Sub", [node("Div", [mr, safe], f"rr{stride}"),
                             node("Add", [node("Mul", [cx, cx], f"xx{stride}"),
                                          node("Mul", [cy, cy], f"yy{stride}")], f"cc{stride}")],
                     f"about{stride}")  # fmt: skip
        sixth = node("Mul", [safe, constant(f"sixth{stride}", 1.2 / 6)], f"square{stride}")
        wide = node("Relu", [node("Sub", [about, sixth], f"over{stride}")], f"wide{stride}")
        bad = node("Add", [node("Mul", [wide, constant(f"k{stride}", 40.0)], f"wider{stride}"),
                           node("Mul", [rim, constant(f"l{stride}", 64.0)], f"cut{stride}")],
                   f"bad{stride}")  # fmt: skip
        # From a square of one stride a side; more than twice its area adds nothing.
        good = node("Min", [mass, constant(f"enough{stride}", 2.0)], f"good{stride}")
        gain = node("Sub", [good, constant(f"floor{stride}", 1.0)], f"gain{stride}")
        gain = node("Mul", [gain, constant(f"slope{stride}", 8.0)], f"slant{stride}")
        score = node("Sigmoid", [node("Sub", [gain, bad], f"logit{stride}")], f"sure{stride}")
        none = node("Mul", [score, constant(f"never{stride}", 0.0)], f"none{stride}")
        sides = [
            node("Sub", [half_side, cx], f"left{stride}"),
            node("Sub", [half_side, cy], f"top{stride}"),
            node("Add", [half_side, cx], f"right{stride}"),
            node("Add", [half_side, cy], f"bottom{stride}"),
        ]
        marks = []
        for index, (px, py) in enumerate(POINTS - 0.5):
            for axis, share, centre in (("x", px, cx), ("y", py, cy)):
                name = f"p{index}{axis}{stride}"
                part = node("Mul", [side, constant(f"{name}s", share)], f"{name}o")
                marks.append(node("Add", [part, centre], name))

        def rows(values: list[str], columns: int, name: str) -> str:
            """``[1, 2 * columns, h, w]`` for two anchors to SCRFD's ``[h * w * 2, columns]``."""
            joined = node("Concat", values, f"{name}_planes", axis=1)
            turned = node("Transpose", [joined], f"{name}_turned", perm=[0, 2, 3, 1])
            shape = numpy_helper.from_array(np.array([-1, columns], np.int64), f"{name}_shape")
            weights.append(shape)
            return node("Reshape", [turned, f"{name}_shape"], name)

        scores.append(rows([score, none], 1, f"score_{stride}"))
        boxes.append(rows(sides * 2, 4, f"bbox_{stride}"))
        points.append(rows(marks * 2, 10, f"kps_{stride}"))
    graph = helper.make_graph(
        nodes,
        "red_squares",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, "h", "w"])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", columns])
            for names, columns in ((scores, 1), (boxes, 4), (points, 10))
            for name in names
        ],
        weights,
    )
    return _model(onnx, helper, graph)


def _recogniser(seed: int) -> Any:
    """112 x 112 to 512: a random projection of 8 x 8 means."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng([2024, seed])
    projection = rng.standard_normal((3 * 14 * 14, FACE_DIM)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node(
                "AveragePool", ["input"], ["cells"], kernel_shape=[8, 8], strides=[8, 8]
            ),
            helper.make_node("Flatten", ["cells"], ["flat"]),
            helper.make_node("MatMul", ["flat", "projection"], ["embedding"]),
        ],
        "random_projection",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, 112, 112])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", FACE_DIM])],
        [numpy_helper.from_array(projection, "projection")],
    )
    return _model(onnx, helper, graph)


def _model(onnx: Any, helper: Any, graph: Any) -> Any:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 9
    onnx.checker.check_model(model)
    return model


def open_clip_config(path: Path, *, image_size: int = 64) -> Path:
    """A CLIP of 3.4 million parameters, nearly all of them its token table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    config = {
        "embed_dim": CLIP_DIM,
        "vision_cfg": {
            "image_size": image_size, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16,
        },
        "text_cfg": {
            "context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2,
        },
    }  # fmt: skip
    path.write_text(json.dumps(config))
    return path


def open_clip_files(folder: Path, seed: int = 0, suffix: str = ".safetensors") -> tuple[Path, Path]:
    """A configuration and a random state dict of it.

    Returns:
        What ``model`` and ``weights`` are set to.
    """
    open_clip = require("open_clip")
    import torch

    config = open_clip_config(folder / "tiny.json")
    weights = folder / f"tiny-{seed}{suffix}"
    settings = json.loads(config.read_text())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = open_clip.model.CLIP(**settings)
        # Fresh layers are all but blind: larger ones tell pictures apart.
        for name, value in model.visual.named_parameters():
            if value.ndim > 1 and "embedding" not in name:
                torch.nn.init.normal_(value, std=2.0 / value[0].numel() ** 0.5)
    state = {
        name: value.detach().contiguous().clone() for name, value in model.state_dict().items()
    }
    _save(state, weights)
    return config, weights


def aesthetic_head(path: Path, *, kind: str = "mlp", dim: int = CLIP_DIM, seed: int = 0) -> Path:
    """A random head with the names and widths of LAION's MLP, or of its ``linear`` one."""
    import torch

    rng = np.random.default_rng([7, seed])
    widths = {"mlp": (dim, 1024, 128, 64, 16, 1), "linear": (dim, 1)}[kind]
    names = {"mlp": [f"layers.{n}." for n in (0, 2, 4, 6, 7)], "linear": [""]}[kind]
    state = {}
    for name, inputs, outputs in zip(names, widths[:-1], widths[1:], strict=True):
        layer = rng.standard_normal((outputs, inputs)) / inputs**0.5
        state[f"{name}weight"] = torch.tensor(layer, dtype=torch.float32)
        state[f"{name}bias"] = torch.full((outputs,), 5.0 if outputs == 1 else 0.0)
    path.parent.mkdir(parents=True, exist_ok=True)
    _save(state, path)
    return path


def _save(state: dict[str, Any], path: Path) -> None:
    """As safetensors or as torch's own, by the suffix."""
    import torch
    from safetensors.torch import save_file

    if path.suffix == ".safetensors":
        save_file(state, str(path))
    else:
        torch.save(state, path)
