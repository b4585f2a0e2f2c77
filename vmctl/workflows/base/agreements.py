"""What the user has agreed to, once, for a folder: kept with vmctl's data, never in the folder.

A folder that came from elsewhere could bring its own agreement along.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from vmctl.config import FILE_NAME, Project
from vmctl.domain.errors import InvalidInput
from vmctl.domain.events import Info, Story, Warned
from vmctl.domain.settings.job_settings import JobSettings
from vmctl.domain.sync.secret_detection import exclude_line, is_secret_variable
from vmctl.domain.text import one_line
from vmctl.files import atomic_write
from vmctl.folders import data_dir

if TYPE_CHECKING:
    from vmctl.domain.settings.target_settings import TargetSettings

Agree = Callable[[str], bool]  # a question, and whether the user says yes; without a terminal: no
SHOWN = 20  # names in a message


class Agreements:
    """What was agreed to in one folder: names of files that may travel, jobs that get secrets."""

    def __init__(self, root: Path) -> None:
        digest = hashlib.sha256(os.fsencode(root)).hexdigest()[:24]
        self._file = data_dir() / "agreed" / f"{digest}.json"
        self._root = root
        self._agreed = self._read()

    def __contains__(self, what: str) -> bool:
        return what in self._agreed

    def add(self, what: Iterable[str]) -> None:
        """Remember it; raises OSError where that cannot be."""
        self._agreed = self._read() | set(what)
        self._file.parent.mkdir(mode=0o700, exist_ok=True)
        text = json.dumps({"folder": str(self._root), "agreed": sorted(self._agreed)}, indent=1)
        atomic_write(self._file, f"{text}\n".encode(errors="surrogateescape"))

    def _read(self) -> set[str]:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            found = json.loads(self._file.read_text(encoding="utf-8", errors="surrogateescape"))
            return set(map(str, found["agreed"]))
        return set()


# -- files -------------------------------------------------------------------------------------


def agree_on_files(project: Project, paths: Collection[str], agree: Agree | None) -> Story[None]:
    """Ask before files that look like secrets go to the VM for the first time.

    Raises InvalidInput where that is not wanted, or nobody is there to say so.
    """
    shown = [one_line(path) for path in sorted(paths)]
    listed = ", ".join(shown[:SHOWN])
    if len(shown) > SHOWN:
        listed += f" and {len(shown) - SHOWN} more"
    look = "looks like a secret" if len(shown) == 1 else "look like secrets"
    yield Warned(f"{listed} {look} and would be sent to the VM with the project")
    if agree is None or not agree(f"Send {'it' if len(shown) == 1 else 'them'}?"):
        lines = ", ".join(
            json.dumps(exclude_line(path), ensure_ascii=False) for path in sorted(paths)[:SHOWN]
        )
        raise InvalidInput(
            f"Nothing was pushed: {listed} {look}.",
            hint=f"To keep {'it' if len(shown) == 1 else 'them'} here, in {_table(project)} "
            f"exclude = [{lines}]\n"
            "To send what was named, and not be asked again: vmctl push --yes",
        )
    Agreements(project.root).add(f"file {path}" for path in paths)


def unagreed_files(root: Path, paths: Iterable[str]) -> list[str]:
    """Those of the paths that nobody has agreed to."""
    wanted = list(paths)
    if not wanted:
        return []
    agreed = Agreements(root)
    return [path for path in wanted if f"file {path}" not in agreed]


def _table(project: Project) -> str:
    """Where `exclude` stands, or would stand."""
    if project.file and project.file.name != FILE_NAME:
        return f"{project.file.name}: [tool.vmctl.push]"
    return f"{FILE_NAME}: [push]"


# -- targets -----------------------------------------------------------------------------------


def agree_on_target(project: Project, target: TargetSettings, agree: Agree) -> None:
    """Ask once before a target that the project's file chose is used.

    Raises InvalidInput where that is not wanted, or nobody is there to say so.
    """
    content = [target.name, target.kind, target.address, target.workspace, target.python]
    key = f"target {hashlib.sha256(json.dumps(content).encode()).hexdigest()}"
    agreements = Agreements(project.root)
    if key in agreements:
        return
    file = one_line(str(project.file))
    if not agree(f"{file} wants to work on {target.address} instead of a VM. Use it?"):
        raise InvalidInput(
            f"Nothing was done: {file} names {target.address} as the place to work.",
            hint=f"To use it from now on: add --yes once. Only this time: --on {target.name}. "
            "A VM instead: --on vm",
        )
    agreements.add([key])


# -- variables ---------------------------------------------------------------------------------


def values_for(project: Project, job: JobSettings, agree: Agree | None) -> Story[dict[str, str]]:
    """The variables of this shell that a job gets, which are named before they go anywhere.

    What looks like a secret is asked about once for what the job is: its lines, packages, folder
    and names. Raises InvalidInput where that is not wanted, or nobody is there to say so.
    """
    values = {name: os.environ[name] for name in job.env if name in os.environ}
    if not values:
        return values
    named = ", ".join(values)
    secret = [name for name, value in values.items() if is_secret_variable(name, value)]
    key = _job_key(project, job)
    agreements = Agreements(project.root) if secret else None
    if agreements is None or key in agreements:
        yield Info(f"Passing {named} on from your shell to the job")
        return values
    listed = ", ".join(secret)
    look = "looks like a secret" if len(secret) == 1 else "look like secrets"
    place = project.file or project.root
    yield Warned(
        f"The job '{job.name}' of {one_line(str(place))} wants {named} from your shell: "
        "everything it runs can read them"
    )
    if agree is None or not agree(f"{listed} {look}. Pass {named} on?"):
        unset = " ".join(f"-u {name}" for name in secret)
        raise InvalidInput(
            f"Nothing was started: the job '{job.name}' wants {listed}, which {look}.",
            hint=f"To pass on what was named, until the job is changed: vmctl run --yes {job.name}"
            f"\nTo run it without: env {unset} vmctl run {job.name}",
        )
    agreements.add([key])
    return values


def _job_key(project: Project, job: JobSettings) -> str:
    """A job by what decides who reads its variables: what runs, on whose disk and project."""
    content = [job.name, job.command, job.directory, job.setup, sorted(job.env)]
    content += [project.google_project or "", str(project.vm.image)]
    content += [[*job.requirements], job.package] if job.requirements or job.package else []
    return f"job {hashlib.sha256(json.dumps(content).encode()).hexdigest()}"
