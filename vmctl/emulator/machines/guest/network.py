"""A machine's network, made outside of the machine so that the machine cannot change it.

`prepare` runs in the machine's network namespace before its sandbox is made, with rights that the
machine never has: not even its root can add a route, set a sysctl or forge a packet. The
computer's own addresses, 127.0.0.0/8 above all, are unreachable.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import sys

SIOCGIFFLAGS, SIOCSIFFLAGS, SIOCSIFADDR, SIOCSIFNETMASK = 0x8913, 0x8914, 0x8916, 0x891C
IFF_UP = 1
SSH_PORT, IP_FREEBIND = 22, 15
METADATA_ADDRESS = "169.254.169.254"
COMPUTER_ADDRESS = "10.0.2.2"  # where forwarded ports of the computer answer
RTM_NEWROUTE, NLM_F_REQUEST, NLM_F_ACK, NLM_F_CREATE, RTA_DST = 24, 1, 4, 0x400, 1
RT_TABLE_MAIN, RTPROT_STATIC, RT_SCOPE_UNIVERSE, RTN_PROHIBIT = 254, 4, 0, 8


def _request(name: str, address: str) -> bytes:
    return struct.pack("16sHH4s8x", name.encode(), socket.AF_INET, 0, socket.inet_aton(address))


def bring_up_loopback() -> None:
    """Bring up lo with the metadata and computer addresses; OSError without the rights."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        reply = fcntl.ioctl(control, SIOCGIFFLAGS, struct.pack("16sH14x", b"lo", 0))
        flags = struct.unpack("16sH14x", reply)[1]
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | IFF_UP))
        for name, address in (("lo:0", METADATA_ADDRESS), ("lo:1", COMPUTER_ADDRESS)):
            fcntl.ioctl(control, SIOCSIFADDR, _request(name, address))
            fcntl.ioctl(control, SIOCSIFNETMASK, _request(name, "255.255.255.255"))


def prohibit(networks: list[str]) -> None:
    """Prohibit routes to these networks, `A.B.C.D/N`; OSError if the kernel refuses."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
        for network in networks:
            address, _, length = network.partition("/")
            body = struct.pack(
                "=BBBBBBBBIHH4s", socket.AF_INET, int(length), 0, 0, RT_TABLE_MAIN,
                RTPROT_STATIC, RT_SCOPE_UNIVERSE, RTN_PROHIBIT, 0,
                8, RTA_DST, socket.inet_aton(address),
            )  # fmt: skip
            flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE
            kernel.send(struct.pack("=IHHII", 16 + len(body), RTM_NEWROUTE, flags, 1, 0) + body)
            (error,) = struct.unpack("=i", kernel.recv(4096)[16:20])
            if error and error != -17:  # the route exists already
                raise OSError(-error, f"{os.strerror(-error)}: no route {network}")


def listen(address: str, port: int) -> socket.socket:
    """Return a socket that a machine is given: it may not bind a low port itself."""
    server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)  # a cable may come later
    server.bind((address, port))
    server.listen(128)
    return server


def prepare(argv: list[str]) -> None:
    """argv: the machine's address in the internal network or "", networks to close, `--`, and the
    sandbox's command line, which this process becomes.

    The sockets of its metadata server and of its own sshd, for neighbours, stay open in it; their
    numbers are added at the end."""
    end = argv.index("--")
    bring_up_loopback()
    prohibit(argv[1:end])
    listening = [listen(METADATA_ADDRESS, 80).detach()]
    if argv[0]:
        listening.append(listen(argv[0], SSH_PORT).detach())
    for descriptor in listening:
        os.set_inheritable(descriptor, True)
    command = [*argv[end + 1 :], *map(str, listening)]
    os.execvp(command[0], command)


def open_ports(argv: list[str]) -> None:
    """argv: a descriptor, then ports: listen there at COMPUTER_ADDRESS and pass the sockets on."""
    listening = []
    for port in argv[1:]:
        listening.append(listen(COMPUTER_ADDRESS, int(port)))
    with socket.socket(fileno=int(argv[0])) as answer:
        socket.send_fds(answer, [b"f"], [server.fileno() for server in listening])


def run(argv: list[str]) -> None:
    """Run one of the commands above."""
    try:
        {"prepare": prepare, "open": open_ports, "prohibit": prohibit}[argv[0]](argv[1:])
    except OSError as error:
        print(f"vmctl emulator: the network cannot be prepared: {error}", file=sys.stderr)
        sys.exit(1)
