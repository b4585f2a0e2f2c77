"""Images with a Python of their own, built once and shared read-only by every machine."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import queue
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ..file_modes import make_folder
from ..guest import slurm
from ..interface import MachineError
from ..sandbox import IMAGE_TARGET, PYTHON, find_program, machine_uid
from ..spawner import Spawner
from ..storage import check_traversable, delete_disk
from .build_sandbox import BuildSandbox, plain_command, prepare_environment

LAYOUT = 1  # part of the key: raise it when what a build makes changes
MARKER = "image.json"
PYTHON_OF = {"slurm": "pytorch"}  # images that share another's Python
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Recipe:
    """The contents of an image's Python: pip requirements, modules that must import, size in GB."""

    requirements: tuple[str, ...]
    modules: tuple[str, ...]
    size_gb: float


RECIPES = {
    "pytorch": Recipe(
        (
            "torch>=2.4,<3",
            "torchvision>=0.19,<1",
            "tensorboard>=2.17,<3",
            "jupyterlab>=4.2,<5",
            "tqdm>=4.66,<5",
            "pillow>=10,<13",
            "numpy>=1.26,<3",
            "setuptools<81",  # tensorboard still imports pkg_resources
        ),
        ("torch", "torchvision", "tensorboard", "jupyterlab", "tqdm", "PIL", "numpy"),
        5.0,
    ),
}


class ImageStore:
    """The folder of built images; safe among threads and emulators that share it."""

    def __init__(self, folder: Path, spawner: Spawner, sandboxed: bool) -> None:
        self._folder = folder.resolve()
        self._spawner = spawner
        self._sandboxed = sandboxed

    def path(self, image: str) -> Path | None:
        """Where the image's Python is; None for an image without one."""
        image = PYTHON_OF.get(image, image)
        recipe = RECIPES.get(image)
        if recipe is None:
            return None
        folder = self._folder / self._key(image, recipe)
        if not (folder / MARKER).exists():
            raise MachineError(f"image {image} has not been prepared")
        self._close(folder)
        return folder

    def prepare(self, image: str, progress: Progress) -> None:
        """Builds the image unless it is there; MachineError with pip's last message."""
        if image == "slurm":
            self._check_slurm()
        image = PYTHON_OF.get(image, image)
        recipe = RECIPES.get(image)
        if recipe is None:
            return
        final = self._folder / self._key(image, recipe)
        if (final / MARKER).exists():
            return
        if not self._folder.exists():
            make_folder(self._folder, 0o755)
        if machine_uid() is not None:
            check_traversable(self._folder)
        with self._locked(final.name, progress):
            if (final / MARKER).exists():
                return
            free_gb = shutil.disk_usage(self._folder).free / 1e9
            if free_gb < recipe.size_gb * 1.5:
                raise MachineError(
                    f"image {image} needs {recipe.size_gb * 1.5:.1f} GB in {self._folder} and "
                    f"{free_gb:.1f} GB are free: make room or set VMCTL_EMULATOR_IMAGES"
                )
            work = self._folder / f".building-{final.name}"
            # Left by a killed build; nobody uses it, because this process holds the lock.
            delete_disk(work)
            delete_disk(final)
            try:
                self._build(recipe, work, final, progress)
            finally:
                delete_disk(work)

    def _check_slurm(self) -> None:
        """The daemons are the computer's own; raise MachineError where a cluster cannot run."""
        if not self._sandboxed:
            raise MachineError("the image slurm needs machines that are sandboxes")
        missing = [name for name in slurm.PROGRAMS if find_program(name) is None]
        if missing:
            raise MachineError(
                f"the image slurm needs {' and '.join(missing)} on this computer (Debian: "
                "sudo apt-get install --no-install-recommends slurm-wlm munge; the services that "
                "this starts are not needed: sudo systemctl disable --now slurmctld slurmd munge)"
            )

    def _build(self, recipe: Recipe, work: Path, final: Path, progress: Progress) -> None:
        # Without namespaces nothing can be mounted at /opt/python: the place is its final one.
        target = work / "python" if self._sandboxed else final
        scratch = work / "scratch"
        uid = machine_uid()
        for folder in (work, target, scratch):
            folder.mkdir(mode=0o700)
            if uid is not None:
                os.chown(folder, uid, uid)
        environment, visible = prepare_environment(scratch, uid)
        inside = IMAGE_TARGET if self._sandboxed else str(target)
        script = build_script(inside, recipe)
        if self._sandboxed:
            argv = BuildSandbox(target, scratch, tuple(visible)).command(script)
        else:
            argv = plain_command(script)
            environment["HOME"] = environment["TMPDIR"] = str(scratch)
            environment["PIP_CONFIG_FILE"] = str(scratch / "pip.conf")
        process = self._spawner.start(
            argv, uid=uid, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
        )
        try:
            lines = follow(process, work, recipe, progress)
        finally:
            process.kill()
            process.wait()
        if lines is not None:
            raise MachineError(explain(lines))
        (target / MARKER).write_text(json.dumps({"requirements": recipe.requirements}) + "\n")
        if target != final:
            target.rename(final)

    @staticmethod
    def _close(folder: Path) -> None:
        """Close an image to all but its owner, the machines' user: a package may have put
        programs of any mode there. Another user's image stays as it is."""
        if folder.stat().st_mode & 0o7777 != 0o700:
            with suppress(PermissionError):
                folder.chmod(0o700)

    def _key(self, image: str, recipe: Recipe) -> str:
        version = subprocess.run(
            [PYTHON, "-I", "-S", "-c", "import platform; print(platform.python_version())"],
            capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip
        text = json.dumps([LAYOUT, recipe.requirements, version])
        kind = "" if self._sandboxed else "-plain"
        return f"{image}-{hashlib.sha256(text.encode()).hexdigest()[:12]}{kind}"

    @contextmanager
    def _locked(self, name: str, progress: Progress) -> Iterator[None]:
        with (self._folder / f".{name}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                progress("waiting for another build of the same image")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def build_script(target: str, recipe: Recipe) -> list[str]:
    """`sh -c` argv that makes the environment at target and proves that it imports."""
    script = 'umask 022; "$1" -m venv "$2" || exit 3; target=$2; modules=$3; shift 3; '
    script += '[ $# -eq 0 ] || "$target/bin/python" -m pip install --no-cache-dir --no-input '
    script += '--disable-pip-version-check --progress-bar off "$@" || exit 4; '
    script += 'echo "Checking imports"; "$target/bin/python" -c "import $modules" || exit 5'
    modules = ", ".join(recipe.modules) or "sys"
    return ["/bin/sh", "-c", script, "sh", PYTHON, target, modules, *recipe.requirements]


def follow(
    process: subprocess.Popen[bytes], work: Path, recipe: Recipe, progress: Progress
) -> list[str] | None:
    """Turns pip's output into progress; None when the build succeeded, else its last lines."""
    arrived: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def read() -> None:
        assert process.stdout is not None
        with process.stdout as stream:
            for line in stream:
                arrived.put(line.decode("utf-8", "replace").rstrip())
        arrived.put(None)

    threading.Thread(target=read, name="pip", daemon=True).start()
    names = ", ".join(re.split(r"[<>=!~ ]", name)[0] for name in recipe.requirements[:3])
    stage = f"installing {names or 'Python'} (about {recipe.size_gb:g} GB)"
    progress(stage)
    doing, last, measured = "", [""], time.monotonic()
    while True:
        try:
            line = arrived.get(timeout=1)
        except queue.Empty:
            line = ""
        if line is None:
            break
        if line.strip():
            last = [*last[-30:], line]
        step = describe_line(line)
        doing = step or doing
        if step or time.monotonic() - measured > 3:
            measured = time.monotonic()
            size = f"{measure_mb(work)} MB so far"
            progress(f"{stage}: {doing + ', ' if doing else ''}{size}")
    return None if process.wait() == 0 else last


def describe_line(line: str) -> str:
    """Describe a line of pip's output for the user; empty for most lines."""
    if match := re.match(r"\s*Downloading ([A-Za-z0-9_.]+)-\S+ \(([\d.]+ [kMG]B)\)", line):
        return f"downloading {match[1]} ({match[2]})" if "k" not in match[2] else ""
    if match := re.match(r"Installing collected packages: (.*)", line):
        return f"unpacking {len(match[1].split(','))} packages"
    return "checking that it imports" if line == "Checking imports" else ""


def measure_mb(folder: Path) -> int:
    """Disk use of a folder that is being written, in MB."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(place, name)).st_blocks * 512  # noqa: PTH118 (speed)
            except OSError:
                continue
    return total // 1_000_000


def explain(lines: list[str]) -> str:
    """One sentence from the last lines of a failed build."""
    errors = [line for line in lines if re.search(r"error|no space|not found", line, re.I)]
    last = (errors or lines)[-1].strip().removeprefix("ERROR: ")
    hint = "check the network and pip's configuration (pip config list), then try again"
    if any("ensurepip" in line for line in lines):
        last = "this computer's python3 cannot make virtual environments"
        hint = "install it (Debian: sudo apt-get install python3-venv)"
    elif any("No space left" in line for line in lines):
        hint = "make room or set VMCTL_EMULATOR_IMAGES to a larger disk"
    return f"the image's Python could not be built: {last}; {hint}"
