"""A network namespace of a replica's own, with one cable to us, on which packets can be dropped, each way by itself.

The cable is a veth pair, the namespace that of the process: when the process ends the kernel takes both away. Packets
are dropped by addressing them to a machine that is not there, so that neither side's system hears of it: each end of
the cable has a fixed entry of the other's hardware address, and a wrong one makes the other end ignore what comes.
That works without the kernel's netem, which many machines lack.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

#: What starts a program in a network of its own; it replaces itself by it, so that the process id is the program's.
WRAPPER = ("unshare", "--net", "--")

_NOBODY = "02:00:00:00:00:01"


@functools.cache
def why_not() -> str | None:
    """Say why this machine allows no such network; None if it does."""
    for tool in ("unshare", "nsenter", "ip"):
        if shutil.which(tool) is None:
            return f"there is no {tool!r} on this machine"
    # In a namespace of its own, so that nothing is left of it.
    tried = subprocess.run(
        [*WRAPPER, "ip", "link", "add", "try0", "type", "veth", "peer", "name", "try1"],
        capture_output=True,
        text=True,
        timeout=10,
        check=False,
    )
    return None if tried.returncode == 0 else f"not permitted: {tried.stderr.strip()}"


class Cable:
    """Between us and the network of a process. Each method blocks for a few milliseconds.

    Args:
        pid: of a process that was started by `WRAPPER`, and has reached its own namespace.
    """

    def __init__(self, pid: int) -> None:
        self._inside = ("nsenter", f"--target={pid}", "--net", "--")
        self._near, self._far = f"trf{pid}a", f"trf{pid}b"
        # A /30 of the block for the tests of networks, which no real one uses (RFC 2544).
        first = (pid % 2**14) * 4
        network = f"198.{18 + (first >> 16)}.{first >> 8 & 255}"
        self.host, self._other = f"{network}.{(first & 255) + 1}", f"{network}.{(first & 255) + 2}"
        _run(["ip", "link", "add", self._near, "type", "veth", "peer", "name", self._far, "netns", str(pid)])
        _run(["ip", "address", "add", f"{self.host}/30", "dev", self._near])
        _run(["ip", "link", "set", self._near, "up"])
        self._run_inside(["ip", "address", "add", f"{self._other}/30", "dev", self._far])
        self._run_inside(["ip", "link", "set", self._far, "up"])
        self._near_address = _run(["cat", f"/sys/class/net/{self._near}/address"]).strip()
        shown = self._run_inside(["ip", "-o", "link", "show", "dev", self._far])
        self._far_address = shown.partition("link/ether ")[2].split()[0]
        self.heal()

    def drop(self, *, to_server: bool = True, to_client: bool = True) -> None:
        """Drop all packets in one direction or both; the server is on our side."""
        if to_client:
            _run(self._neighbour(self._other, _NOBODY, self._near))
        if to_server:
            self._run_inside(self._neighbour(self.host, _NOBODY, self._far))

    def heal(self) -> None:
        """Drop nothing any more."""
        _run(self._neighbour(self._other, self._far_address, self._near))
        self._run_inside(self._neighbour(self.host, self._near_address, self._far))

    def close(self) -> None:
        """Take the cable away, if it is still there."""
        if Path(f"/sys/class/net/{self._near}").exists():
            subprocess.run(["ip", "link", "delete", self._near], capture_output=True, check=False, timeout=10)

    def _run_inside(self, command: Sequence[str]) -> str:
        return _run([*self._inside, *command])

    @staticmethod
    def _neighbour(address: str, hardware: str, device: str) -> list[str]:
        return ["ip", "neighbour", "replace", address, "lladdr", hardware, "nud", "permanent", "dev", device]


def _run(command: Sequence[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
