"""Polls the API for the VM's address in the background: the API may be out of reach, too."""

from __future__ import annotations

import queue
import threading

from vmctl.clock import Clock
from vmctl.cloud import emulator_process
from vmctl.config import Project
from vmctl.domain.errors import NotFound, Unreachable, VmctlError
from vmctl.domain.login.ssh_target import Endpoint
from vmctl.domain.runs.heartbeat import asking_gap_s, backoff_s
from vmctl.ssh.session.port_probe import PortProbe
from vmctl.workflows.session.session import resolve_target

LEAST_GAP_S = 2.0
OPEN_S = 15.0
REOPEN_S = 5.0  # a handshake that takes longer is started again, with more time each time
HANDSHAKE_GAP_S = 2.0


class AddressPoller:
    """Asks the API now and then, in a thread of its own, until it is closed.

    Asking also renews our key on the VM and pins its host keys, as every command does.
    """

    def __init__(self, project: Project, clock: Clock) -> None:
        self._project = project
        self._clock = clock
        self._replies: queue.SimpleQueue[Endpoint | VmctlError] = queue.SimpleQueue()
        self._wake = threading.Event()
        self._closed = threading.Event()
        # a daemon: nobody waits for a reply that no longer matters
        threading.Thread(target=self._poll, name="poller", daemon=True).start()

    def latest(self) -> Endpoint | VmctlError | None:
        """The latest reply since the last call: the VM's endpoint, or why there is none now.

        NotFound: the VM no longer exists.
        """
        reply = None
        while not self._replies.empty():
            reply = self._replies.get()
        return reply

    def poll_now(self) -> None:
        """Ask soon: the known address is of no use."""
        self._wake.set()

    def close(self) -> None:
        """Stop asking."""
        self._closed.set()
        self._wake.set()

    def _poll(self) -> None:
        times = 0
        while not self._closed.is_set():
            gap = asking_gap_s(times)
            self._closed.wait(min(gap, LEAST_GAP_S))
            self._wake.wait(max(gap - LEAST_GAP_S, 0.0))
            if self._closed.is_set():
                return
            self._wake.clear()
            times += 1
            self._replies.put(self._ask())

    def _ask(self) -> Endpoint | VmctlError:
        try:
            if self._project.local:
                self._look_for_the_emulator()
            return resolve_target(self._project, self._clock)
        except VmctlError as error:
            return error
        except Exception as error:  # an error of a library must not end the polling
            return Unreachable(f"The API does not answer: {error}")

    def _look_for_the_emulator(self) -> None:
        """A stopped emulator stays stopped: commands start it, a waiting tunnel does not."""
        home = emulator_process.home()
        if not home.is_dir():
            raise NotFound(f"The embedded Compute Engine in {home} has stopped.", hint="vmctl up")
        if emulator_process.find(home) is None:
            raise Unreachable(
                "The embedded Compute Engine is not running.", hint="Start it: vmctl emulator start"
            )


class ReconnectRoute:
    """Where the VM is tried, and with which pauses."""

    def __init__(self, target: Endpoint) -> None:
        self._probe = PortProbe(target)
        self._distrusted: Endpoint | None = None  # an endpoint where another machine answered
        self._attempts = 0
        self._handshakes = 0

    @property
    def target(self) -> Endpoint:
        """The endpoint that is tried now."""
        return self._probe.target

    @property
    def patience_s(self) -> float:
        """How long the next handshake may take."""
        return min(REOPEN_S * (self._handshakes + 1), OPEN_S)

    def update(self, reply: Endpoint | VmctlError | None, seen: Endpoint | None) -> str:
        """Take the API's reply, else the cached endpoint; returns why there is none now.

        Raises NotFound when the VM no longer exists.
        """
        if isinstance(reply, NotFound):
            raise reply
        answered = reply if not isinstance(reply, VmctlError) else None
        if answered is not None:
            self._distrusted = None
        endpoint = answered or seen
        if endpoint is not None and endpoint != self.target:
            self._probe.close()
            self._probe = PortProbe(endpoint)
            self._attempts = self._handshakes = 0
        return reply.message if isinstance(reply, VmctlError) else ""

    def try_connect(self, clock: Clock) -> bool:
        """Whether the port answers now, or within the pause before the next attempt."""
        gap = backoff_s(self._attempts)
        self._attempts += 1
        if self.target == self._distrusted:
            clock.sleep(gap)
            return False
        return self._probe.opens(gap, clock)

    def distrust(self) -> None:
        """Another machine answers there: do not try it before the API names it again."""
        self._distrusted = self.target

    def back_off(self, clock: Clock) -> None:
        """Pause after a failed handshake, briefly at first."""
        clock.sleep(min(0.1 * 2**self._handshakes, HANDSHAKE_GAP_S))
        self._handshakes = min(self._handshakes + 1, 10)

    def close(self) -> None:
        """End all attempts."""
        self._probe.close()
