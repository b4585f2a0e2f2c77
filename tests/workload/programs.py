"""The workload's programs without their start-up: forked from a process that has torch.

To load torch takes longer than all that most tests ask of it. What `run` and `start` run is a
process of its own in all else: its streams, its signals, its end. A few tests start the program
itself, for they ask how it starts.
"""

import os
import runpy
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path

from tests.harness.fork_server import ForkServer

WORKLOAD = Path(__file__).resolve().parents[2] / "workload"
_PATIENCE_S = 120
_server = None


# -- the tests' side -----------------------------------------------------------------------------


class Program:
    """What Python runs with `words`, in workload/; like Popen, as far as tests need it."""

    def __init__(self, words, *, stderr=None, program="python"):
        """Its standard error goes where its output goes, or to the descriptor `stderr`."""
        reader, writer = os.pipe()
        with Path(os.devnull).open() as nothing, os.fdopen(writer, "wb"):
            self._process = server().start(
                [str(word) for word in words],
                cwd=WORKLOAD,
                environ=os.environ.copy(),
                streams=[nothing.fileno(), writer, writer if stderr is None else stderr],
                program=f"{__name__}:{program}",
            )
        self.stdout = os.fdopen(reader, encoding="utf-8")
        self.pid = self._process.pid

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._process.poll() is None:
            self._process.kill()
        self.stdout.close()

    def send_signal(self, signum):
        os.kill(self.pid, signum)

    def wait(self):
        """The exit code, negative for a signal's."""
        return self._process.wait(_PATIENCE_S)


def run(words, *, program="python"):
    """Run Python with `words` in workload/ to its end; one that hangs is asked to end."""
    with os.fdopen(os.memfd_create("stderr"), "w+", encoding="utf-8") as errors:
        with Program(words, stderr=errors.fileno(), program=program) as process:
            patience = threading.Timer(_PATIENCE_S, process.send_signal, [signal.SIGTERM])
            patience.start()
            output = process.stdout.read()
            code = process.wait()
            patience.cancel()
        errors.seek(0)
        return subprocess.CompletedProcess(words, code, output, errors.read())


def measure_briefly():
    """Let a training that fits a time measure two steps: tests need no better figure."""
    import budget

    budget.MEASURED_S = 0.0


def server():
    global _server
    if _server is None:
        _server = ForkServer(preload=f"{__name__}:preload")
    return _server


def close():
    """End the process that forks."""
    global _server
    if _server is not None:
        _server.close()
        _server = None


# -- the forked process's side --------------------------------------------------------------------


def preload():
    """Import what the programs need; the forks are sound because nothing here starts a thread."""
    sys.path.insert(0, str(WORKLOAD))
    import baseline  # noqa: F401
    import colorize  # noqa: F401
    import torch.distributed.run  # noqa: F401

    measure_briefly()
    (_,) = Path("/proc/self/task").iterdir()


def python():
    """Do as Python does with the words on its command line."""
    words = sys.argv[1:]
    if words[0] == "-u":
        sys.stdout.reconfigure(write_through=True)
        words = words[1:]
    if words[:2] == ["-W", "error"]:
        warnings.simplefilter("error")
        words = words[2:]
    if words[0] == "-c":
        sys.argv = [words[0], *words[2:]]
        exec(compile(words[1], "<string>", "exec"), {"__name__": "__main__"})
    elif words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")


def torchrun():
    """torchrun, whose processes are forked, too."""
    from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler
    from torch.distributed.run import main

    workers = ForkServer.of_this_process()

    class Worker:
        """As much of Popen as torchrun uses."""

        def __init__(self, args, env, stdout, stderr, start_new_session):
            assert (stdout, stderr) == (None, None)
            self._process = workers.start(
                args[1:],
                cwd=Path.cwd(),
                environ=env,
                streams=[0, 1, 2],
                new_session=start_new_session,
                program=f"{__name__}:python",
            )
            self.pid = self._process.pid
            self.poll = self._process.poll

        def wait(self, timeout=None):
            try:
                return self._process.wait(timeout)
            except TimeoutError:
                raise subprocess.TimeoutExpired("a forked process", timeout) from None

    subprocess_handler.Popen = Worker
    main(sys.argv[1:])
