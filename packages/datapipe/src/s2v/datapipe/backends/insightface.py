"""Faces by insightface: SCRFD finds, ArcFace recognises (Phantom, supplement 4).

The library is MIT, **its pretrained packs are for non-commercial research only**, so nothing is
ever downloaded here and no pack is a default: a user who may use one, or has models of their
own, names the folder.

    [roles.faces]
    backend = "insightface"
    weights = "~/.insightface/models/antelopev2"  # *.onnx, at least a detector and a recogniser
    det_size = 640

Read in the library (2.1): a folder given as ``name`` is loaded as it is; any other name is
downloaded without a checksum. An ONNX file with five outputs or more is taken as SCRFD, a square
input of 112 pixels or more as ArcFace; other files of a pack are opened and let go again.
A pack with a ``manifest.json`` of its version 2 says itself which file is what.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal

import cv2
import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from s2v.datapipe.backends.weights import cause, digest, existing_file
from s2v.datapipe.base.embedded.net import check_image, one_cv_thread, require, unit
from s2v.datapipe.base.media.boxes import area
from s2v.datapipe.base.settings import parse
from s2v.datapipe.roles import Face, Image, WeightsError

REVISION: Final = 1  # raise when pre- or post-processing changes the answers
PADDING: Final = 0.25  # of width and height, on every side (OpenS2V-5M, step 1)
GREY: Final = 128
_ALIGNED: Final = (112, 128, 224, 256)  # sides of aligned faces that insightface can cut

_EXPECTED: Final = (
    "a folder with insightface's ONNX files, a detector (SCRFD) and a recogniser (ArcFace), such "
    "as an unpacked antelopev2 (its licence: non-commercial research only)"
)


class InsightFaceOptions(BaseModel):
    """Options of the backend."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weights: str | None = Field(default=None, description="folder of ONNX files; never downloaded")
    det_size: int = Field(
        default=640, ge=64, le=4096, multiple_of=32, description="pixels the frame is fitted into"
    )
    det_threshold: float = Field(
        default=0.5, gt=0, lt=1, description="insightface's own; the selection asks for more"
    )
    padding_retry: bool = Field(
        default=True,
        description="look again on the frame with grey around it when nothing is found (O): a "
        "face that fills the frame is larger than the detector was trained on",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="auto: CUDA where onnxruntime has it"
    )


def faces(options: dict[str, Any], where: str, shared: dict[str, Any]) -> InsightFace:
    """The recogniser; its folder is looked at, no weights are loaded.

    Raises:
        SettingsError: an unknown or wrong option.
        WeightsError: no folder named, or nothing in it.
    """
    del shared
    parsed = parse(InsightFaceOptions, options, where)
    if parsed.weights is None:
        raise WeightsError(f"{where}.weights is not set; expected {_EXPECTED}")
    return InsightFace(parsed.weights, parsed)


class InsightFace:
    """SCRFD and ArcFace as ``insightface.app.FaceAnalysis`` runs them."""

    def __init__(self, folder: str, options: InsightFaceOptions) -> None:
        """Look at the folder.

        Raises:
            WeightsError: it is missing, or holds no ONNX file, or an empty one.
        """
        self.options = options
        self.folder = Path(folder).expanduser()
        if not self.folder.is_dir():
            raise WeightsError(f"{self.folder}: no such folder; expected {_EXPECTED}")
        # A pack with a manifest keeps its files in folders below.
        self._files = sorted(self.folder.rglob("*.onnx"))
        if not self._files:
            raise WeightsError(f"{self.folder}: holds no .onnx file; expected {_EXPECTED}")
        for file in self._files:
            existing_file(file, "an ONNX model")
        self._app: Any = None

    @property
    def model_id(self) -> str:
        """Name, digest of the files, and the options that change what is found."""
        manifest = self.folder / "manifest.json"
        files = [*self._files, *([manifest] if manifest.is_file() else [])]
        o = self.options
        retry = "-pad" if o.padding_retry else ""
        return (
            f"insightface-{self.folder.name}-{digest(files)[:12]}-r{REVISION}"
            f"-{o.det_size}-{o.det_threshold:g}{retry}"
        )

    def load(self) -> None:
        """Open the models.

        Raises:
            WeightsError: a file is truncated or no ONNX; no detector with landmarks or no
                recogniser is among them; CUDA is asked for and onnxruntime has none.
        """
        if self._app is not None:
            return
        _check(self.folder, self._files)
        providers = _providers(self.options.device)
        onnxruntime, insightface = require("onnxruntime"), require("insightface.app")
        session = onnxruntime.SessionOptions()
        session.intra_op_num_threads = session.inter_op_num_threads = 1
        session.log_severity_level = 3
        try:
            app = insightface.FaceAnalysis(
                name=str(self.folder.resolve()),  # a folder is never downloaded
                allowed_modules=["detection", "recognition"],
                providers=providers,
                sess_options=session,
                static_shape_sessions=False,  # one size only: a second session would be a copy
            )
        except Exception as error:  # onnxruntime has a class per status
            raise WeightsError(
                f"{self.folder}: insightface cannot load it: {cause(error)}; expected {_EXPECTED}"
            ) from error
        if "recognition" not in app.models or not getattr(app.det_model, "use_kps", True):
            raise WeightsError(
                f"{self.folder}: has no recogniser, or a detector without five landmarks; "
                f"expected {_EXPECTED}"
            )
        side = self.options.det_size
        app.prepare(
            ctx_id=0 if "CUDAExecutionProvider" in providers else -1,
            det_thresh=self.options.det_threshold,
            det_size=(side, side),
        )
        self._app = app

    def faces(self, image: Image) -> list[Face]:
        """All faces, largest first.

        Args:
            image: RGB uint8 ``[H, W, 3]``. A strip more than 80 times as long as wide holds none.

        Returns:
            Boxes clipped to the image, rounded to 0.01 pixel; points in ArcFace's order as the
            viewer sees it (eyes from left to right, nose, mouth corners from left to right).

        Raises:
            ValueError: not such an image.
        """
        check_image(image)
        self.load()
        height, width = image.shape[:2]
        if max(height, width) > 80 * min(height, width):
            return []  # scaled to det_size it would be no pixel high
        found = list(self._found(image, 0, 0))
        if not found and self.options.padding_retry:
            dy, dx = round(PADDING * height), round(PADDING * width)
            padded = np.full((height + 2 * dy, width + 2 * dx, 3), GREY, np.uint8)
            padded[dy : dy + height, dx : dx + width] = image
            found = list(self._found(padded, dx, dy, width, height))
        return sorted(found, key=lambda face: (-area(face.box), face.box))

    def _found(
        self, image: Image, dx: int, dy: int, width: int | None = None, height: int | None = None
    ) -> Iterator[Face]:
        """Faces of an image in which ours begins at ``(dx, dy)``, in our pixels."""
        right, bottom = width or image.shape[1], height or image.shape[0]
        with one_cv_thread(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # insightface's use of scikit-image
            answers = self._app.get(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        for answer in answers:
            x0, y0, x1, y1 = (float(v) for v in answer.bbox)
            box = (
                round(min(max(x0 - dx, 0.0), right), 2),
                round(min(max(y0 - dy, 0.0), bottom), 2),
                round(min(max(x1 - dx, 0.0), right), 2),
                round(min(max(y1 - dy, 0.0), bottom), 2),
            )
            if area(box) <= 0:
                continue
            points = np.round(np.asarray(answer.kps, np.float64) - (dx, dy), 2)
            yield Face(
                box=box,
                points=points.astype(np.float32),
                score=round(float(answer.det_score), 4),
                embedding=unit(np.asarray(answer.embedding, np.float64).reshape(-1)),
            )


def _check(folder: Path, files: list[Path]) -> None:
    """Read the graphs before the library does: its own errors are empty or a page long."""
    onnx = require("onnx")
    packages = require("insightface.model_zoo.package_manifest")
    detector = recogniser = bool(packages.has_model_package_manifest(folder))
    for file in files:
        try:
            graph = onnx.load(str(file), load_external_data=False).graph
        except Exception:  # noqa: BLE001  protobuf's errors differ between its versions
            raise WeightsError(
                f"{file}: truncated or no ONNX model ({file.stat().st_size} bytes); fetch it again"
            ) from None
        if not graph.output or not graph.input:
            raise WeightsError(f"{file}: an ONNX model without inputs or outputs; fetch it again")
        shape = [dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim]
        detector |= len(graph.output) in (9, 15)
        recogniser |= len(graph.output) == 1 and shape[2:] in [[side, side] for side in _ALIGNED]
    wanted = {
        "detector with five landmarks (9 or 15 outputs)": detector,
        "recogniser (112 x 112 input, one output)": recogniser,
    }
    if missing := [what for what, there in wanted.items() if not there]:
        names = ", ".join(file.name for file in files)
        raise WeightsError(
            f"{folder}: no {' and no '.join(missing)} among {names}; expected {_EXPECTED}"
        )


def _providers(device: str) -> list[str]:
    onnxruntime = require("onnxruntime")
    cuda = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    if device == "cuda" and not cuda:
        raise WeightsError(
            "roles.faces.device = 'cuda': this onnxruntime has no CUDA; install onnxruntime-gpu "
            "in place of onnxruntime (not beside it), or set device = 'cpu'"
        )
    if cuda and device != "cpu":
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]
    return ["CPUExecutionProvider"]
