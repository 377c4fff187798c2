"""A real S3 server for tests: SeaweedFS, one process, its own folder, one pair of keys.

It checks keys and signatures and knows conditional writes (If-None-Match), which fakes do not.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from pyarrow.fs import S3FileSystem

from s2v.datapipe.backends.vlm.leash import Leashed

READY_S = 60.0
_PORTS = ("s3", "master", "volume", "filer")
REGION = "us-east-1"


@dataclass(frozen=True)
class S3Server:
    """A running server.

    Attributes:
        endpoint: ``http://127.0.0.1:<port>``.
        key: access key id.
        secret: secret access key.
    """

    endpoint: str
    key: str
    secret: str = field(repr=False)
    _numbers: Iterator[int] = field(default_factory=lambda: count(1), repr=False)

    def filesystem(self, secret: str | None = None) -> S3FileSystem:
        """Return pyarrow's view of the server, by default with the right secret."""
        return S3FileSystem(
            access_key=self.key,
            secret_key=secret or self.secret,
            endpoint_override=self.endpoint,
            region=REGION,
            allow_bucket_creation=True,
            request_timeout=20,
            connect_timeout=5,
        )

    def new_bucket(self) -> str:
        """Make an empty bucket and return its name."""
        name = f"bucket-{next(self._numbers)}"
        self.filesystem().create_dir(name)
        return name


def free_ports(number: int) -> list[int]:
    """Return that many different free ports of the loopback interface."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(number)]
        for held_socket in sockets:
            held_socket.bind(("127.0.0.1", 0))
        return [int(held_socket.getsockname()[1]) for held_socket in sockets]


@contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    """Run a server that keeps its data in `folder` until the block, or this process, ends."""
    key, secret = "s2v-tests", secrets.token_hex(16)
    identity = {
        "name": "tests",
        "credentials": [{"accessKey": key, "secretKey": secret}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    identities = folder / "identities.json"
    identities.write_text(json.dumps({"identities": [identity]}))
    data = folder / "data"
    data.mkdir()
    # Each has a second port, by default 10000 higher, which may be taken or out of range.
    free = iter(free_ports(2 * len(_PORTS)))
    ports = {name: next(free) for name in _PORTS}
    command = [
        *(str(Path(sys.executable).with_name("weed")), "server"),
        *(f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3", "-filer"),
        f"-s3.config={identities}",
        *(f"-{name}.port={port}" for name, port in ports.items()),
        *(f"-{name}.port.grpc={next(free)}" for name in _PORTS),
        *("-s3.port.iceberg=0", "-s3.port.lance=0"),
        *(
            "-master.volumeSizeLimitMB=64",
            "-volume.max=500",
            "-volume.preStopSeconds=0",
            "-master.telemetry=false",
        ),
    ]
    # One volume per bucket instead of seven: buckets are many here, and small.
    environment = os.environ | {"WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"}
    log = folder / "weed.log"
    with log.open("wb") as out:
        process = Leashed(command, out, environment, grace_s=1)
    try:
        endpoint = f"http://127.0.0.1:{ports['s3']}"
        _wait_until_ready(endpoint, process, log)
        yield S3Server(endpoint, key, secret)
    finally:
        process.stop()


def _wait_until_ready(endpoint: str, process: Leashed, log: Path) -> None:
    deadline = time.monotonic() + READY_S
    while True:
        try:
            with urllib.request.urlopen(f"{endpoint}/healthz", timeout=2):  # noqa: S310 loopback
                return
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            if process.exit_code() is None and time.monotonic() < deadline:
                time.sleep(0.05)
                continue
        tail = log.read_text(errors="replace")[-2000:]
        raise RuntimeError(f"the S3 server of the tests did not come up:\n{tail}")
