"""The embedded Compute Engine as a process: found through its record, and asked.

Only this module connects to it. A connection is made only to the holder of the home's
certificate, and only then is the home's secret sent: another process at its port, such as
another user of this computer after it was killed, learns nothing.
"""

from __future__ import annotations

import functools
import http.client
import json
import os
import ssl
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vmctl.domain.errors import Conflict, InvalidInput, Unreachable
from vmctl.files import atomic_write
from vmctl.folders import emulator_home

ADDRESS = "127.0.0.1"
# What Python's requests, and with it gcloud, trusts before any other setting.
REQUESTS_TRUST = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
METADATA_ONLY = "metadata-only"


@dataclass(frozen=True, slots=True)
class EmulatorProcess:
    """An embedded Compute Engine that answers."""

    pid: int
    port: int
    project: str
    mode: str  # "sandbox", "plain" where namespaces are not allowed, or METADATA_ONLY
    note: str
    certificate: Path  # of the server, signed by nobody else
    token_file: Path  # the secret that every call carries
    about: dict[str, Any] = field(
        default_factory=dict, compare=False
    )  # its status when it was found

    @property
    def endpoint(self) -> str:
        """The Compute API's base address."""
        return f"https://{ADDRESS}:{self.port}/compute/v1/"

    @property
    def iap(self) -> str:
        """Where its Identity-Aware Proxy answers."""
        return f"wss://{ADDRESS}:{self.port}"

    @property
    def gcloud(self) -> dict[str, str]:
        """gcloud's own settings, as environment variables, with which it speaks to this one."""
        return {
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE": self.endpoint,
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE": f"https://{ADDRESS}:{self.port}/storage/v1/",
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_AIPLATFORM": f"https://{ADDRESS}:{self.port}/",
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_LOGGING": f"https://{ADDRESS}:{self.port}/",
            "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE": str(self.certificate),
            "CLOUDSDK_AUTH_DISABLE_CREDENTIALS": "false",
            "CLOUDSDK_AUTH_ACCESS_TOKEN_FILE": str(self.token_file),
        }

    def headers(self) -> dict[str, str]:
        """What every request carries; Unreachable when the home has lost its secret."""
        try:
            secret = self.token_file.read_text(encoding="ascii").strip()
        except (OSError, ValueError) as error:
            raise Unreachable(
                f"The embedded Compute Engine's secret cannot be read: {self.token_file}.",
                hint="vmctl emulator stop && vmctl emulator start",
            ) from error
        return {"Authorization": f"Bearer {secret}"}

    def connect(self, timeout_s: float) -> http.client.HTTPSConnection:
        """A connection that proves the server before anything is sent."""
        return http.client.HTTPSConnection(
            ADDRESS, self.port, timeout=timeout_s, context=self.trust()
        )

    def trust(self) -> ssl.SSLContext:
        """Nobody but this emulator; one for all connections of a process."""
        return _trusting(self.certificate, self.certificate.stat().st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _trusting(certificate: Path, changed_ns: int) -> ssl.SSLContext:
    """Trusts one certificate and no other; `changed_ns` tells a new one of the same name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(certificate)
    return context


def home() -> Path:
    """The folder that holds its machines and its record."""
    return emulator_home()


def find(folder: Path) -> EmulatorProcess | None:
    """The one that serves this folder; None when none answers.

    Raises Unreachable when it runs and somebody else answers in its place, InvalidInput when the
    folder belongs to another user.
    """
    _check_owner(folder)
    running = _recorded(folder)
    if running is None:
        return None
    # A record can outlive its process, and somebody else may have its port by now.
    try:
        reply = _ask_status(running)
    except ssl.SSLError as error:
        if not is_emulator(running.pid):
            return None
        raise Unreachable(
            f"What answers at {ADDRESS}:{running.port} is not the embedded Compute Engine "
            f"of {folder}: nothing was sent there.",
            hint=f"Restart the emulator: kill {running.pid}; vmctl emulator start",
        ) from error
    return replace(running, about=reply) if reply and reply.get("pid") == running.pid else None


def is_metadata_only(folder: Path) -> bool:
    """Whether the one that serves this folder boots no machines, so that none answers ssh."""
    running = _recorded(folder)
    return running is not None and running.mode == METADATA_ONLY


def _recorded(folder: Path) -> EmulatorProcess | None:
    """What the folder's emulator wrote when it began to serve; None for none of this version."""
    try:
        record = json.loads((folder / "emulator.json").read_text(encoding="utf-8"))
        return EmulatorProcess(
            pid=int(record["pid"]),
            port=int(record["port"]),
            project=str(record.get("project", "vmctl-local")),
            mode=str(record.get("mode", "")),
            note=str(record.get("note") or ""),
            certificate=Path(record["certificate"]),
            token_file=Path(record["token_file"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _check_owner(folder: Path) -> None:
    """What another user wrote there is not obeyed."""
    try:
        found = folder.stat()
    except OSError:
        return
    if found.st_uid != os.geteuid():
        raise InvalidInput(
            f"The embedded Compute Engine's folder {folder} belongs to another user.",
            hint="Set VMCTL_EMULATOR_HOME to a folder of your own.",
        )


def status(running: EmulatorProcess) -> dict[str, Any]:
    """What it says about itself; {} when it does not answer."""
    try:
        return _ask_status(running) or {}
    except ssl.SSLError:
        return {}


def admin(running: EmulatorProcess, method: str, route: str, body: object = None) -> dict[str, Any]:
    """What its admin route answers; raises InvalidInput with its words when it refuses."""
    try:
        code, reply = _call(running, method, f"/emulator/v1/{route}", body, timeout_s=30)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Unreachable(
            "The embedded Compute Engine does not answer.", hint="vmctl emulator status"
        ) from error
    if code != 200:
        message = str(reply.get("error", {}).get("message", f"HTTP {code}"))
        raise InvalidInput(
            f"The embedded Compute Engine says: {message}", hint="See: vmctl emulator fault --help"
        )
    return dict(reply)


def bundle(running: EmulatorProcess, folder: Path) -> Path | None:
    """A file with the certificates that Python's requests is told to trust, and the emulator's.

    None where it is told none. Otherwise gcloud's own setting would not be looked at.
    """
    named = next((os.environ[name] for name in REQUESTS_TRUST if os.environ.get(name)), None)
    if named is None:
        return None
    place = Path(named)
    try:
        files = sorted(place.iterdir()) if place.is_dir() else [place]
        kept = [file.read_text(encoding="utf-8", errors="replace") for file in files]
    except OSError as error:
        raise InvalidInput(
            f"The certificates in {named} cannot be read: {error.strerror}.",
            hint=f"Fix or unset {' and '.join(REQUESTS_TRUST)}.",
        ) from error
    own = running.certificate.read_text(encoding="ascii")
    target = folder / "trusted.pem"
    certificates = "\n".join([*(text.replace(own, "") for text in kept), own])
    atomic_write(target, certificates, mode=0o600)
    return target


def check_none_of_old(folder: Path) -> None:
    """One that an earlier version of vmctl has left running knows neither key nor secret."""
    try:
        record = json.loads((folder / "emulator.json").read_text(encoding="utf-8"))
        pid = int(record["pid"])
    except (OSError, ValueError, KeyError, TypeError):
        return
    if "token_file" not in record and is_emulator(pid):
        raise Conflict(
            f"An embedded Compute Engine of an earlier version runs in {folder} (process {pid}).",
            hint=f"Stop it (its machines' disks are kept): kill {pid}",
        )


def _ask_status(running: EmulatorProcess) -> dict[str, Any] | None:
    """What the status route answers, None without an answer; ssl.SSLError from an impostor."""
    try:
        code, reply = _call(running, "GET", "/emulator/v1/status", timeout_s=5)
    except ssl.SSLError:
        raise
    except (OSError, http.client.HTTPException, ValueError):
        return None
    return reply if code == 200 and isinstance(reply, dict) else None


def _call(
    running: EmulatorProcess, method: str, path: str, body: object = None, *, timeout_s: float
) -> tuple[int, Any]:
    """One request: its HTTP status and the JSON of its answer."""
    connection = running.connect(timeout_s)
    try:
        connection.connect()  # proves the server: what is read and sent below is for it alone
        data = None if body is None else json.dumps(body)
        headers = {"Content-Type": "application/json", **running.headers()}
        connection.request(method, path, data, headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def is_emulator(pid: int) -> bool:
    """Whether a process is an emulator that serves; as far as this computer tells."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return not Path("/proc/self").exists() and is_alive(pid)
    return b"vmctl.emulator" in words


def is_alive(pid: int) -> bool:
    """Whether the process still runs; one that only waits to be reaped does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return not Path("/proc/self/stat").exists()
    return state != "Z"
