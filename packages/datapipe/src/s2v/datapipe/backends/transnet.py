"""Shot boundaries by a network: TransNetV2 (Soucek and Lokoc 2020), the paper's second detector.

The paper names AutoShot, whose weights no package carries; it has the same input and output and
would be one more file like this. Here the published TransNetV2 weights run, from the asset cache
or from a state dict on disk.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from s2v.datapipe.backends.weights import cause, digest, existing_file
from s2v.datapipe.base.settings import parse
from s2v.datapipe.roles import WeightsError


class TransNetOptions(BaseModel):
    """Options of the backend."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weights: str | None = Field(default=None, description="state dict; else the packaged one")
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="auto: a GPU where there is one"
    )
    threshold: float = Field(
        default=0.5, gt=0, lt=1, description="probability that counts as a transition"
    )


def shots(options: dict[str, Any], where: str, shared: dict[str, Any]) -> TransNetShots:
    """Factory of the registry; reads no weights."""
    return TransNetShots(parse(TransNetOptions, options, where))


class TransNetShots:
    """Scores every frame; 0.5 is where the configured threshold lies."""

    def __init__(self, options: TransNetOptions) -> None:
        from s2v.datapipe.base.embedded.transnet import TransNetV2

        self._options = options
        if options.weights is None:
            self._net = TransNetV2.from_assets()
        else:
            what = "TransNetV2's PyTorch state dict (transnetv2-pytorch-weights.pth)"
            path = existing_file(options.weights, what)
            self._net = TransNetV2(path, digest([path]))

    @property
    def model_id(self) -> str:
        """The net's id, with the threshold where it is not the usual."""
        threshold = self._options.threshold
        return self._net.model_id + (f"-t{threshold:g}" if threshold != 0.5 else "")

    @property
    def frame_size(self) -> tuple[int, int]:
        """27 by 48."""
        return self._net.frame_size

    def load(self) -> None:
        """Load the weights and move them to the device.

        Raises:
            WeightsError: the file is truncated or another model's.
        """
        try:
            self._net.load()
        except (OSError, MemoryError, ImportError):
            raise  # the machine's, not the file's
        except Exception as error:
            raise WeightsError(
                f"{self._net.path}: no state dict of TransNetV2 ({cause(error)}); fetch it "
                "again, or leave out roles.shots.weights for the packaged one"
            ) from error
        self._net.to(self._options.device)

    def score(self, frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Probability of a transition at every frame, uint8 ``[T, 27, 48, 3]`` to ``[T]``."""
        return calibrated(self._net.predict(frames), self._options.threshold)


def calibrated(scores: npt.NDArray[np.float32], threshold: float) -> npt.NDArray[np.float32]:
    """Scores bent so that ``threshold`` becomes 0.5; 0 and 1 stay."""
    low = scores * (0.5 / threshold)
    high = 0.5 + (scores - threshold) * (0.5 / (1 - threshold))
    return np.asarray(np.where(scores <= threshold, low, high), np.float32)
