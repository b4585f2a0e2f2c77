"""A network link of its own, delayed, rate-limited, cuttable: for tests and the bench. Root only.

Two network namespaces, `laptop` and `cloud`, each with a TUN device; one process carries every IP
packet from one to the other, late, at a rate, or not at all. TCP sees a real path: slow start,
full queues, and silence when the link is cut (no RST, no ICMP). An embedded Compute Engine runs in
`cloud` and gives its machines addresses on the link; its API is at the same 127.0.0.1:PORT in
`laptop`, carried past the link, neither delayed nor cut.

In a test (fixtures in fixtures.py; the link is reset before each test):

    def test_it(linked: Linked) -> None:            # 30 ms there and back, 100 Mbit/s
        linked.laptop("push", cwd=linked.folder)    # a machine (no torch) is up in linked.folder
        linked.link.set(rtt_ms=80, rate_mbit=None)  # from now on
        linked.link.set(cut=True)                   # silence both ways; cut=False heals
        linked.link.set(cut_after_bytes=10_000_000) # cuts itself after N bytes of TCP payload
        linked.link.move()                          # the laptop gets another address
        before = linked.link.counters()             # .up.payload: TCP payload bytes delivered
                                                    # .round_trips: turns of the conversation

A connection that has known a shorter delay is slow for minutes on a longer one, as TCP's start
ends at once: after `set(rtt_ms=...)` open new ones (`move()` makes the old ones stale).

In a script, or by hand:

    with Link.opened(rtt_ms=30, rate_mbit=100) as link:
        link.serve_emulator(home, environ)               # VMCTL_EMULATOR_HOME=home for the client
        subprocess.run([*link.laptop, "vmctl", "up"])    # link.cloud: a command on the other side

    python -m tests.harness.link --rtt-ms 80 --rate-mbit 100 [--home DIR] [COMMAND...]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.harness.eventually import NotInTime, eventually

CLOUD_NETWORK = "10.77.0.0/16"  # as netns_link.py has it
CLOUD_ADDRESS = "10.77.0.1"
PROGRAM = Path(__file__).with_name("netns_link.py")


class LinkError(Exception):
    """The link cannot be made or does not answer; the text says why."""


@dataclass(frozen=True, slots=True)
class Count:
    """What one direction has delivered and dropped so far."""

    packets: int
    ip_bytes: int
    payload: int
    dropped: int
    turns: int
    cut: bool


@dataclass(frozen=True, slots=True)
class Counters:
    """Both directions: `up` is from the laptop to the cloud."""

    up: Count
    down: Count

    @property
    def payload(self) -> int:
        """TCP payload bytes delivered both ways."""
        return self.up.payload + self.down.payload

    @property
    def round_trips(self) -> int:
        """How often data passed up and then down: at least one for each wait."""
        return self.up.turns


def refusal() -> str | None:
    """Why this user cannot have a link here; None when they can."""
    if os.geteuid() != 0:
        return "the link needs root, for network namespaces and TUN devices"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "there is no /dev/net/tun here"
    return None


class Link:
    """A link that lives as long as this object and this process."""

    def __init__(self, *, rtt_ms: float = 0, rate_mbit: float | None = None) -> None:
        if (reason := refusal()) is not None:
            raise LinkError(reason)
        self._control, far = socket.socketpair()
        with far:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(PROGRAM), str(far.fileno())],
                pass_fds=[far.fileno()],
                stdin=subprocess.DEVNULL,
            )
        self._lines = self._control.makefile("rwb", buffering=0)
        self._lock = threading.Lock()
        self._emulators: list[subprocess.Popen[bytes]] = []
        self._relayed: set[int] = set()
        first = self._read()
        pid = self._process.pid
        self.laptop = ["nsenter", f"--net=/proc/{pid}/fd/{first['laptop']}", "--"]
        self.cloud = ["nsenter", f"--net=/proc/{pid}/fd/{first['cloud']}", "--"]
        self.set(rtt_ms=rtt_ms, rate_mbit=rate_mbit)

    @classmethod
    @contextlib.contextmanager
    def opened(cls, *, rtt_ms: float = 0, rate_mbit: float | None = None) -> Iterator[Link]:
        """A link that is removed, with its emulators, when the block ends."""
        link = cls(rtt_ms=rtt_ms, rate_mbit=rate_mbit)
        try:
            yield link
        finally:
            link.close()

    def set(self, **changes: Any) -> Counters:
        """Change rtt_ms, rate_mbit (None: no limit), cut or cut_after_bytes, from now on.

        direction="up" or "down" changes one of them; rtt_ms gives it half of the time then."""
        return self._counters(self._ask(changes))

    def counters(self) -> Counters:
        """What passed so far."""
        return self.set()

    def move(self) -> str:
        """Give the laptop another address, as another Wi-Fi does; the new one."""
        return str(self._ask({"move": True})["address"])

    def reset(self, *, rtt_ms: float = 30, rate_mbit: float | None = 100) -> None:
        """Heal the link and give it this delay and rate, both ways."""
        self.set(cut=False, rtt_ms=rtt_ms, rate_mbit=rate_mbit)

    def serve_emulator(self, home: Path, environ: Mapping[str, str], *, limit_s: float = 60) -> int:
        """Start an embedded Compute Engine in `cloud`, its API in reach of `laptop`; its port.

        Its home, for the client, is VMCTL_EMULATOR_HOME=home. Started again, it has its machines'
        disks again."""
        home.mkdir(parents=True, exist_ok=True)
        with (home / "emulator.log").open("ab") as log:
            process = subprocess.Popen(
                [*self.cloud, "setpriv", "--pdeathsig", "TERM", "--",
                 sys.executable, "-m", "vmctl.emulator", "serve", "--home", str(home)],
                env={**environ, "VMCTL_EMULATOR_NETWORK": CLOUD_NETWORK},
                cwd=home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )  # fmt: skip
        self._emulators.append(process)

        def serving() -> int | None:
            """Its port; None as long as it has not written it."""
            if process.poll() is not None:
                raise LinkError(f"the embedded Compute Engine ended; its log: {log.name}")
            with contextlib.suppress(OSError, ValueError):
                record = json.loads((home / "emulator.json").read_text())
                return int(record["port"]) if record["pid"] == process.pid else None
            return None

        try:
            port = eventually(serving, "it serves", within_s=limit_s)
            assert port is not None
            if port not in self._relayed:
                self._ask({"relay": port})
                self._relayed.add(port)
            eventually(lambda: self._relays(port), "its port is relayed", within_s=limit_s)
        except NotInTime as error:
            raise LinkError(
                f"the embedded Compute Engine did not start ({error}); its log: {log.name}"
            ) from error
        return port

    def close(self) -> None:
        """End the emulators and the link."""
        for process in self._emulators:
            if process.poll() is None:
                process.terminate()
        for process in self._emulators:
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._lines.close()
        self._control.close()
        self._process.wait(timeout=10)

    def _relays(self, port: int) -> bool:
        """Whether a connection from the laptop's side gets through to a port."""
        probe = f"import socket; socket.create_connection(('127.0.0.1', {port}), 2)"
        done = subprocess.run(
            [*self.laptop, sys.executable, "-I", "-S", "-c", probe],
            stderr=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        return done.returncode == 0

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        with self._lock:
            self._lines.write(json.dumps(request).encode() + b"\n")
            return self._read()

    def _read(self) -> dict[str, Any]:
        line = self._lines.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": "it ended"}
        if "error" in answer:
            raise LinkError(f"the link: {answer['error']}")
        return answer

    @staticmethod
    def _counters(answer: Mapping[str, Any]) -> Counters:
        return Counters(Count(**answer["up"]), Count(**answer["down"]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Run a command, or a shell, at one end of a delayed link with an embedded "
        "Compute Engine at the other."
    )
    parser.add_argument("--rtt-ms", type=float, default=30)
    parser.add_argument("--rate-mbit", type=float, default=100)
    parser.add_argument("--home", type=Path, help="the emulator's home; default: a new one")
    parser.add_argument("command", nargs="*")
    wanted = parser.parse_args()
    with contextlib.ExitStack() as stack:
        home = wanted.home
        if home is None:
            base = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/var/tmp")))
            base.chmod(0o755)
            home = base / "emulator"
        try:
            link = stack.enter_context(
                Link.opened(rtt_ms=wanted.rtt_ms, rate_mbit=wanted.rate_mbit or None)
            )
            link.serve_emulator(home, os.environ)
        except LinkError as error:
            raise SystemExit(f"{error}.") from error
        environ = {**os.environ, "VMCTL_LOCAL": "1", "VMCTL_EMULATOR_HOME": str(home)}
        command = wanted.command or [os.environ.get("SHELL", "/bin/sh")]
        code = subprocess.run([*link.laptop, *command], env=environ, check=False).returncode
        print(json.dumps(asdict(link.counters())), file=sys.stderr)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
