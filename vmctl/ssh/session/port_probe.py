"""Whether a port of the VM answers, tried until it does."""

from __future__ import annotations

import select
import socket

from vmctl.clock import Clock
from vmctl.domain.login.ssh_target import Endpoint, Target


class PortProbe:
    """Tries a VM's port until it opens: every try is new, so that none waits for a lost packet."""

    OPEN_AT_ONCE = 12

    def __init__(self, target: Endpoint) -> None:
        self.target = target
        self._tries: list[socket.socket] = []

    def opens(self, seconds: float, clock: Clock) -> bool:
        """Try once more and wait that long for this try or an earlier one.

        A port behind a proxy cannot be probed: the proxy itself finds out.
        """
        if not isinstance(self.target, Target) or not self.target.is_direct:
            return True
        self._try()
        deadline = clock.monotonic() + seconds
        while self._tries:
            left = deadline - clock.monotonic()
            _, done, _ = select.select([], self._tries, [], max(left, 0))
            for attempt in done:
                failed = attempt.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                self._tries.remove(attempt)
                attempt.close()
                if not failed:
                    return True
            if left <= 0:
                return False
        # refused, or no network: there was nothing to wait for
        clock.sleep(max(0.0, deadline - clock.monotonic()))
        return False

    def _try(self) -> None:
        assert isinstance(self.target, Target)
        while len(self._tries) >= self.OPEN_AT_ONCE:
            self._tries.pop(0).close()
        family = socket.AF_INET6 if ":" in self.target.address else socket.AF_INET
        attempt = socket.socket(family, socket.SOCK_STREAM)
        attempt.setblocking(False)
        try:
            attempt.connect((self.target.address, self.target.port))
        except BlockingIOError:
            pass
        except OSError:
            attempt.close()
            return
        self._tries.append(attempt)

    def close(self) -> None:
        """Leave no try open."""
        for attempt in self._tries:
            attempt.close()
        self._tries.clear()
