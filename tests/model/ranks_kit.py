"""Processes that know one another, forked: no second start of Python and torch for each."""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Callable

import torch.distributed as dist


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def together(world: int, do: Callable[[int], None], *, talk: bool = True) -> list[int]:
    """Run ``do(rank)`` in forked processes with the variables that ``torchrun`` sets.

    Args:
        world: processes.
        do: what each does.
        talk: join them by gloo before; a training does it by itself.

    Returns:
        Their exit codes, 7 after an exception.
    """
    port, children = free_port(), []
    for rank in range(world):
        child = os.fork()
        if child == 0:
            about = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_PORT": port}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", **{k: str(v) for k, v in about.items()}}
            code = 7
            try:
                if talk:
                    dist.init_process_group("gloo")
                do(rank)
                code = 0
            except BaseException:  # noqa: BLE001 - said here, seen by the parent as a code
                traceback.print_exc()
            finally:
                os._exit(code)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
