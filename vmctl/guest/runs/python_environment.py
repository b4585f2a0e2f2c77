"""The Python of a job that brings requirements or a package: the machine's own, and these besides.

~/.vmctl/environments/PROJECT/JOB/DIGEST is a virtual environment that sees all that the machine's
Python has, torch above all, and adds what the job installs. The digest is of that interpreter and
of what is installed, a package's files among it, so the same is installed once; a marker, written
last, tells a whole environment from one whose making was cut off. A package is built here by pip
from the files that the run started with: nobody needs a build tool on his own computer, and a
push sends differences, where an archive would go whole each time.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import time
from pathlib import Path

from ..paths import STATE, ensure
from ..records import locked, write_json
from .failure import explain_pip
from .run_tree import COPY, RunTree, join

TYPE_CHECKING = False  # typing is not imported: every start is waited for
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Execute = Callable[[list[str], Path, dict[str, str]], int]
    Say = Callable[[str], None]

ENVIRONMENTS = STATE / "environments"
MARKER = "vmctl.json"
KEPT = 3  # environments of a job, the newest
LIMIT_S = 60
TOLD_BYTES = 1 << 16  # of pip's output, by which its failure is explained
# torch may lie in a virtual environment itself, whose packages another would not see
PROBE = """
import json, site, sys
own = site.getsitepackages() if sys.prefix != sys.base_prefix else []
print(json.dumps([sys.executable, sys.version, own]))
"""
HAS_PIP = "import importlib.util as u, sys; sys.exit(u.find_spec('pip') is None)"
PIP = ("-m", "pip", "install", "--no-input", "--disable-pip-version-check", "--progress-bar=off",
       "--no-warn-script-location")  # fmt: skip


class PythonEnvironment:
    """What one run installs; `execute` runs a program into the run's log, `say` adds a line."""

    def __init__(self, spec: dict[str, Any], tree: RunTree, execute: Execute, say: Say) -> None:
        self.spec = spec
        self.requirements: list[str] = spec["installs"]["requirements"]
        self.package: str = spec["installs"]["package"]  # from the project's root
        self.tree = tree
        self.execute = execute
        self.say = say
        self.folder = ENVIRONMENTS / spec["project"] / spec["job"]

    def prepare(self, environment: dict[str, str], log: Path) -> int:
        """Make it unless it is there, and let the variables lead to it; pip's exit code."""
        python = shutil.which("python", path=environment["PATH"]) or "python3"
        found = _look_at(python, environment)
        if found is None:
            self.say(f"{python} does not run")
            return 1
        files = self._package_files()
        place = self.folder / self._digest(found, files)
        what = f"the package {self.package}" if self.package else " ".join(self.requirements)
        environment["VIRTUAL_ENV"] = str(place)
        environment["PATH"] = f"{place}/bin:{environment['PATH']}"
        ensure(self.folder)
        with locked(self.folder / ".lock"):
            if (place / MARKER).exists():
                (place / MARKER).touch()
                self.say(f"already installed: {what}")
                return 0
            self.say(f"installing {what}")
            began = time.monotonic()
            shutil.rmtree(place, ignore_errors=True)
            code = self._make(found, place, files, environment, log)
            if code == 0:
                write_json(place / MARKER, {"installed": what})
                self._tidy()
                self.say(f"installed in {time.monotonic() - began:.1f} s")
        return code

    def _make(
        self,
        found: list[Any],
        place: Path,
        files: list[str],
        environment: dict[str, str],
        log: Path,
    ) -> int:
        interpreter, version, own = found
        # without pip of its own: the machine's serves, and seconds are saved
        words = [interpreter, "-Im", "venv", "--system-site-packages", "--without-pip", str(place)]
        code = self.execute(words, self.folder, environment)
        if code != 0:
            self.say(f"{interpreter} cannot make a virtual environment (see the lines above)")
            return code
        for packages in place.glob("lib/python*/site-packages"):
            lines = [f"import site; site.addsitedir({path!a})\n" for path in own]
            (packages / "_vmctl_machine.pth").write_text("".join(lines))
        python = str(place / "bin/python")
        has_pip = subprocess.run([python, "-c", HAS_PIP], cwd="/", env=environment, check=False)
        if has_pip.returncode != 0:
            code = self.execute([python, "-Im", "ensurepip"], self.folder, environment)
            if code != 0:
                self.say(
                    f"{interpreter} has no pip, so nothing can be installed. On a VM: vmctl exec "
                    "-- sudo apt-get install -y python3-pip; elsewhere name a Python that has it: "
                    "python in the target's table of vmctl.toml"
                )
                return code
        source = self.folder / ".source"
        try:
            wanted = [str(self._copy_package(source, files))] if self.package else self.requirements
            before = environment | {"PIP_USER": "0"}  # which modules of clusters set to 1
            code = self.execute([python, *PIP, *wanted], self.folder, before)
        finally:
            shutil.rmtree(source, ignore_errors=True)
        if code != 0:
            job, on_cluster = self.spec["job"], bool(self.spec.get("slurm"))
            short = version.split()[0]
            self.say(explain_pip(_end_of(log), job, self.package, short, on_cluster))
        return code

    def _package_files(self) -> list[str]:
        """The package's files as they were pushed: what else lies there is not part of it."""
        if not self.package:
            return []
        above = "" if self.package == "." else self.package
        return sorted(
            join(folder, name)
            for folder, names in self.tree.known.items()
            if not above or folder == above or folder.startswith(f"{above}/")
            for name, what in names.items()
            if what[0] == COPY and Path(self.tree.in_tree(join(folder, name))).is_file()
        )

    def _copy_package(self, source: Path, files: list[str]) -> Path:
        """A build leaves files behind, which are no outputs of the run."""
        shutil.rmtree(source, ignore_errors=True)
        for path in files:
            (source / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(self.tree.in_tree(path), source / path)
        return source / self.package

    def _digest(self, found: list[Any], files: list[str]) -> str:
        digest = hashlib.sha256()
        identity = [*found, str(Path(found[0]).resolve()), sorted(self.requirements), self.package]
        digest.update(json.dumps(identity).encode())
        for path in files:
            digest.update(path.encode("utf-8", "surrogateescape") + b"\0")
            digest.update(hashlib.sha256(Path(self.tree.in_tree(path)).read_bytes()).digest())
        return digest.hexdigest()[:16]

    def _tidy(self) -> None:
        """Remove all but the newest environments of the job."""
        made = [path for path in self.folder.iterdir() if path.is_dir()]
        made.sort(key=lambda path: _age(path / MARKER), reverse=True)
        for path in made[KEPT:]:
            shutil.rmtree(path, ignore_errors=True)


def _look_at(python: str, environment: dict[str, str]) -> list[Any] | None:
    """An interpreter's path, version, and the folders of its packages if it is an environment's."""
    try:
        answer = subprocess.run(
            [python, "-Ic", PROBE],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=LIMIT_S,
            check=True,
        )
        found: list[Any] = json.loads(answer.stdout.splitlines()[-1])
    except (OSError, ValueError, IndexError, subprocess.SubprocessError):
        return None
    return found


def _age(marker: Path) -> float:
    try:
        return marker.stat().st_mtime
    except OSError:
        return 0.0  # cut off while it was made


def _end_of(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - TOLD_BYTES))
        return file.read(TOLD_BYTES).decode(errors="replace")
