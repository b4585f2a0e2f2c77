"""What a booting VM has to say of itself: a line of JSON whenever it changes, until it is ready.

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
told = {"python": sys.executable}
try:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        import torch
        told.update(version=torch.__version__, cuda=torch.version.cuda or "",
                    available=torch.cuda.is_available(), count=torch.cuda.device_count(),
                    beside=os.path.dirname(torch.__path__[0]))
        words = [str(one.message).splitlines()[0] for one in caught if "CUDA" in str(one.message)]
        told["said"] = words[-1] if words else ""
except ModuleNotFoundError as error:
    told["said"] = "" if error.name == "torch" else str(error)
except Exception as error:
    told["said"] = f"{type(error).__name__}: {error}"
print(json.dumps(told))
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


def said(words: list[str], limit_s: float = ANSWER_S) -> tuple[int, str]:
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
    told = done.stdout if done.returncode == 0 else done.stdout + b"\n" + done.stderr
    return done.returncode, told.decode("utf-8", "replace").strip()


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


def changed(told: dict[str, Any]) -> int:
    """When something was last installed beside torch, or removed there; 0: it cannot be seen."""
    try:
        return Path(str(told["beside"])).stat().st_mtime_ns
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
    """What torch says of CUDA, from the interpreter that set-up has found; None before that."""
    python = read_json("machine.json").get("python")
    if not isinstance(python, str):
        return None
    proven = read_json("torch.json")
    told = proven.get("told")
    if isinstance(told, dict) and proven.get("of") == [boot(), python, changed(told)]:
        return dict(told)
    _, table = said(["nvidia-smi"])
    found = re.search(r"CUDA Version: *(\S+)", table)
    speaks = found[1] if found else ""
    # where the driver is a stand-in, torch cannot see a GPU: it is not asked
    program = VERSION if speaks.upper() == "SIMULATED" else TORCH
    code, answer = said([python, "-c", program], IMPORT_S)
    try:
        told = json.loads(answer.splitlines()[-1])
    except (ValueError, IndexError):
        told = {"python": python, "said": f"{answer[-200:]} (exit code {code})"}
    told["driver_cuda"] = speaks
    if told.get("available"):  # an import takes long: once per boot is enough
        with contextlib.suppress(OSError):  # a full disk: it is imported again the next time
            write_json("torch.json", {"of": [boot(), python, changed(told)], "told": told})
    return dict(told)


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
        _, system = said(["systemctl", "is-system-running"])
        _, startup = said(["systemctl", "is-active", "google-startup-scripts.service"])
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
        code, text = said(
            ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        )
        self.driver = {"code": code, "said": text}
        self.counted = sum("," in line for line in text.splitlines()) if code == 0 else 0

    def ask_torch(self) -> None:
        """In the background: what else happens meanwhile is told meanwhile."""
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
    """Say that the link is alive, until nobody listens."""
    try:
        while True:
            time.sleep(BEAT_S)
            with lock:
                os.write(1, b"\n")
    except OSError:
        return


def main() -> None:
    """Tell until all is there or nobody listens any more."""
    watch = Watch(json.loads(sys.argv[1]))
    told, lock = "", threading.Lock()
    threading.Thread(target=beat, args=(lock,), daemon=True).start()
    while True:
        report = watch.look()
        line = json.dumps(report)
        if line != told:
            told = line
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
