"""The VM's own reports of its boot, over a connection that carries other commands, too."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import IO, TYPE_CHECKING, Any

from vmctl.domain.errors import NotFound, Unreachable, VmctlError
from vmctl.domain.guest_replies import BOOT_REPORT
from vmctl.domain.reply_shapes import checked, decoded
from vmctl.domain.text import last_lines
from vmctl.ssh import rpc
from vmctl.ssh.session.remote import Remote

if TYPE_CHECKING:
    from vmctl.guest.machine.messages import BootRequest

MAX_LINE = 1 << 16
SILENCE_S = 20.0  # a report or an empty line comes every three seconds
NO_SUCH_COMMAND = 127
WAITING = 64  # reports: each is complete, so older ones may be dropped


class BootReports:
    """Reads what guest/machine/boot_report.py prints, in a thread of its own until `close`."""

    def __init__(self, remote: Remote, request: BootRequest) -> None:
        self._heard_at = time.monotonic()
        self._reports: deque[Mapping[str, Any] | VmctlError | None] = deque(maxlen=WAITING)
        self._stream = remote.stream(rpc.boot_report_line(request))
        threading.Thread(target=self._listen, name="boot reports", daemon=True).start()

    def next_report(self) -> Mapping[str, Any] | None:
        """The next report; None when there is none yet.

        Raises EOFError after the last report, Unreachable when the link was lost,
        IntegrityError for what is not a report.
        """
        try:
            found = self._reports.popleft()
        except IndexError:
            if time.monotonic() - self._heard_at > SILENCE_S:
                raise Unreachable(
                    f"No data from the VM for {SILENCE_S:.0f} s: connection lost.",
                    hint="Try again: vmctl up",
                ) from None
            return None
        if found is None:
            raise EOFError
        if isinstance(found, VmctlError):
            raise found
        return found

    def close(self) -> None:
        """End it; nothing of it is left on the VM."""
        self._stream.close()

    def _listen(self) -> None:
        code, words = -1, b""
        # a connection that is closed under the reader ends what it reads
        with contextlib.suppress(OSError, ValueError, EOFError):
            self._read(self._stream.stdout)
            words, code = self._stream.outcome()
        if code == 0:
            self._reports.append(None)
            return
        if code == NO_SUCH_COMMAND:
            self._reports.append(NotFound("There is no python3 on the VM.", hint="vmctl up"))
            return
        reason = last_lines(words.decode("utf-8", "replace"), 1) or "the connection ended"
        self._reports.append(
            Unreachable(
                f"The VM stopped reporting its boot progress: {reason}", hint="Try again: vmctl up"
            )
        )

    def _read(self, stream: IO[bytes]) -> None:
        while line := stream.readline(MAX_LINE):
            self._heard_at = time.monotonic()
            try:
                report = decoded(line)
            except ValueError:
                continue  # a login file of the user's prints something
            if isinstance(report, dict) and "starting" in report:
                try:
                    self._reports.append(checked(BOOT_REPORT, report, "its report"))
                except VmctlError as error:
                    self._reports.append(error)
