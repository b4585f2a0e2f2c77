"""The emulator as a process that a test starts, stops and kills, asked by Google's client too."""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import os
import pkgutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Self

from tests.harness.endpoint import IDLE_S, Endpoint
from tests.harness.eventually import eventually
from tests.harness.folders import remove
from tests.harness.fork_server import ROOT, Forked, fork_server, forkable

START_LIMIT_S = 20.0
STOP_LIMIT_S = 30.0


@functools.cache
def google_document() -> Any:
    """What Google's client library is made from, as it brings it along."""
    from googleapiclient.discovery_cache import get_static_doc

    return json.loads(get_static_doc("compute", "v1"))


class Collections:
    """Google's client, each of whose collections is made once: that takes as long as a call."""

    def __init__(self, service: Any) -> None:
        self._service = service

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._service, name)
        if name in google_document()["resources"]:
            found = functools.cache(found)
            setattr(self, name, found)
        return found


# What the emulator imports late; a forked one has it already.
_PRELOADED = (
    "platformdirs",
    "cryptography.x509",
    "jsonschema",
    "cryptography.hazmat.primitives.asymmetric.ec",
    "uvicorn",
    "uvicorn.lifespan.off",
    "uvicorn.loops.auto",
    "uvicorn.protocols.http.h11_impl",
    "uvicorn.protocols.websockets.wsproto_impl",
)


def preload() -> None:
    """Import all that the emulator can come to need."""
    import vmctl.emulator

    for module in pkgutil.walk_packages(vmctl.emulator.__path__, "vmctl.emulator."):
        if not module.name.startswith("vmctl.emulator.machines.guest"):
            importlib.import_module(module.name)
    for name in _PRELOADED:
        importlib.import_module(name)
    from vmctl.emulator.cloud.catalog import Catalog
    from vmctl.emulator.http.discovery import Discovery

    Discovery.load()
    Catalog.load()


def start_forked(words: list[str], environ: Mapping[str, str], output: IO[bytes]) -> Forked:
    """The emulator as `vmctl emulator start` makes it, without the start of Python: a process and
    a session of its own, with this environment; what it says goes to a file."""
    with open(os.devnull, "rb") as nothing:  # noqa: PTH123
        streams = [nothing.fileno(), output.fileno(), output.fileno()]
        # the title: vmctl looks at the command line before it says that an emulator runs
        parent = fork_server(preload=f"{__name__}:preload", title="vmctl.emulator")
        return parent.start(
            words, cwd=ROOT, environ=environ, streams=streams, new_session=True,
            program="vmctl.emulator.__main__:main",
        )  # fmt: skip


class Emulator(Endpoint):
    """One emulator: its home, its process, and the ways to talk to it."""

    def __init__(self, home: Path, clock: str = "real", *options: str) -> None:
        super().__init__(home)
        self.words = ["serve", "--home", str(home), "--clock", clock, *options]
        self.process: subprocess.Popen[bytes] | Forked | None = None
        self._service: Any = None

    def command(self, *more: str) -> list[str]:
        return [sys.executable, "-m", "vmctl.emulator", *self.words, *more]

    def start(self, environ: Mapping[str, str] | None = None, umask: int = -1) -> Self:
        """Start it and wait until it serves: forked, or installed where a umask is asked for."""
        environ = {**(environ or os.environ), "VMCTL_EMULATOR_CHECK_REPLIES": "1"}
        with tempfile.TemporaryFile() as output:
            if umask == -1 and forkable(environ):
                process: Any = start_forked(self.words, environ, output)
            else:
                process = subprocess.Popen(
                    self.command(), stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                    env=dict(environ), umask=umask,
                )  # fmt: skip
            self.process = process

            def serves() -> bool:
                if process.poll() is not None:
                    output.seek(0)
                    raise AssertionError(output.read().decode())
                served: bool = self.about.get("pid") == process.pid
                return served

            eventually(serves, "the emulator serves", within_s=START_LIMIT_S)
        return self

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End the process with a signal and return its exit status."""
        self._close_client()
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(STOP_LIMIT_S)

    def remove(self) -> None:
        """Stop it if it runs, see that nothing is left of it, and remove its home."""
        self._close_client()
        if self.process is not None and self.process.poll() is None:
            self.stop()
        remove(self.home)

    def client(self) -> Any:
        """Google's own Compute Engine client, pointed at this emulator."""
        if self._service is None:
            from google.oauth2.credentials import Credentials
            from google_auth_httplib2 import AuthorizedHttp
            from googleapiclient.discovery import build_from_document
            from httplib2 import Http

            class Fresh(Http):  # type: ignore[misc]  # httplib2 has no types
                """No request goes out on a connection that the server may be giving up."""

                used_at = 0.0

                def request(self, *args: Any, **more: Any) -> Any:
                    if time.monotonic() - self.used_at > IDLE_S:
                        self.close()
                    try:
                        return super().request(*args, **more)
                    finally:
                        self.used_at = time.monotonic()

            credentials = Credentials(self.secret)  # type: ignore[no-untyped-call]
            http = Fresh(ca_certs=self.about["certificate"])
            self._service = Collections(
                build_from_document(
                    google_document(),
                    http=AuthorizedHttp(credentials, http=http),
                    client_options={"api_endpoint": f"{self.url}/compute/v1/"},
                )
            )
        return self._service

    @contextlib.contextmanager
    def fault(self, **fault: Any) -> Iterator[dict[str, Any]]:
        """Put a fault in force for the length of a block."""
        added = self.admin("POST", "faults", fault)
        try:
            yield added
        finally:
            self.admin("DELETE", "faults")

    def _close_client(self) -> None:
        if self._service is not None:
            self._service.close()
            self._service = None
