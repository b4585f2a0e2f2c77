"""Pauses one API call on request, so that a test can kill its client at exactly that point.

A test asks for the n-th call to be paused `before` it acts or `after` it acted, kills the client
once the call is shown as held, and releases it: the call then ends without a reply, and one that
was paused before it acted never acts.
"""

from __future__ import annotations

import asyncio

from ..errors import Json

MOMENTS = ("before", "after")


class Breakpoints:
    """Counts API calls since a breakpoint was set, and pauses the one it names."""

    def __init__(self) -> None:
        self._calls = 0
        self._changes_only = False
        self._repeats = True
        self._method: str | None = None
        self._last: object = None  # the last request
        self._wanted: tuple[int, str] | None = None
        self._held: Json | None = None
        self._released = asyncio.Event()

    def set(self, body: Json) -> Json:
        """Pause call number `call`, counted from now on; ValueError if the body is malformed."""
        call, when = body.get("call"), body.get("when", "before")
        changes, method = body.get("changes", False), body.get("method")
        repeats = body.get("repeats", True)
        if not isinstance(call, int) or isinstance(call, bool) or call < 1:
            raise ValueError("call must be a number from 1 on")
        if when not in MOMENTS:
            raise ValueError(f"when must be one of {', '.join(MOMENTS)}")
        if not isinstance(changes, bool):
            raise ValueError("changes must be true (count only calls that change something)")
        if not isinstance(repeats, bool):
            raise ValueError("repeats must be false (count a repeated GET once)")
        if not isinstance(method, str | None):
            raise ValueError("method must be the id of a method (count only its calls)")
        self.release()
        self._method, self._repeats, self._last = method, repeats, None
        self._calls, self._changes_only, self._wanted = 0, changes, (call, when)
        return self.status()

    def release(self) -> Json:
        """End the paused call without a reply, and remove the breakpoint."""
        self._released.set()
        self._released = asyncio.Event()
        self._wanted = self._held = None
        return self.status()

    def status(self) -> Json:
        """Return the number of calls counted, and the call that is paused."""
        return {"calls": self._calls, "held": self._held}

    def count(self, http_method: str, method: str, request: object) -> int:
        """Return the number of a call that has arrived; 0 for one that does not count.

        `request` identifies a GET: the same one as just before is a client that polls.
        """
        again = http_method == "GET" and request == self._last
        self._last = request
        if again and not self._repeats:
            return 0
        if self._changes_only and http_method == "GET":
            return 0
        if self._method not in (None, method):
            return 0
        self._calls += 1
        return self._calls

    async def pause(self, number: int, method: str, when: str) -> bool:
        """Wait here if the breakpoint names this call and moment; True: it ends without a reply."""
        if self._wanted != (number, when):
            return False
        self._held = {"call": number, "method": method, "when": when}
        await self._released.wait()
        return True
