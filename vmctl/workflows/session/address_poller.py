"""Where is the VM now? Asked beside other work, because the API may be as far away as the VM."""

from __future__ import annotations

import queue
import threading

from vmctl.clock import Clock
from vmctl.cloud import emulator_process
from vmctl.config import Project
from vmctl.domain.errors import NotFound, Unreachable, VmctlError
from vmctl.domain.login.ssh_target import Target
from vmctl.domain.runs.heartbeat import asking_gap_s, backoff_s
from vmctl.ssh.session.port_probe import PortProbe
from vmctl.workflows.session.session import resolve_target

LEAST_GAP_S = 2.0
OPEN_S = 15.0
REOPEN_S = 5.0  # a handshake that takes longer is begun again, with more patience each time
HANDSHAKE_GAP_S = 2.0


class AddressPoller:
    """Asks the API now and then, in a thread of its own, until it is closed.

    Asking also renews our key on the VM and pins its host keys, as every command does.
    """

    def __init__(self, project: Project, clock: Clock) -> None:
        self._project = project
        self._clock = clock
        self._news: queue.SimpleQueue[Target | VmctlError] = queue.SimpleQueue()
        self._wake = threading.Event()
        self._over = threading.Event()
        # a daemon: nobody waits for an answer that no longer matters
        threading.Thread(target=self._ask_on, name="poller", daemon=True).start()

    def latest(self) -> Target | VmctlError | None:
        """What was learnt since the last call: the VM's door, or why there is none just now.

        NotFound: the VM no longer exists.
        """
        found = None
        while not self._news.empty():
            found = self._news.get()
        return found

    def poll_now(self) -> None:
        """Ask soon: what is known is of no use."""
        self._wake.set()

    def close(self) -> None:
        """Ask no more."""
        self._over.set()
        self._wake.set()

    def _ask_on(self) -> None:
        times = 0
        while not self._over.is_set():
            gap = asking_gap_s(times)
            self._over.wait(min(gap, LEAST_GAP_S))
            self._wake.wait(max(gap - LEAST_GAP_S, 0.0))
            if self._over.is_set():
                return
            self._wake.clear()
            times += 1
            self._news.put(self._ask())

    def _ask(self) -> Target | VmctlError:
        try:
            if self._project.local:
                self._look_for_the_emulator()
            return resolve_target(self._project, self._clock)
        except VmctlError as error:
            return error
        except Exception as error:  # a library's own trouble is no reason to ask no more
            return Unreachable(f"The API does not answer: {error}")

    def _look_for_the_emulator(self) -> None:
        """Whoever stopped it wants it stopped: commands start it, a tunnel that waits does not."""
        home = emulator_process.home()
        if not home.is_dir():
            raise NotFound(f"The embedded Compute Engine in {home} has stopped.", hint="vmctl up")
        if emulator_process.find(home) is None:
            raise Unreachable(
                "The embedded Compute Engine is not running.", hint="Start it: vmctl emulator start"
            )


class ReconnectRoute:
    """Where the VM is tried, and how patiently."""

    def __init__(self, target: Target) -> None:
        self._probe = PortProbe(target)
        self._distrusted: Target | None = None  # a door where somebody else answered
        self._attempts = 0
        self._handshakes = 0

    @property
    def target(self) -> Target:
        """The door that is tried now."""
        return self._probe.target

    @property
    def patience_s(self) -> float:
        """How long the next handshake may take."""
        return min(REOPEN_S * (self._handshakes + 1), OPEN_S)

    def update(self, news: Target | VmctlError | None, seen: Target | None) -> str:
        """Take what the API said, else what this computer saw last; why there is no door now.

        Raises NotFound when the VM no longer exists.
        """
        if isinstance(news, NotFound):
            raise news
        if isinstance(news, Target):
            self._distrusted = None
        door = news if isinstance(news, Target) else seen
        if door is not None and door != self.target:
            self._probe.close()
            self._probe = PortProbe(door)
            self._attempts = self._handshakes = 0
        return news.message if isinstance(news, VmctlError) else ""

    def try_connect(self, clock: Clock) -> bool:
        """Whether somebody answers there now, or within the pause before the next try."""
        gap = backoff_s(self._attempts)
        self._attempts += 1
        if self.target == self._distrusted:
            clock.sleep(gap)
            return False
        return self._probe.opens(gap, clock)

    def distrust(self) -> None:
        """Somebody else answers there: not again before the API says that it is the VM's."""
        self._distrusted = self.target

    def back_off(self, clock: Clock) -> None:
        """After a handshake in vain: short at first."""
        clock.sleep(min(0.1 * 2**self._handshakes, HANDSHAKE_GAP_S))
        self._handshakes = min(self._handshakes + 1, 10)

    def close(self) -> None:
        """Leave no try open."""
        self._probe.close()
