"""`vmctl` without its start-up: a parent that has everything imported forks for each command line.

A test asks over a socket pair, with the new process's standard streams attached to the message.
The child puts argv, environment, folder and streams in place and then runs the entry point of the
installed program, in a process that is as much its own as any other: its pid, its signals, its
exit code, what is done at its end.

What the interpreter itself reads while it starts (PYTHON*, the locale) cannot be changed
afterwards: `forkable` says whether an environment asks for that, and the harness then starts the
installed program.

Run as `python -m tests.harness.fork_server FD PRELOAD TITLE`; it ends when the other end of FD is
closed.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import importlib
import json
import os
import pkgutil
import selectors
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

ROOT = Path(__file__).resolve().parents[2]
_READ_AT_START = ("PYTHON", "LC_", "LANG", "COVERAGE_")
_STREAMS = 3
_MESSAGE_LIMIT = 1 << 20
VMCTL = "vmctl.__main__:run"  # the entry point of the installed program

# What a command may import late; a forked one has it already.
_PRELOADED = (
    "googleapiclient.discovery",
    "googleapiclient.errors",
    "google_auth_httplib2",
    "google.oauth2.credentials",
    "google.oauth2.service_account",
    "httplib2",
    "fabric",
    "paramiko",
    "cryptography.hazmat.primitives.asymmetric.ed25519",
    "rich.console",
    "rich.progress",
    "rich.table",
    "rich.live",
    "rich.markup",
    "asyncio",
    "concurrent.futures",
    "json",
    "platformdirs",
)


def forkable(environ: Mapping[str, str]) -> bool:
    """Whether the interpreter would start the same under this environment as under ours."""

    def read_at_start(found: Mapping[str, str]) -> dict[str, str]:
        return {k: v for k, v in found.items() if k.startswith(_READ_AT_START)}

    ours = {k: v for k, v in read_at_start(os.environ).items() if not k.startswith("COVERAGE_")}
    asked = {k: v for k, v in read_at_start(environ).items() if not k.startswith("COVERAGE_")}
    return ours == asked


# -- the test's side -----------------------------------------------------------------------------


class Forked:
    """One command line that runs in a forked process; like `Popen`, as far as tests need it."""

    def __init__(self, pid: int, answer: socket.socket) -> None:
        self.pid = pid
        self._answer = answer
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code if it has ended, else None."""
        with contextlib.suppress(TimeoutError, BlockingIOError):
            self.wait(0)
        return self.returncode

    def wait(self, timeout_s: float | None = None) -> int:
        """The exit code, negative for a signal's; raises TimeoutError."""
        if self.returncode is None:
            self._answer.settimeout(timeout_s)
            code = self._answer.recv(64)
            self._answer.close()
            if not code:
                raise RuntimeError("the fork server has ended")
            self.returncode = int(code)
        return self.returncode

    def let_go(self) -> None:
        """It goes on by itself: nobody will ask how it ended."""
        self._answer.close()

    def send_signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class ForkServer:
    """One parent; `prefix` puts it, and so all its children, into another network, say.

    `preload` is the `MODULE:FUNCTION` that imports what the children are to have; their command
    line ends with `title`.
    """

    def __init__(
        self, prefix: Sequence[str] = (), preload: str = f"{__name__}:preload", title: str = ""
    ) -> None:
        self._lock = threading.Lock()
        self._socket, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        size = _MESSAGE_LIMIT
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
        environ = {k: v for k, v in os.environ.items() if not k.startswith("VMCTL_")}
        with far:
            self._process = subprocess.Popen(
                [*prefix, sys.executable, "-m", __name__, str(far.fileno()), preload, title],
                pass_fds=[far.fileno()],
                cwd=ROOT,
                env=environ,
                stdin=subprocess.DEVNULL,
            )

    @classmethod
    def of_this_process(cls) -> ForkServer:
        """A parent that is a fork of this process, which must have one thread only."""
        server = cls.__new__(cls)
        server._lock = threading.Lock()
        server._socket, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if os.fork() == 0:
            server._socket.close()
            _work(far)
        far.close()
        return server

    def start(
        self,
        words: Sequence[str],
        *,
        cwd: Path,
        environ: Mapping[str, str],
        streams: Sequence[int],
        new_session: bool = False,
        program: str = VMCTL,
    ) -> Forked:
        """Run `vmctl WORDS…`, or another `MODULE:FUNCTION`, with these as its standard streams."""
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environ = {k: v for k, v in environ.items() if not k.startswith("COVERAGE_")}
        asked = [program, list(words), str(cwd), environ, new_session]
        message = json.dumps(asked, ensure_ascii=True)
        with far:
            descriptors = array.array("i", [*streams, far.fileno()])
            attached = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)]
            with self._lock:
                self._socket.sendmsg([message.encode()], attached)
        pid = near.recv(64)
        if not pid:
            raise RuntimeError("the fork server has ended")
        return Forked(int(pid), near)

    def run(
        self,
        words: Sequence[str],
        *,
        cwd: Path,
        environ: Mapping[str, str],
        stdin: bytes,
        timeout_s: float,
    ) -> tuple[int, bytes, bytes]:
        """Run it to its end: its exit code and what it wrote to its two streams."""
        into, feed = os.pipe()
        readers: list[IO[bytes]] = []
        writers: list[int] = []
        for _ in range(2):
            reader, writer = os.pipe()
            readers.append(os.fdopen(reader, "rb"))
            writers.append(writer)
        try:
            process = self.start(words, cwd=cwd, environ=environ, streams=[into, *writers])
        finally:
            for descriptor in (into, *writers):
                os.close(descriptor)
        outputs: list[bytes] = [b"", b""]

        def read(index: int) -> None:
            outputs[index] = readers[index].read()

        threads = [threading.Thread(target=read, args=(index,)) for index in range(2)]
        for thread in threads:
            thread.start()
        with contextlib.suppress(BrokenPipeError), os.fdopen(feed, "wb") as stream:
            stream.write(stdin)
        try:
            code = process.wait(timeout_s)
        except TimeoutError:
            process.kill()
            process.wait(timeout_s)
            raise
        finally:
            for thread in threads:
                thread.join(timeout_s)
            for reader_ in readers:
                reader_.close()
        return code, outputs[0], outputs[1]

    def close(self) -> None:
        self._socket.close()
        self._process.wait(30)


_servers: dict[tuple[str, ...], ForkServer] = {}
_asking = threading.RLock()  # several threads may be the first to ask


def fork_server(
    prefix: Sequence[str] = (), preload: str = f"{__name__}:preload", title: str = ""
) -> ForkServer:
    """The parent for this prefix and what it has imported, started when it is first asked for."""
    key = (preload, *prefix)
    with _asking:
        if key not in _servers:
            _servers[key] = ForkServer(prefix, preload, title)
        return _servers[key]


def close_all() -> None:
    """End every parent; what they forked goes on."""
    while _servers:
        _servers.popitem()[1].close()


# -- the parent ----------------------------------------------------------------------------------


def preload() -> None:
    """Import all that a command line can come to need."""
    import vmctl

    for module in pkgutil.walk_packages(vmctl.__path__, "vmctl."):
        if not module.name.startswith(("vmctl.emulator", "vmctl.guest", "vmctl.__main__")):
            importlib.import_module(module.name)
    importlib.import_module("vmctl.__main__")
    for name in _PRELOADED:
        importlib.import_module(name)
    from vmctl.cli.app import command_tree
    from vmctl.cloud.client import discovery_document

    for command in command_tree().commands.values():
        assert command
    discovery_document()


def _serve(asked: socket.socket) -> list[Any]:
    """Fork for each message; returns in the child only, with what it shall do."""
    children: dict[int, socket.socket] = {}
    woken, waker = socket.socketpair()
    woken.setblocking(False)
    waker.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
    watched = selectors.DefaultSelector()
    watched.register(asked, selectors.EVENT_READ)
    watched.register(woken, selectors.EVENT_READ)
    while True:
        ready = {key.fileobj for key, _ in watched.select()}
        if woken in ready:
            with contextlib.suppress(BlockingIOError):
                while woken.recv(4096):
                    pass
            _tell_of_the_ended(children)
        if asked not in ready:
            continue
        message, attached, _, _ = asked.recvmsg(_MESSAGE_LIMIT, socket.CMSG_SPACE(4 * 8))
        if not message:
            os._exit(0)
        descriptors = array.array("i")
        descriptors.frombytes(b"".join(data for _, _, data in attached))
        answer = socket.socket(fileno=descriptors[_STREAMS])
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            watched.close()
            for end in (woken, waker, asked, answer, *children.values()):
                end.close()
            found: list[Any] = [*json.loads(message), list(descriptors[:_STREAMS])]
            return found
        children[pid] = answer
        for descriptor in descriptors[:_STREAMS]:
            os.close(descriptor)
        answer.send(str(pid).encode())


def _tell_of_the_ended(children: dict[int, socket.socket]) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        with children.pop(pid) as answer, contextlib.suppress(OSError):
            answer.send(str(os.waitstatus_to_exitcode(status)).encode())


def _become(words: list[str], cwd: str, environ: dict[str, str], new_session: bool,
            streams: list[int]) -> None:  # fmt: skip
    """Put in place all that a new process is given."""
    if new_session:
        os.setsid()
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)  # inheritable, which os.open's are not
        os.close(descriptor)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environ)
    program = str(Path(sys.executable).with_name("vmctl"))
    sys.argv = [program, *words]
    sys.orig_argv = [sys.executable, program, *words]
    unbuffered = bool(environ.get("PYTHONUNBUFFERED"))
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115  descriptors
    for number, name, errors in ((1, "stdout", "strict"), (2, "stderr", "backslashreplace")):
        stream = open(  # noqa: SIM115
            number, "w", encoding="utf-8", errors=errors, closefd=False,
            buffering=1 if os.isatty(number) or number == 2 else -1,
        )  # fmt: skip
        if unbuffered:
            stream.reconfigure(write_through=True)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _named(name: str) -> Callable[[], object]:
    """The function that `MODULE:FUNCTION` names."""
    module, _, function = name.partition(":")
    found: Callable[[], object] = getattr(importlib.import_module(module), function)
    return found


def main() -> None:
    asked = socket.socket(fileno=int(sys.argv[1]))
    asked.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _MESSAGE_LIMIT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _named(sys.argv[2])()
    import gc

    gc.collect()
    gc.freeze()  # a child need not look through it, and so shares it
    _work(asked)


def _work(asked: socket.socket) -> NoReturn:
    """Fork for each message; the children run what it names and end."""
    program, words, cwd, environ, new_session, streams = _serve(asked)
    _become(words, cwd, environ, new_session, streams)
    run = _named(program)
    code = 1
    try:
        returned = run()
        code = returned if isinstance(returned, int) else 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    _end(code)


def _end(code: int) -> NoReturn:
    """All that the interpreter does at its end, but for taking a hundred modules apart.

    That would copy each page which is shared with the parent: half of a short command's time.
    """
    threading._shutdown()  # type: ignore[attr-defined]  # waits for what is no daemon
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            code = code or 120  # as the interpreter's own
    os._exit(code)


if __name__ == "__main__":
    main()
