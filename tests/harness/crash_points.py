"""kill -9 of the client at a chosen API call, and what the embedded Compute Engine holds then."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

from tests.harness.cloud import LocalCloud
from tests.harness.endpoint import LIMIT_S
from tests.harness.eventually import GAP_S
from tests.harness.fork_server import Forked

MOMENTS = ("before", "after")
Killed = Callable[..., Iterator[str]]  # kills a command at its calls, as `at_every_change` does


class HeldCloud(LocalCloud):
    """A laptop with an emulator of its own, whose API calls can be held."""

    def held(self, client: subprocess.Popen[bytes] | Forked) -> str | None:
        """Wait until a call of this client is held; its method, None if it ended before."""
        held: dict[str, Any] | None = None
        while held is None and client.poll() is None:
            held = self.ask("GET", "/emulator/v1/hold")["held"]
            time.sleep(GAP_S)
        return None if held is None else str(held["method"])

    def killed_at(self, call: int, when: str, *words: str, **counted: Any) -> str | None:
        """Kill -9 a command at its n-th API call; the call's method, None if it never came to it.

        With `changes=True` only calls that change something are counted, with `method=ID` only
        those of one method, with `repeats=False` a question asked again and again once.
        """
        self.ask("POST", "/emulator/v1/hold", {"call": call, "when": when, **counted})
        with tempfile.TemporaryFile() as output:
            client = self.laptop.start_forked(*words, cwd=self.folder, output=output)
            method: str | None = ""  # killed whatever happens, unless it comes to its end
            try:
                method = self.held(client)
            finally:
                if method is not None:
                    os.killpg(client.pid, signal.SIGKILL)
            self.ask("DELETE", "/emulator/v1/hold")
            code = client.wait(LIMIT_S)
            if method is None:
                output.seek(0)
                assert code == 0, output.read().decode()
        return method

    def at_every_call(
        self, when: str, *words: str, before_each: Callable[[], object], **counted: Any
    ) -> Iterator[str]:
        """The methods at which the command was killed, one after the other, until it came through.

        `before_each` sets the scene; what is yielded to looks at what became of it.
        """
        for call in itertools.count(1):
            before_each()
            method = self.killed_at(call, when, *words, **counted)
            if method is None:
                return
            yield f"{when} call {call}, {method}"

    def step_by_step(self, *words: str) -> Iterator[str]:
        """Killed before its first change and typed again and again, killed after the first of each.

        The methods of these changes; it has come through at the end.
        """
        method = self.killed_at(1, "before", *words, changes=True)
        assert method is not None, "it changes nothing"
        yield f"before {method}"
        for _ in range(30):
            method = self.killed_at(1, "after", *words, changes=True)
            if method is None:
                return
            yield f"after {method}"
        raise AssertionError("each time that it is typed it changes something")

    def at_every_change(self, *words: str, before_each: Callable[[], object]) -> Iterator[str]:
        """As `at_every_call`, before the first call that changes something and after each one.

        Between two of them nothing becomes other in the cloud: these moments stand for all.
        """
        before_each()
        method = self.killed_at(1, "before", *words, changes=True)
        assert method is not None, "it changes nothing"
        yield f"before call 1, {method}"
        yield from self.at_every_call("after", *words, before_each=before_each, changes=True)
