"""One CLIP of open_clip, from files: what the embedder and the aesthetic scorer stand on."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from s2v.datapipe.backends import checkpoints, torch_nets
from s2v.datapipe.backends.weights import cause, digest, existing_file
from s2v.datapipe.base.embedded.net import one_torch_thread, require, unit
from s2v.datapipe.base.settings import SettingsError
from s2v.datapipe.roles import Image, Vectors, WeightsError

REVISION: Final = 1  # raise when pre- or post-processing changes the answers
SUFFIXES: Final = (".safetensors", ".pt", ".pth", ".bin")
_PARTS: Final = ("embed_dim", "vision_cfg", "text_cfg")

#: What open_clip calls them.
_NAMES: Final = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
_EXPECTED: Final = "a CLIP state dict for open_clip (.safetensors, .pt, .pth or .bin)"


class Preprocess(BaseModel):
    """What a checkpoint's authors did to pictures, where it is not OpenAI's way."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    interpolation: Literal["bicubic", "bilinear"] | None = None
    resize_mode: Literal["shortest", "longest", "squash"] | None = None


class TowerOptions(BaseModel):
    """Which CLIP, and where it runs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(
        default="ViT-B-32",
        description="name of an architecture of open_clip, or a JSON file: a model configuration "
        "or an open_clip_config.json. OpenAI's weights want a '-quickgelu' one",
    )
    weights: str | None = Field(default=None, description="state dict; never downloaded")
    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:1 ...")
    batch: int = Field(default=32, ge=1, le=4096, description="images per forward pass on a GPU")
    dtype: torch_nets.Precision = Field(default="float32", description="float16 on GPUs only")
    preprocess: Preprocess = Preprocess()


class Tower:
    """CLIP's two towers.

    Every forward pass has the same shape, one image on a CPU and ``batch`` on a GPU (filled up
    with zeros), so that a vector depends on its image alone and not on its neighbours.
    """

    def __init__(self, options: TowerOptions, where: str) -> None:
        """Look at the files.

        Raises:
            WeightsError: one is not named, missing, empty, or of a kind that is not read.
        """
        self.options = options
        self._where = where
        self._weights = _weights_file(options, where)
        self._config = _config_bytes(options.model, where)
        self._net: Any = None
        self._tokenizer: Any = None
        self._prepare: Callable[[Any], Any] | None = None
        self._device: Any = None
        self._dtype: Any = None

    @classmethod
    def of(cls, options: TowerOptions, where: str, shared: dict[str, Any]) -> Tower:
        """The tower with these options; the same one for whoever asks for the same."""
        key = f"open_clip {options.model_dump_json()}"
        if key not in shared:
            shared[key] = cls(options, where)
        tower: Tower = shared[key]
        return tower

    @property
    def model_id(self) -> str:
        """Architecture, digest of weights and configuration, and what else changes a vector."""
        o = self.options
        config = "" if self._config is None else f"-{hashlib.sha256(self._config).hexdigest()[:8]}"
        given = {k: v for k, v in o.preprocess.model_dump(mode="json").items() if v is not None}
        changed = hashlib.sha256(json.dumps(given, sort_keys=True).encode()).hexdigest()[:6]
        return (
            f"open_clip-{Path(o.model).stem}{config}-{digest([self._weights])[:12]}-r{REVISION}"
            f"-{o.dtype}{f'-{changed}' if given else ''}"
        )

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        self.load()
        return int(self._net.visual.output_dim)

    def load(self) -> None:
        """Build the net and load its weights.

        Raises:
            WeightsError: the file is truncated, no state dict, or another model's; open_clip does
                not know the model.
            SettingsError: there is no such device here, or it cannot compute in ``dtype``.
        """
        if self._net is not None:
            return
        import torch

        open_clip = require("open_clip")
        device = torch_nets.device(self.options.device, self._where)
        if device.type == "cpu" and self.options.dtype == "float16":
            raise SettingsError(
                f"{self._where}.dtype: float16 needs a GPU; on this CPU use 'float32' or 'bfloat16'"
            )
        name, config = self._architecture(open_clip)
        state = state_dict(self._weights, _EXPECTED)
        with _silent():
            try:
                net = open_clip.create_model(
                    name,
                    load_weights=False,
                    precision=_NAMES[self.options.dtype],
                    device=device,
                    pretrained_text=False,
                    force_preprocess_cfg={
                        **config,
                        **self.options.preprocess.model_dump(exclude_none=True),
                    },
                )
                tokenizer = open_clip.get_tokenizer(name)
            except (
                RuntimeError,
                OSError,
                ValueError,
                TypeError,
                KeyError,
                AssertionError,
            ) as error:
                raise WeightsError(
                    f"open_clip cannot build {self.options.model!r}: {cause(error)}; text towers "
                    "of the Hugging Face hub need their configuration in the hub's local cache"
                ) from error
            self._fill(open_clip, net, state)
        net.eval().requires_grad_(False)
        cfg = open_clip.transform.PreprocessCfg(**net.visual.preprocess_cfg)
        self._prepare = open_clip.transform.image_transform_v2(cfg, is_train=False)
        self._device, self._dtype = device, getattr(torch, self.options.dtype)
        self._net, self._tokenizer = net, tokenizer

    def images(self, images: Sequence[Image]) -> Vectors:
        """``[n, d]`` float32, L2-normalised; pre-processed as open_clip does it."""
        self.load()
        import torch
        from PIL import Image as Pictures

        prepare = self._prepare
        assert prepare is not None  # noqa: S101  load() has set it
        planes = [prepare(Pictures.fromarray(image)) for image in images]

        def forward(batch: Any) -> Any:
            return self._net.encode_image(batch.to(self._device, self._dtype), normalize=True)

        return self._rows([plane.to(torch.float32) for plane in planes], forward)

    def texts(self, texts: Sequence[str]) -> Vectors:
        """``[n, d]`` float32, L2-normalised."""
        self.load()
        tokens = [self._tokenizer([text])[0] for text in texts]

        def forward(batch: Any) -> Any:
            return self._net.encode_text(batch.to(self._device), normalize=True)

        return self._rows(tokens, forward)

    def _rows(self, inputs: list[Any], forward: Callable[[Any], Any]) -> Vectors:
        if not inputs:
            return np.zeros((0, self.dim), np.float32)
        import torch

        size = 1 if str(self._device) == "cpu" else self.options.batch
        found = []
        with one_torch_thread():
            for start in range(0, len(inputs), size):
                part = inputs[start : start + size]
                filled = torch.stack([*part, *[torch.zeros_like(part[0])] * (size - len(part))])
                out = forward(filled)[: len(part)]
                found.append(out.to("cpu", torch.float32).numpy())
        return unit(np.concatenate(found))

    def _architecture(self, open_clip: Any) -> tuple[str, dict[str, Any]]:
        """The name that open_clip knows the model by, and its file's own pre-processing."""
        if self._config is None:
            if self.options.model not in open_clip.list_models():
                raise WeightsError(
                    f"open_clip has no architecture {self.options.model!r}; "
                    "`open_clip.list_models()` names them, or give the path of a JSON file"
                )
            return self.options.model, {}
        given = json.loads(self._config)
        # A name of its own: open_clip keeps one table of names for the whole process.
        name = f"s2v-{hashlib.sha256(self._config).hexdigest()[:16]}"
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{name}.json"
            path.write_text(json.dumps(given.get("model_cfg", given)))
            open_clip.add_model_config(path)
        return name, dict(given.get("preprocess_cfg", {}))

    def _fill(self, open_clip: Any, net: Any, state: Mapping[str, Any]) -> None:
        wanted = net.state_dict()
        try:
            converted = open_clip.factory.convert_state_dict(net, dict(state))
            for name, value in converted.items():
                # open_clip would stretch another picture size's positions without a word.
                shape = wanted[name].shape if name in wanted else value.shape
                if name.endswith("positional_embedding") and value.shape != shape:
                    raise ValueError(f"{name} is {tuple(value.shape)}, not {tuple(shape)}")
            open_clip.load_checkpoint(net, str(self._weights), strict=True, weights_only=True)
        except Exception as error:  # noqa: BLE001  other names lead its conversions anywhere
            raise WeightsError(
                f"{self._weights}: the weights of another model than {self.options.model}: "
                f"{cause(error)}"
            ) from None


def state_dict(path: Path, expected: str) -> Mapping[str, Any]:
    """Tensors by name from a file of strangers: no code in it is run.

    Raises:
        WeightsError: truncated, pickled objects, TorchScript, or no state dict.
    """
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        checkpoints.check_safetensors(path)
        found: Mapping[str, Any] = load_file(str(path))
    else:
        if _is_torchscript(path):
            raise WeightsError(
                f"{path}: a TorchScript archive, as OpenAI published CLIP; save its state dict "
                "with torch.jit.load(...).state_dict() and torch.save first"
            )
        found = checkpoints.state_dict(path, expected)
    if not found:
        raise WeightsError(f"{path}: holds no tensors by name; expected {expected}")
    return found


def _is_torchscript(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return False


def _weights_file(options: TowerOptions, where: str) -> Path:
    hint = (
        "fetch it once by hand, for instance with `hf download "
        "laion/CLIP-ViT-B-32-laion2B-s34B-b79K open_clip_model.safetensors`, and give its path"
    )
    if options.model.startswith(("hf-hub:", "local-dir:")):
        raise WeightsError(
            f"{where}.model = {options.model!r}: nothing is downloaded in a run; {hint} as weights "
            "and its open_clip_config.json as model"
        )
    if options.weights is None:
        raise WeightsError(f"{where}.weights is not set; expected {_EXPECTED}; {hint}")
    path = Path(options.weights).expanduser()
    if not path.exists() and path.suffix not in SUFFIXES:
        raise WeightsError(
            f"{where}.weights = {options.weights!r}: no such file; a pretrained tag or hub name is "
            f"not looked up; {hint}"
        )
    found = existing_file(path, f"{_EXPECTED}; {hint}")
    if found.suffix not in SUFFIXES:
        raise WeightsError(f"{found}: expected {_EXPECTED}")
    return found


def _config_bytes(model: str, where: str) -> bytes | None:
    """The configuration file's content, checked; ``None`` for a name that open_clip knows."""
    if not model.endswith(".json"):
        return None
    path = existing_file(model, "a model configuration of open_clip")
    content = path.read_bytes()
    try:
        given = json.loads(content)
        given = given.get("model_cfg", given)
        missing = [part for part in _PARTS if part not in given]
    except (ValueError, AttributeError, TypeError):
        raise WeightsError(f"{path}: not a JSON object; expected {', '.join(_PARTS)}") from None
    if missing:
        raise WeightsError(f"{path}: {where}.model lacks {', '.join(missing)}")
    return content


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keeps open_clip's warning back that no pretrained weights were loaded: they are, later."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        root.setLevel(before)
