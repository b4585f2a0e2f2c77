"""A booting VM's report on itself: a line of JSON whenever it changes, until it is ready.

Run as `python3 -ISB -c SOURCE REQUEST` before anything of vmctl's is installed, so it imports
nothing of vmctl's. It ends when all is there, or when its standard input does.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

GAP_S = 0.3
BEAT_S = 3.0  # an empty line so often: silence is a dead link, not a slow boot
SETUP_GAP_S = 0.05  # it ends at any moment
ANSWER_S = 60
IMPORT_S = 600  # a first import reads gigabytes from a disk that is slow at first
LOCK = "/var/lib/dpkg/lock-frontend"
LOGS = ("/var/log/nvidia-installer.log", "/var/log/cuda-installer.log")
NVIDIA, DISPLAY = "0x10de", "0x03"
TORCH = """
import json, os, sys, warnings
result = {"python": sys.executable}
try:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        import torch
        result.update(version=torch.__version__, cuda=torch.version.cuda or "",
                    available=torch.cuda.is_available(), count=torch.cuda.device_count(),
                    beside=os.path.dirname(torch.__path__[0]))
        words = [str(one.message).splitlines()[0] for one in caught if "CUDA" in str(one.message)]
        result["said"] = words[-1] if words else ""
except ModuleNotFoundError as error:
    result["said"] = "" if error.name == "torch" else str(error)
except Exception as error:
    result["said"] = f"{type(error).__name__}: {error}"
print(json.dumps(result))
"""
VERSION = """
import glob, json, sys
from os.path import basename, join
# torch-2.9.1.dist-info: importlib.metadata takes three times as long
named = [basename(folder) for place in sys.path
         for folder in glob.glob(join(glob.escape(place), "torch-*.dist-info"))]
version = named[0][len("torch-"):-len(".dist-info")] if named else ""
print(json.dumps({"python": sys.executable, "version": version, "simulated": True}))
"""


def run_command(words: list[str], limit_s: float = ANSWER_S) -> tuple[int, str]:
    """A command's exit code and its output, with its errors where it failed; 127: none such."""
    try:
        done = subprocess.run(
            words,
            cwd="/",  # a file of somebody's must not pass for a module
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return 124, f"{words[0]} does not answer"
    except OSError as error:
        return 127, f"{words[0]}: {error.strerror}"
    result = done.stdout if done.returncode == 0 else done.stdout + b"\n" + done.stderr
    return done.returncode, result.decode("utf-8", "replace").strip()


def lock_holder() -> str:
    """Who holds the package manager's lock, such as "unattended-upgr (process 612)"; or ""."""
    try:
        inode = Path(LOCK).stat().st_ino
        table = Path("/proc/locks").read_text(encoding="utf-8")
    except OSError:
        return ""
    for line in table.splitlines():
        words = line.split()
        if len(words) < 6 or words[1] == "->" or not words[5].endswith(f":{inode}"):
            continue
        try:
            name = Path(f"/proc/{words[4]}/comm").read_text(encoding="utf-8").strip()
        except OSError:
            name = "somebody"
        return f"{name} (process {words[4]})"
    return ""


def cards() -> int | None:
    """How many NVIDIA GPUs are on the bus; None where that cannot be seen."""
    devices = Path("/sys/bus/pci/devices")
    try:
        found = list(devices.iterdir())
        return sum(
            (one / "vendor").read_text().strip() == NVIDIA
            and (one / "class").read_text().startswith(DISPLAY)
            for one in found
        )
    except OSError:
        return None


def log_tail() -> list[str]:
    """The last lines of the first log of a driver's installation that there is."""
    for name in LOGS:
        try:
            lines = Path(name).read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue
        return [f"{name}: {line}" for line in lines[-4:] if line.strip()]
    return []


def boot() -> str:
    """What tells this boot from all others."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()


def changed(result: dict[str, Any]) -> int:
    """When a package was last installed next to torch, or removed; 0 if unknown."""
    try:
        return Path(str(result["beside"])).stat().st_mtime_ns
    except (KeyError, OSError):
        return 0


def read_json(name: str) -> dict[str, Any]:
    """A record of vmctl's on the VM; {} where there is none that makes sense."""
    try:
        found = json.loads((Path.home() / ".vmctl" / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_json(name: str, record: dict[str, Any]) -> None:
    """Keep a record, whole or not at all."""
    path = Path.home() / ".vmctl" / name
    part = path.with_name(f".{name}.{os.getpid()}")
    part.write_text(json.dumps(record), encoding="utf-8")
    part.replace(path)


def torch() -> dict[str, Any] | None:
    """What torch reports about CUDA, by the interpreter that set-up found; None before that."""
    python = read_json("machine.json").get("python")
    if not isinstance(python, str):
        return None
    proven = read_json("torch.json")
    result = proven.get("told")
    if isinstance(result, dict) and proven.get("of") == [boot(), python, changed(result)]:
        return dict(result)
    _, table = run_command(["nvidia-smi"])
    found = re.search(r"CUDA Version: *(\S+)", table)
    speaks = found[1] if found else ""
    # where the driver is a stand-in, torch cannot see a GPU: it is not asked
    program = VERSION if speaks.upper() == "SIMULATED" else TORCH
    code, answer = run_command([python, "-c", program], IMPORT_S)
    try:
        result = json.loads(answer.splitlines()[-1])
    except (ValueError, IndexError):
        result = {"python": python, "said": f"{answer[-200:]} (exit code {code})"}
    result["driver_cuda"] = speaks
    if result.get("available"):  # an import takes long: once per boot is enough
        with contextlib.suppress(OSError):  # a full disk: it is imported again the next time
            write_json("torch.json", {"of": [boot(), python, changed(result)], "told": result})
    return dict(result)


class Watch:
    """Looks again and again, each time only at what is not there yet."""

    def __init__(self, request: dict[str, Any]) -> None:
        self.gpus = int(request.get("gpus", 0))
        self.with_torch = bool(request.get("torch"))
        self.driver: dict[str, Any] | None = None
        self.torch: dict[str, Any] | None = None
        self.counted = 0
        self._asking: threading.Thread | None = None
        self.woken, self._wake = os.pipe()

    def look(self) -> dict[str, Any]:
        """The state of now."""
        _, system = run_command(["systemctl", "is-system-running"])
        _, startup = run_command(["systemctl", "is-active", "google-startup-scripts.service"])
        report: dict[str, Any] = {
            "starting": system in ("starting", "initializing", "maintenance"),
            "startup": startup if startup in ("activating", "inactive", "failed") else "",
            "lock": lock_holder(),
        }
        if self.gpus:
            if self.counted < self.gpus:
                self._ask_driver()
            if self.counted < self.gpus:
                report["cards"] = cards()
                report["log"] = log_tail()
        report["driver"], report["torch"] = self.driver, self.torch
        return report

    def _ask_driver(self) -> None:
        code, text = run_command(
            ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        )
        self.driver = {"code": code, "said": text}
        self.counted = sum("," in line for line in text.splitlines()) if code == 0 else 0

    def ask_torch(self) -> None:
        """In the background, so that other reports are sent meanwhile."""
        wanted = self.with_torch and self.torch is None and self.counted >= self.gpus
        if wanted and self._asking is None:
            self._asking = threading.Thread(target=self._ask_torch, daemon=True)
            self._asking.start()

    def _ask_torch(self) -> None:
        while self.torch is None:
            self.torch = torch()
            if self.torch is None:
                time.sleep(SETUP_GAP_S)
        os.write(self._wake, b"w")

    def is_done(self, report: dict[str, Any]) -> bool:
        """Whether nothing more is to come."""
        return (
            report["startup"] != "activating"
            and self.counted >= self.gpus
            and (self.torch is not None or not self.with_torch)
        )


def beat(lock: threading.Lock) -> None:
    """Show that the link is alive, until nobody listens."""
    try:
        while True:
            time.sleep(BEAT_S)
            with lock:
                os.write(1, b"\n")
    except OSError:
        return


def main() -> None:
    """Report until everything is ready or nobody listens."""
    watch = Watch(json.loads(sys.argv[1]))
    sent, lock = "", threading.Lock()
    threading.Thread(target=beat, args=(lock,), daemon=True).start()
    while True:
        report = watch.look()
        line = json.dumps(report)
        if line != sent:
            sent = line
            with lock:
                os.write(1, line.encode() + b"\n")
        if watch.is_done(report):
            return
        watch.ask_torch()
        readable, _, _ = select.select([0, watch.woken], [], [], GAP_S)
        if watch.woken in readable:
            os.read(watch.woken, 1024)
        if 0 in readable and not os.read(0, 1024):
            return


if __name__ == "__main__":
    main()
