"""Starts processes from one permanent thread.

bwrap's --die-with-parent follows the thread that started it, so every machine must be started by
a thread that lives as long as the emulator: then any end of the emulator ends the machines."""

from __future__ import annotations

import os
import queue
import subprocess
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import IO, Any

GATE = ("/bin/sh", "-c", 'read -r limits && exec $limits "$@" </dev/null', "sh")

Work = tuple[Callable[[], "subprocess.Popen[bytes]"], "Future[subprocess.Popen[bytes]]"]


class Spawner:
    """A thread that does nothing but start processes."""

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="spawner", daemon=True)
        self._thread.start()

    def start_bound(
        self, argv: Sequence[str], bind: Callable[[int], str], **options: Any
    ) -> subprocess.Popen[bytes]:
        """Starts argv, as `start` does, after `bind` has put its pid under limits.

        argv follows the words that `bind` returns. OSError if either fails; then nothing is left
        running."""
        read, write = os.pipe()
        try:
            process = self.start([*GATE, *argv], stdin=read, **options)
            try:
                limits = bind(process.pid)
            except OSError:
                process.kill()
                process.wait()
                raise
            os.write(write, f"{limits}\n".encode())
            return process
        finally:
            os.close(read)
            os.close(write)

    def start(
        self,
        argv: Sequence[str],
        *,
        uid: int | None = None,
        stdin: int | IO[Any] = subprocess.DEVNULL,
        stdout: int | IO[Any] = subprocess.DEVNULL,
        stderr: int | IO[Any] = subprocess.DEVNULL,
        pass_fds: Sequence[int] = (),
        env: dict[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Starts argv, as uid and without groups when uid is given; OSError if it cannot."""

        def begin() -> subprocess.Popen[bytes]:
            return subprocess.Popen(
                list(argv),
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                pass_fds=tuple(pass_fds),
                env=env,
                cwd="/",
                start_new_session=True,
                user=uid,
                group=uid,
                extra_groups=None if uid is None else [],
                umask=0o022,  # a machine's own, whatever the emulator's
            )

        future: Future[subprocess.Popen[bytes]] = Future()
        self._work.put((begin, future))
        return future.result()

    def close(self) -> None:
        """Ends the thread, and with it everything started with --die-with-parent."""
        self._work.put(None)
        self._thread.join()

    def _serve(self) -> None:
        while (work := self._work.get()) is not None:
            begin, future = work
            try:
                future.set_result(begin())
            except BaseException as error:
                future.set_exception(error)
