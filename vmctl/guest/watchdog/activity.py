"""What is at work on a VM: GPUs, runs, logins, transfers and Jupyter kernels, read as root.

vmctl's own keep-alives do not count: an idle connection has no command, and the helpers that only
watch are left out. A signal that is there and cannot be read counts as work.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

SSHD = re.compile(r"sshd(?:-session)?: ([\w.-]+)@(\S+)")
LIBRARY = "/.vmctl/lib/"
# helpers that watch or wait; a run that is followed goes on by itself or has ended
WATCHING = frozenset({"follow", "runs", "service", "service-state", "keep", "serve", "job"})
TUNNEL = ("cat", "-")  # the far end of a tunnel's own session
SETTLED_S = 2.0  # so young a command may be vmctl's, answered at once
BUSY_PERCENT = 3
ANSWER_S = 20
PROGRAMS = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
HOMES = ("home/*", "root")


@dataclass(frozen=True, slots=True)
class Process:
    """One process, as /proc shows it."""

    pid: int
    parent: int
    words: tuple[str, ...]
    age_s: float

    @property
    def line(self) -> str:
        """Its command line in one piece."""
        return " ".join(self.words).strip()


@dataclass(frozen=True, slots=True)
class Run:
    """A run that goes on: its directory, and the process that carries it."""

    id: str
    directory: Path
    pid: int
    google_stops_at: float  # as known when the run started; 0: unknown


@dataclass(frozen=True, slots=True)
class ActivitySample:
    """All of it at one moment; `active_at` is in this computer's time, 0 when nothing tells."""

    busy: tuple[str, ...]
    runs: tuple[Run, ...]
    terminals: tuple[str, ...]  # of those who are logged in: pts/0
    active_at: float


def sample() -> ActivitySample:
    """Read every signal once; takes as long as the slowest answer, ANSWER_S at most each."""
    found = processes()
    runs = runs_among(found)
    users, terminals = logins(found)
    kernels, kernels_at = jupyter_work(found)
    busy = [*gpu_work(), *(f"run {run.id}" for run in runs), *users, *transfers(found), *kernels]
    return ActivitySample(tuple(busy), runs, terminals, max(kernels_at, helpers_at()))


# -- processes -------------------------------------------------------------------------------


def processes(proc: Path = Path("/proc")) -> list[Process]:
    """Every process that has a command line; one that ends meanwhile is left out."""
    uptime_s = float((proc / "uptime").read_text().split()[0])
    ticks = os.sysconf("SC_CLK_TCK")
    found = []
    for entry in os.scandir(proc):
        if not entry.name.isdigit():
            continue
        try:
            raw = Path(entry.path, "cmdline").read_bytes()
            fields = Path(entry.path, "stat").read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        if raw:
            words = tuple(raw.rstrip(b"\0").decode("utf-8", "replace").split("\0"))
            age_s = uptime_s - int(fields[19]) / ticks
            found.append(Process(int(entry.name), int(fields[1]), words, age_s))
    return found


def runs_among(found: Sequence[Process]) -> tuple[Run, ...]:
    """The runs whose runner is among the processes and has not written its end."""
    runs = []
    for process in found:
        # python -ISB LIBRARY job ID; a tmux server shows the same words behind its own
        if len(process.words) != 5 or process.words[3] != "job":
            continue
        home, library, _ = process.words[2].partition(LIBRARY)
        directory = Path(home, ".vmctl/runs", Path(process.words[4]).name)
        if not library or (directory / "exit").exists() or not directory.is_dir():
            continue
        limit = _read(directory / "spec.json").get("stops_at")
        stops_at = float(limit) if isinstance(limit, int | float) else 0.0
        runs.append(Run(directory.name, directory, process.pid, stops_at))
    return tuple(runs)


def logins(found: Sequence[Process]) -> tuple[list[str], tuple[str, ...]]:
    """Who has a terminal, in words; and the terminals."""
    lines, terminals = [], []
    for process in found:
        match = SSHD.fullmatch(process.line)
        if match and "pts/" in match[2]:
            lines.append(f"login of {match[1]} on {match[2]}")
            terminals += [name for name in match[2].split(",") if name.startswith("pts/")]
        elif Path(process.words[0]).name == "login":
            lines.append("login on the console")
    return lines, tuple(terminals)


def transfers(found: Sequence[Process]) -> list[str]:
    """The commands and transfers over SSH without a terminal, in words."""
    sessions = {p.pid: SSHD.fullmatch(p.line) for p in found}
    lines = [
        f"files of {match[1]} are transferred"
        for match in sessions.values()
        if match and match[2] == "internal-sftp"
    ]
    for process in found:
        parent = sessions.get(process.parent)
        if not parent or "pts/" in parent[2] or process.words == TUNNEL:
            continue
        if process.age_s >= SETTLED_S:
            verb = _verb(process)
            if verb not in WATCHING:
                what = f"vmctl {verb}" if verb else Path(process.words[0]).name
                lines.append(f"{what} of {parent[1]}")
    return lines


def _verb(process: Process) -> str:
    """The helper's verb, "" for any other program."""
    for before, word in zip(process.words, process.words[1:], strict=False):
        if LIBRARY in before and " " not in before:
            return word
    return ""


def helpers_at() -> float:
    """When a helper that does something was called last, by any user; 0: never."""
    marks = [mark for home in HOMES for mark in Path("/").glob(f"{home}/.vmctl/active")]
    return max((mark.stat().st_mtime for mark in marks), default=0.0)


# -- GPUs ------------------------------------------------------------------------------------


def gpu_work() -> list[str]:
    """The GPUs at work, in words; [] also where there is no driver, without which none works."""
    program = shutil.which("nvidia-smi", path=PROGRAMS)
    if program is None:
        loaded = Path("/proc/driver/nvidia").exists()
        return ["a GPU that cannot be queried (nvidia-smi is missing)"] if loaded else []
    output = _ask(program, "--query-gpu=index,utilization.gpu", "--format=csv,noheader,nounits")
    if output is None and _no_gpu(Path(program)):
        return []  # an image with a driver, on a machine without a GPU
    working = busy_gpus(output)
    if not working:
        return []
    # without persistence the question itself makes some GPUs look busy: work has a process
    apps = _ask(program, "--query-compute-apps=pid", "--format=csv,noheader")
    return [] if apps is not None and not apps.strip() else working


def _no_gpu(program: Path) -> bool:
    """Whether the driver's program stands on a machine on whose bus is nothing of NVIDIA's.

    The emulator's stand-in of a GPU is on no bus: it is a script, which a driver's program is not.
    """
    try:
        with program.open("rb") as file:
            if file.read(4) != b"\x7fELF":
                return False
        vendors = [one.read_text() for one in Path("/sys/bus/pci/devices").glob("*/vendor")]
    except OSError:
        return False
    return bool(vendors) and not any(vendor.strip() == "0x10de" for vendor in vendors)


def busy_gpus(output: str | None) -> list[str]:
    """The GPUs at work by nvidia-smi's "index, percent" lines; one that does not tell is."""
    if not (output or "").strip():
        return ["a GPU that does not report its use"]
    working = []
    for line in (output or "").strip().splitlines():
        index, _, percent = (part.strip() for part in line.partition(","))
        if not percent.isdigit():
            working.append(f"GPU {index}, which does not report its use")
        elif int(percent) >= BUSY_PERCENT:
            working.append(f"GPU {index} at {percent} %")
    return working


def _ask(*words: str) -> str | None:
    try:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=ANSWER_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


# -- Jupyter ---------------------------------------------------------------------------------


def jupyter_work(found: Sequence[Process]) -> tuple[list[str], float]:
    """Kernels at work in any Jupyter server, in words; and when a kernel did something last."""
    alive = {process.pid for process in found}
    lines: list[str] = []
    last = 0.0
    for home in HOMES:
        for file in Path("/").glob(f"{home}/.local/share/jupyter/runtime/*server-*.json"):
            server = _read(file)
            if server.get("pid") not in alive:
                continue
            answers = [_get(server, path) for path in ("api/status", "api/kernels")]
            busy, at = kernels_at_work(*answers)
            lines += busy
            last = max(last, at)
    return lines, last


def kernels_at_work(status: Any, kernels: Any) -> tuple[list[str], float]:
    """From a server's answers to /api/status and /api/kernels; None where it did not answer.

    The status' own last_activity does not count: a forgotten browser tab keeps it young.
    """
    if not isinstance(status, dict) or "kernels" not in status:
        return ["a Jupyter server that does not answer"], 0.0
    if not status["kernels"]:
        return [], 0.0
    if not isinstance(kernels, list):
        return ["a Jupyter server that does not list its kernels"], 0.0
    working = sum(kernel.get("execution_state") == "busy" for kernel in kernels)
    busy = [f"{working} Jupyter kernel{'s' if working > 1 else ''}"] if working else []
    return busy, max((_stamp(kernel.get("last_activity")) for kernel in kernels), default=0.0)


def _get(server: dict[str, Any], path: str) -> Any:
    # only where there is a server: a boot waits for what is imported
    import http.client
    import ssl
    import urllib.request

    scheme = "https" if server.get("secure") else "http"
    base = str(server.get("base_url") or "/")
    url = f"{scheme}://127.0.0.1:{server.get('port')}{base}{path}?no_track_activity=1"
    request = urllib.request.Request(url)
    if server.get("token"):
        request.add_header("Authorization", f"token {server['token']}")
    nobody = urllib.request.ProxyHandler({})  # a proxy for the internet is not for 127.0.0.1
    secure = urllib.request.HTTPSHandler(context=ssl._create_unverified_context())
    try:
        with urllib.request.build_opener(nobody, secure).open(request, timeout=ANSWER_S) as answer:
            return json.load(answer)
    except (OSError, ValueError, http.client.HTTPException):  # or no web server any more
        return None


def _stamp(text: Any) -> float:
    try:
        return datetime.fromisoformat(str(text).replace("Z", "+00:00")).timestamp()
    except ValueError:
        return time.time()  # unreadable: as if it were now


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
