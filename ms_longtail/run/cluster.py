"""Where the workers of a run are: how many, on which machines, and the port at which they meet."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass

from .. import runtime
from ..errors import UserError

CPU_WORKERS = 2  # where nobody says how many


@dataclass(frozen=True)
class Cluster:
    """The workers of one run, and this machine's place among its machines."""

    workers: int
    here: int
    nodes: int = 1
    node: int = 0
    address: str = "127.0.0.1"
    port: int = 0

    @property
    def main(self) -> bool:
        """Whether rank 0 and the scheduler are on this machine."""
        return self.node == 0


def cluster(
    workers: str | None, device: str, environment: Mapping[str, str] = os.environ, *, patience: float = 60.0
) -> Cluster:
    """Read WORKERS and the variables NODES, NODE_RANK, MASTER_ADDR, MASTER_PORT and WORKERS_PER_NODE.

    Args:
        workers: the command line's number over all machines; None takes WORKERS_PER_NODE on every machine, or else every
            device of this one (on a CPU two).
        device: "cpu", "gpu" or "ascend".
        patience: seconds that the name of machine 0 may take to become known.

    Raises:
        UserError: a number that is none or does not fit the others, more workers than devices, a port that is taken.
    """
    nodes = _number(environment, "NODES", 1, 1, 65_536)
    each = _number(environment, "WORKERS_PER_NODE", None, 1, 1_000_000)
    total = None if workers is None else _whole("WORKERS", workers, 1, 1_000_000)
    if each is None and total is not None:
        if total % nodes:
            raise UserError(f"WORKERS = {total}: must be a multiple of NODES = {nodes}, or set WORKERS_PER_NODE")
        each = total // nodes
    elif each is None:
        each = CPU_WORKERS if device == "cpu" else devices(device)
    if total is not None and total != nodes * each:
        raise UserError(f"WORKERS = {total}: NODES = {nodes} with WORKERS_PER_NODE = {each} make {nodes * each}")
    if device != "cpu" and each > devices(device):
        raise UserError(f"{each} workers on this machine, but it has {devices(device)} devices of kind {device}")
    if nodes == 1:
        address = "127.0.0.1"
        port = _number(environment, "MASTER_PORT", None, 1024, 65_535)
        port = free_port() if port is None else _require_free(port)
        return Cluster(each, each, port=port, address=address)
    missing = [name for name in ("NODE_RANK", "MASTER_ADDR") if not environment.get(name)]
    if missing:
        raise UserError(f"NODES = {nodes}: {' and '.join(missing)} must be set, too; see docs/distributed.md")
    node = _number(environment, "NODE_RANK", None, 0, nodes - 1)
    port = _number(environment, "MASTER_PORT", 8118, 1024, 65_535)
    host = environment["MASTER_ADDR"]
    address = _resolved(host, patience)
    if address.startswith("127."):
        raise UserError(
            f"MASTER_ADDR = {host} is {address} here, which no other machine reaches; give its address itself"
        )
    if (node == 0) is not _ours(address):
        raise UserError(
            f"MASTER_ADDR = {address} is {'not ' * (node == 0)}this machine's, but NODE_RANK is {node}; "
            "it is that of machine 0, which starts the scheduler"
        )
    if node == 0:
        _require_free(port, address)
    return Cluster(nodes * each, each, nodes, node, address, port)


def _resolved(host: str, patience: float) -> str:
    """The address of a host, whose name may become known a little later than this machine starts."""
    until = time.monotonic() + patience
    while True:
        try:
            return socket.gethostbyname(host)
        except OSError as error:
            if time.monotonic() > until:
                raise UserError(f"MASTER_ADDR = {host}: no such host ({error.strerror})") from error
            time.sleep(1)


def devices(kind: str) -> int:
    """Accelerators of this machine."""
    import mindspore as ms

    return int(getattr(ms.device_context, kind).device_count())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _require_free(port: int, address: str = "127.0.0.1") -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one that was just given up is free
        try:
            probe.bind((address, port))
        except OSError as error:
            raise UserError(
                f"MASTER_PORT = {port}: taken on this machine ({error.strerror}); choose another"
            ) from error
    return port


def _ours(address: str) -> bool:
    """Whether a socket can be bound to it."""
    with socket.socket() as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def _number(environment: Mapping[str, str], name: str, default: int | None, least: int, most: int) -> int | None:
    text = environment.get(name, "")
    return _whole(name, text, least, most) if text else default


def _whole(name: str, text: str, least: int, most: int) -> int:
    if not text.isdecimal() or not least <= int(text) <= most:
        raise UserError(f"{name} = {text}: must be a whole number from {least} to {most}")
    return int(text)


def local_threads(cluster: Cluster) -> dict[str, str]:
    """For the workers: how many share this machine's processors."""
    return {runtime.LOCAL_WORKERS_VARIABLE: str(cluster.here)}
