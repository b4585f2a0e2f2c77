"""The emulator as a process that a test starts, stops and kills, asked by Google's client too."""

from __future__ import annotations

import contextlib
import functools
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from tests.harness.door import Door
from tests.harness.eventually import eventually
from tests.harness.folders import remove

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


class Emulator(Door):
    """One emulator: its home, its process, and the ways to talk to it."""

    def __init__(self, home: Path, clock: str = "real") -> None:
        super().__init__(home)
        self.clock = clock
        self.process: subprocess.Popen[bytes] | None = None
        self._service: Any = None

    def command(self, *more: str) -> list[str]:
        words = [sys.executable, "-m", "vmctl.emulator", "serve", "--home", str(self.home)]
        return [*words, "--clock", self.clock, *more]

    def start(self, **options: Any) -> Self:
        """Start it and wait until it serves."""
        options.setdefault("stderr", subprocess.PIPE)
        self.process = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, **options)
        process = self.process

        def serves() -> bool:
            assert process.poll() is None, process.communicate()
            return self.about.get("pid") == process.pid

        eventually(serves, "the emulator serves", within_s=START_LIMIT_S)
        return self

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End the process with a signal and return its exit status."""
        self._close_client()
        assert self.process is not None
        self.process.send_signal(number)
        with self.process as process:
            return process.wait(STOP_LIMIT_S)

    def remove(self) -> None:
        """Stop it if it runs, see that nothing is left of it, and remove its home."""
        self._close_client()
        if self.process is not None:
            with self.process:  # one that has ended by itself leaves its pipe
                if self.process.poll() is None:
                    self.stop()
        remove(self.home)

    def client(self) -> Any:
        """Google's own Compute Engine client, pointed at this emulator."""
        if self._service is None:
            from google.oauth2.credentials import Credentials
            from google_auth_httplib2 import AuthorizedHttp
            from googleapiclient.discovery import build_from_document
            from httplib2 import Http

            http = Http(ca_certs=self.about["certificate"])
            self._service = Collections(
                build_from_document(
                    google_document(),
                    http=AuthorizedHttp(Credentials(self.secret), http=http),
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
