"""The loopback side of a machine's network: lo up, with the metadata server's address on it."""

from __future__ import annotations

import fcntl
import socket
import struct

SIOCGIFFLAGS, SIOCSIFFLAGS, SIOCSIFADDR, SIOCSIFNETMASK = 0x8913, 0x8914, 0x8916, 0x891C
IFF_UP = 1
METADATA_ADDRESS = "169.254.169.254"


def _request(name: str, address: str) -> bytes:
    return struct.pack("16sHH4s8x", name.encode(), socket.AF_INET, 0, socket.inet_aton(address))


def bring_up_loopback() -> None:
    """Needs the root of the network's user namespace; OSError otherwise."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        reply = fcntl.ioctl(control, SIOCGIFFLAGS, struct.pack("16sH14x", b"lo", 0))
        flags = struct.unpack("16sH14x", reply)[1]
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | IFF_UP))
        fcntl.ioctl(control, SIOCSIFADDR, _request("lo:0", METADATA_ADDRESS))
        fcntl.ioctl(control, SIOCSIFNETMASK, _request("lo:0", "255.255.255.255"))
