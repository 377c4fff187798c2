"""What accelerators can do at best: peaks, memory and links, each from its maker's data sheet.

The peak is the *dense* bf16 one: makers print the figure with sparsity, twice as high, first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

GIB: Final = 1 << 30


@dataclass(frozen=True)
class Device:
    """One kind of accelerator.

    Attributes:
        name: as ``--device`` takes it.
        title: as its maker writes it.
        peak: dense bf16 operations per second.
        memory: GiB that it is sold with.
        memory_rate: bytes per second of its memory.
        link: bytes per second and direction to the other devices of its node.
        network: bytes per second and direction to another node, per device (400 Gbit/s is usual).
        per_node: devices of a node.
        words: what ``torch.cuda.get_device_name`` says of it, in lower case.
    """

    name: str
    title: str
    peak: float
    memory: float
    memory_rate: float
    link: float
    network: float
    per_node: int
    words: tuple[str, ...]


DEVICES: Final = {
    device.name: device
    for device in (
        Device("a100", "A100 SXM 80 GB", 312e12, 80, 2.0e12, 300e9, 25e9, 8, ("a100",)),
        Device("h100", "H100 SXM", 989e12, 80, 3.35e12, 450e9, 50e9, 8, ("h100",)),
        Device("h200", "H200 SXM", 989e12, 140, 4.8e12, 450e9, 50e9, 8, ("h200",)),
        Device("b200", "B200 SXM", 2250e12, 180, 8.0e12, 900e9, 50e9, 8, ("b200",)),
        Device("gb200", "GB200", 2500e12, 186, 8.0e12, 900e9, 50e9, 4, ("gb200",)),
    )
}


def named(title: str) -> Device | None:
    """The device that torch calls ``title``; None for one that has no peak here.

    PCIe and NVL boards of the same chips are slower than what stands here, so they have none.
    """
    said = title.lower()
    if "pcie" in said or "nvl" in said:
        return None
    found = [d for d in DEVICES.values() if any(word in said.split() for word in d.words)]
    found += [d for d in DEVICES.values() if any(word in said for word in d.words)]
    return found[0] if found else None
