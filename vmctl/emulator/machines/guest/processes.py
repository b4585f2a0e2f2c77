"""The processes that PID 1 starts, and the orphans that it inherits."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from pathlib import Path

TYPE_CHECKING = False  # typing is not imported: every boot of a machine pays for it
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import IO, Any

    Stream = int | IO[Any] | None


class Job:
    """A started process; `done` is set once it was reaped and `returncode` is known."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.pid = process.pid
        self.done = threading.Event()

    @property
    def returncode(self) -> int:
        return self.process.returncode if self.process.returncode is not None else -1


class Processes:
    """Starts processes behind an optional prefix and reaps all that end, orphans included."""

    def __init__(self) -> None:
        self.enter: list[str] = []  # puts a command into the login users' namespace
        self._lock = threading.Lock()
        self._jobs: dict[int, Job] = {}
        self._started = threading.Event()

    def spawn(
        self,
        argv: Sequence[str],
        *,
        stdin: Stream = subprocess.DEVNULL,
        stdout: Stream = subprocess.DEVNULL,
        stderr: Stream = subprocess.DEVNULL,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        as_user: bool = True,
    ) -> Job:
        """Starts argv in a session of its own; OSError if it cannot be started."""
        command = [*(self.enter if as_user else ()), *argv]
        # Under the lock, so that the reaper cannot meet the child before it is registered.
        with self._lock:
            process = subprocess.Popen(
                command,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                env=env,
                cwd=cwd,
                start_new_session=True,
            )
            job = self._jobs[process.pid] = Job(process)
        self._started.set()
        return job

    def run(self, argv: Sequence[str], *, as_user: bool = False) -> tuple[int, str]:
        """Exit code and combined output of a short command."""
        job = self.spawn(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, as_user=as_user)
        assert job.process.stdout is not None
        with job.process.stdout as stream:
            output = stream.read()
        job.done.wait()
        return job.returncode, output.decode("utf-8", "replace")

    def reap_forever(self) -> None:
        """Waits for children until the machine ends; runs in the main thread."""
        while True:
            try:
                pid, status = os.waitpid(-1, 0)
            except ChildProcessError:
                self._started.clear()
                with self._lock:
                    idle = not self._jobs
                if idle:
                    self._started.wait()
                continue
            with self._lock:
                job = self._jobs.pop(pid, None)
            if job is not None:
                job.process.returncode = os.waitstatus_to_exitcode(status)
                job.done.set()


def find_others(root_pid: int) -> list[int]:
    """Pids that a dying machine still has to stop: everything visible to PID 1, or every
    descendant of `root_pid` when it shares its pid namespace with the computer."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] not in "ZX":
                parents[int(entry.name)] = int(fields[1])
    if root_pid == 1:
        return [pid for pid in parents if pid != 1]
    found: list[int] = []
    for pid in parents:
        ancestor = pid
        while ancestor in parents and ancestor != root_pid:
            ancestor = parents[ancestor]
        if ancestor == root_pid and pid != root_pid:
            found.append(pid)
    return found


def stop_all(grace_s: float) -> None:
    """TERM (and HUP for the shells of terminals, which ignore TERM), then KILL after grace_s."""
    root_pid = os.getpid()
    deadline = time.monotonic() + grace_s
    asked: set[int] = set()
    while present := set(find_others(root_pid)):
        for pid in present - asked:  # new sessions, too
            send(pid, signal.SIGTERM)
            send(pid, signal.SIGCONT)
            if leads_terminal(pid):
                send(pid, signal.SIGHUP)
        asked = present
        if time.monotonic() >= deadline:
            break
        time.sleep(0.02)
    # A process may fork while it is being killed: repeat until none is found.
    deadline = time.monotonic() + 5
    while (left := find_others(root_pid)) and time.monotonic() < deadline:
        for pid in left:
            send(pid, signal.SIGKILL)
        time.sleep(0.005)


def send(pid: int, number: signal.Signals) -> None:
    """Sends a signal to a process that may have ended."""
    try:
        os.kill(pid, number)
    except OSError:
        pass


def leads_terminal(pid: int) -> bool:
    """Whether pid is a session leader with a controlling terminal, as a login shell is."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return int(fields[3]) == pid and fields[4] != "0"
