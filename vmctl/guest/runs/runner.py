"""The process that carries one run inside tmux: set-up once, the job, its exit code.

Set-up runs in the workspace, the job in the run's own tree (snapshot.py), which this process
keeps shared with the workspace. The job writes straight into the run's log, so it outlives every
reader; this process shows the same bytes in the tmux pane. Signals that end the pane end the
job's whole process group.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ..paths import RUNS, STATE, python_path, workspace
from ..protocol import TAKES_ARGUMENTS
from ..records import locked, read_json, write_json
from . import job_environment, snapshot
from .failure import explain_line_ends
from .mirror import Mirror
from .run_tree import RunTree, short

SHELL = ("/bin/bash", "--noprofile", "--norc")  # a start file could move the job elsewhere
GRACE_S = 10.0
SAVING = 0.8  # the share of the time between Slurm's warning and its limit to save in
STEP_S = 0.1
SYNC_S = 1.0
RESERVED_BYTES = 512
SYNC_SHARE = 30  # a look that takes long is taken less often: a thirtieth of the time at most


def main(run_id: str) -> int:
    """Carry out one run to its end."""
    return Runner(RUNS / run_id).run()


class Stopped(Exception):
    """A signal asked for the end."""


class Runner:
    """One run from its spec to its exit code."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.spec: dict[str, Any] = read_json(directory / "spec.json") or {}
        self.values = job_environment.take(directory)
        self.log = os.open(directory / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self.reader = os.open(directory / "log", os.O_RDONLY)
        self.slurm: dict[str, Any] = self.spec.get("slurm") or {}
        self.pane_open = not self.slurm
        self.stop_signal = 0
        self.child: subprocess.Popen[bytes] | None = None
        self.tree: RunTree | None = None
        self.mirror: Mirror | None = None
        self.sync_at = 0.0
        self.goes_on = False  # a next job of Slurm's takes the run over

    def run(self) -> int:
        """Prepare, execute, record; the exit code is the command's."""
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, self._on_signal)
        if self.slurm:
            from ..slurm.submission import note_start

            note_start(self.directory)
            (self.directory / "exit").unlink(missing_ok=True)  # Slurm starts its job anew
        self._set_phase("preparing")
        reserve = self.directory / ".exit"  # the last word has its place also on a full disk
        reserve.write_bytes(b" " * RESERVED_BYTES)
        code = 1
        try:
            code = self._execute_all()
        except Stopped:
            code = 128 + self.stop_signal
            self.goes_on = self._hand_on()
        except OSError as error:
            self._write_line(f"cannot continue: {error}")
            code = 126
        finally:
            self._sync_back()
            self._copy_to_pane()
            if not self.goes_on:
                self._record_exit(code, reserve)
        if self.tree is not None and not self.goes_on:
            snapshot.dismantle(self.tree)
        return code

    def _record_exit(self, code: int, reserve: Path) -> None:
        cancelled = (self.directory / "cancel").exists()
        record = {
            "code": code,
            "cancelled": cancelled,
            "interrupted": bool(self.stop_signal) and not cancelled,
            "ended_at": time.time(),
        }
        try:
            write_json(self.directory / "exit", record)
            reserve.unlink(missing_ok=True)
        except OSError:
            with reserve.open("r+b") as file:
                file.write(json.dumps(record).encode())
            reserve.replace(self.directory / "exit")

    def _execute_all(self) -> int:
        spec = self.spec
        root = workspace(spec["project"])
        folder = root / spec["directory"]
        environment = self._environment()
        if os.environ.get("VMCTL_UNLOADED"):  # the batch script could not load the job's modules
            self.tree = RunTree.load(self.directory)
            names = os.environ["VMCTL_UNLOADED"]
            self._write_line(f"modules cannot be loaded: {names} (see: module avail)")
            return 1
        if spec.get("serves"):  # in the workspace itself, where notebooks are
            from ..slurm.service_job import listen

            line, given = listen(self.directory, spec)
            self._set_phase("running")
            self._write_line(f"serving: {line}")
            return self._execute([*SHELL, "-c", line], folder, environment | given)
        self.tree = RunTree.load(self.directory)
        if self.tree is None:
            raise FileNotFoundError(f"{short(self.directory)} has no tree")
        steps = spec["setup"]
        for number, step in enumerate(steps, 1):
            code = self._set_up(step, f"set-up {number}/{len(steps)}", root, folder, environment)
            if code != 0:
                return code
        self.mirror = Mirror(self.tree)
        self.mirror.sync(after_setup=True)
        if spec.get("installs"):
            from .python_environment import PythonEnvironment  # most jobs install nothing

            made = PythonEnvironment(spec, self.tree, self._execute, self._write_line)
            if code := made.prepare(environment, self.directory / "log"):
                return code
        folder = Path(self.tree.top) / spec["directory"]
        line = spec["command"].strip()
        words = [str(word) for word in spec["args"]]
        shown = " ".join([line, *map(shlex.quote, words)])
        self._set_phase("running")
        self._write_line(f"running in {short(folder)}: {shown}")
        takes_them = re.search(TAKES_ARGUMENTS, line)
        script = f'{line} "$@"' if words and not takes_them else line
        argv = [*SHELL, "-o", "pipefail", "-c", script, "job", *words]
        if int(self.slurm.get("nodes") or 1) > 1:
            from ..slurm.nodes import launcher, meeting_point

            argv = [*launcher(self.slurm["nodes"]), *argv]
            environment |= meeting_point()
        code = self._execute(argv, folder, environment)
        if code and (why := explain_line_ends(line, folder)):
            self._write_line(why)
        return code

    def _environment(self) -> dict[str, str]:
        hidden = {"TMUX", "TMUX_PANE"}
        found = {name: text for name, text in os.environ.items() if name not in hidden}
        path = python_path()
        # what modules brought comes first, unless the target names its Python
        if self.slurm.get("modules") and not self.spec.get("python"):
            path = f"{os.environ.get('PATH', '')}:{path}"
        found |= {"PATH": path, "PYTHONUNBUFFERED": "1", "TERM": "dumb"}
        found["VMCTL_RUN"] = self.directory.name
        return found | self.values

    # -- set-up: once per machine and content ------------------------------------------------

    def _set_up(
        self, step: str, label: str, root: Path, folder: Path, environment: dict[str, str]
    ) -> int:
        done = STATE / "setup"
        marker = done / self._fingerprint(step, root, folder)
        if marker.exists():
            self._write_line(f"{label}: {step}: already done")
            return 0
        with locked(done / ".lock"):  # two runs at once prepare one after the other
            if marker.exists():
                self._write_line(f"{label}: {step}: already done")
                return 0
            self._write_line(f"{label}: {step}")
            began = time.monotonic()
            code = self._execute([*SHELL, "-c", step], folder, environment)
            if code == 0:
                write_json(marker, {"step": step, "ended_at": time.time()})
                self._write_line(f"{label}: done in {time.monotonic() - began:.1f} s")
            else:
                self._write_line(f"{label} failed with exit code {code}: {step}")
                if why := explain_line_ends(step, folder):
                    self._write_line(why)
        return code

    def _fingerprint(self, step: str, root: Path, folder: Path) -> str:
        """What the step depends on: its words, the project's files among them, the environment.

        The workspace's own identity is part of it: a new workspace is prepared again.
        """
        digest = hashlib.sha256()
        try:
            words = shlex.split(step)
        except ValueError:
            words = step.split()
        identity = root.stat()
        parts = [step, str(folder), f"{identity.st_dev}:{identity.st_ino}"]
        parts += [f"{name}={self.values[name]}" for name in sorted(self.values)]
        for part in parts:
            digest.update(part.encode("utf-8", "surrogateescape") + b"\0")
        for word in words:
            path = folder / word
            if path.is_file():
                digest.update(hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()

    # -- the run's tree ----------------------------------------------------------------------

    def _sync_now_and_then(self) -> None:
        """Mirror the tree while the job runs; a failure does not stop it."""
        began = time.monotonic()
        if self.mirror is None or began < self.sync_at:
            return
        try:
            self.mirror.sync()
        except OSError as error:
            self._write_line(f"the workspace cannot be kept in step with the run: {error}")
            self.sync_at = began + 60.0
            return
        took = time.monotonic() - began
        self.sync_at = began + max(SYNC_S, SYNC_SHARE * took)

    def _sync_back(self) -> None:
        if self.mirror is None:
            return
        try:
            for line in snapshot.sync_back(self.mirror):
                self._write_line(line)
        except OSError as error:
            self._write_line(f"the run's files are in {short(self.directory / 'tree')}: {error}")

    # -- processes ---------------------------------------------------------------------------

    def _execute(self, argv: list[str], folder: Path, environment: dict[str, str]) -> int:
        """Run one program in a process group of its own until it ends."""
        self._raise_if_stopped()
        self.child = subprocess.Popen(
            argv,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
        )
        kill_at = 0.0
        while True:
            try:
                code = self.child.wait(STEP_S)
                break
            except subprocess.TimeoutExpired:
                self._copy_to_pane()
            self._sync_now_and_then()
            if self.stop_signal and not kill_at:
                self._terminate()
                kill_at = time.monotonic() + self._grace_s()
            elif kill_at and time.monotonic() > kill_at:
                self._signal_group(signal.SIGKILL)
        if self.stop_signal:
            self._signal_group(signal.SIGKILL)  # what its children left behind
        self._copy_to_pane()
        self._raise_if_stopped()
        return code if code >= 0 else 128 - code

    def _terminate(self) -> None:
        """SIGTERM to the job; to srun's tasks by Slurm, because srun kills them for it."""
        assert self.child is not None
        if self.slurm:
            from ..slurm.nodes import terminate_tasks

            if terminate_tasks(self.child.pid):
                return
        self._signal_group(signal.SIGTERM)

    def _signal_group(self, number: int) -> None:
        assert self.child is not None
        try:
            os.killpg(self.child.pid, number)
        except (ProcessLookupError, PermissionError):
            pass

    def _grace_s(self) -> float:
        """How long the job may take to save."""
        is_limit = self.slurm and not (self.directory / "cancel").exists()
        return float(self.slurm.get("term_s") or 0) * SAVING if is_limit else GRACE_S

    def _hand_on(self) -> bool:
        """Whether a next job of Slurm's takes this run over, now that its time is up."""
        if not self.slurm.get("resubmit") or (self.directory / "cancel").exists():
            return False
        from ..slurm.submission import resubmit

        job_environment.leave(self.directory, self.values)
        if not resubmit(self.directory):
            job_environment.drop(self.directory)
            self._write_line("Slurm did not take the next job")
            return False
        self._write_line("the time limit is near: the run goes on in a next job")
        return True

    def _on_signal(self, number: int, _frame: object) -> None:
        self.stop_signal = self.stop_signal or number

    def _raise_if_stopped(self) -> None:
        if self.stop_signal:
            raise Stopped

    # -- what it tells -----------------------------------------------------------------------

    def _set_phase(self, name: str) -> None:
        write_json(self.directory / "phase", {"phase": name, "since": time.time()})

    def _write_line(self, text: str) -> None:
        with contextlib.suppress(OSError):  # a full disk: the exit code must still be written
            os.write(self.log, f"[vmctl] {text}\n".encode("utf-8", "surrogateescape"))
        self._copy_to_pane()

    def _copy_to_pane(self) -> None:
        """Copy what is new in the log to the pane; a closed pane does not stop the run."""
        while self.pane_open:
            data = os.read(self.reader, 65536)
            if not data:
                return
            try:
                sys.stdout.buffer.write(data)
                sys.stdout.buffer.flush()
            except OSError:
                self.pane_open = False
