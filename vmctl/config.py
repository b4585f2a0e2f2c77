"""vmctl.toml, the environment and the flags become one frozen Project.

Flags beat the environment (`VMCTL_*`), the environment beats the file, the file beats the defaults.
A wrong key or type is an error that names the key, the file and the nearest valid key.
"""

from __future__ import annotations

import getpass
import os
import pwd
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from vmctl.domain.errors import InvalidInput
from vmctl.domain.names import owner_label, posix_user, slug
from vmctl.domain.settings import vm_settings
from vmctl.domain.settings.job_settings import JobSettings, parse_jobs
from vmctl.domain.settings.service_settings import ServiceSettings, parse_services
from vmctl.domain.settings.toml_values import (
    check_table,
    check_texts,
    check_type,
    get_text,
    parse_bool,
    refuse_controls,
    refuse_unknown,
)
from vmctl.domain.settings.vm_settings import VmSettings

if TYPE_CHECKING:  # most commands are about a VM and do without
    from vmctl.domain.settings.target_settings import TargetSettings

FILE_NAME = "vmctl.toml"
OWN_VARIABLES = ("VMCTL_NAME", "VMCTL_OWNER", "VMCTL_PROJECT", "VMCTL_LOCAL", "VMCTL_ON")
SAFE_DIRECTORY = (
    "VMCTL_SAFE_DIRECTORY"  # folders whose settings count, regardless of their owner; or *
)
LARGEST_FILE = 1 << 20  # bytes of settings
LONGEST_KEY = 100


@dataclass(frozen=True, slots=True)
class Project:
    """One folder of the user's, its name, its owner and its settings."""

    root: Path
    name: str
    owner: str
    local: bool = False
    google_project: str | None = None
    vm: VmSettings = field(default_factory=VmSettings)
    exclude: tuple[str, ...] = ()
    jobs: Mapping[str, JobSettings] = field(default_factory=dict)
    services: Mapping[str, ServiceSettings] = field(default_factory=dict)
    file: Path | None = None
    target: TargetSettings | None = None  # a server or a cluster instead of a VM

    @property
    def instance_name(self) -> str:
        """The VM's name: owner and project, so that a class can share one Google project."""
        return slug(f"{self.owner}-{self.name}")

    @property
    def workspace(self) -> str:
        """The folder on the machine that holds the pushed tree."""
        return f"{self.target.workspace if self.target else '~/Workspace'}/{self.name}"

    @property
    def key_lifetime(self) -> timedelta:
        """How long the login key opens the VM after it was put there."""
        return timedelta(hours=self.vm.key_hours)

    @property
    def login_user(self) -> str:
        """Who logs in on the VM: the local user, never an account that the image brings."""
        return posix_user(_get_local_user())


class Flags(NamedTuple):
    """Flags of the command line, None where not given; `vm` holds those for the [vm] table."""

    local: bool | None = None
    name: str | None = None
    on: str | None = None
    vm: Mapping[str, object] = MappingProxyType({})


def load_project(
    start: Path, *, flags: Flags | None = None, environ: Mapping[str, str] | None = None
) -> Project:
    """The project that holds the folder `start`; raises InvalidInput for a wrong setting."""
    flags = flags or Flags()
    environ = os.environ if environ is None else environ
    file, table = _find_file(start, environ.get(SAFE_DIRECTORY, ""))
    root = file.parent if file else start.resolve()
    where = str(file) if file else "the environment"
    for variable in (*OWN_VARIABLES, *vm_settings.list_variables()):
        refuse_controls(environ.get(variable), variable, "")
    for flag, value in {"name": flags.name, "on": flags.on, **flags.vm}.items():
        refuse_controls(value, "--" + flag.replace("_", "-"), "")
    known = {"name", "project", "local", "vm", "push", "jobs", "services", "on", "targets"}
    refuse_unknown(table, known, file=where, prefix="")

    vm = vm_settings.from_table(table.get("vm", {}), where)
    vm = vm_settings.with_environment(vm, environ)
    vm = vm_settings.with_flags(vm, flags.vm)
    push = check_table(table.get("push", {}), "push", where)
    refuse_unknown(push, {"exclude"}, file=where, prefix="push.")

    if flags.name == "":
        raise InvalidInput("--name is empty.", hint="Choose one: vmctl --name NAME …")
    name = flags.name or environ.get("VMCTL_NAME") or get_text(table, "name", where) or root.name
    local = flags.local
    if local is None:
        local = (
            parse_bool(environ["VMCTL_LOCAL"], "VMCTL_LOCAL") if "VMCTL_LOCAL" in environ else None
        )
    if local is None:
        local = check_type(table.get("local", False), bool, "local", where)
    return Project(
        root=root,
        name=_make_name(name),
        owner=owner_label(environ.get("VMCTL_OWNER") or _get_local_user()),
        local=local,
        google_project=environ.get("VMCTL_PROJECT") or get_text(table, "project", where),
        vm=vm,
        exclude=check_texts(push.get("exclude", []), "push.exclude", where),
        jobs=parse_jobs(table.get("jobs", {}), where),
        services=parse_services(table.get("services", {}), where),
        file=file,
        target=_choose_target(table, flags.on, environ, where),
    )


def _choose_target(
    table: Mapping[str, Any], flag: str | None, environ: Mapping[str, str], file: str
) -> TargetSettings | None:
    """The target that the flag, else VMCTL_ON, else `on` in the file names; `vm` names none."""
    typed = environ.get("VMCTL_ON") if flag is None else flag
    word = get_text(table, "on", file) if typed is None else typed
    is_vm = not word or word == "vm"
    if is_vm and "targets" not in table:
        return None
    from vmctl.domain.settings.target_settings import choose_target, parse_targets

    targets = parse_targets(table.get("targets", {}), file)
    return None if is_vm else choose_target(str(word), targets, file, from_file=typed is None)


def list_targets(file: Path | None) -> list[str]:
    """The names of the targets in a project's file."""
    return sorted(_find_file(file.parent, "")[1].get("targets", {})) if file else []


# -- finding and reading the file ------------------------------------------------------------


def find_settings(start: Path) -> Path | None:
    """The file that holds the settings of a folder, regardless of its owner; None without one."""
    return _find_file(start, "*")[0]


def _find_file(start: Path, safe: str) -> tuple[Path | None, dict[str, Any]]:
    """The nearest vmctl.toml, or pyproject.toml with [tool.vmctl], from `start` upwards.

    Raises InvalidInput where that is another user's and not in one of the `safe` folders.
    """
    folder = start.resolve()
    for candidate in (folder, *folder.parents):
        file = candidate / FILE_NAME
        if file.is_file():
            _refuse_foreign(file, safe)
            settings = _read_toml(file)
            _refuse_invalid(settings, file)
            return file, settings
        pyproject = candidate / "pyproject.toml"
        if pyproject.is_file():
            table = _read_tool_table(pyproject)
            if table is not None:
                _refuse_foreign(pyproject, safe)
                _refuse_invalid(table, pyproject)
                return pyproject, table
        if (candidate / ".git").exists():
            break
    return None, {}


def _read_tool_table(pyproject: Path) -> dict[str, Any] | None:
    """[tool.vmctl]; None where the file has none. Nobody can break ours by a file of his own."""
    try:
        tool = _read_toml(pyproject).get("tool", {})
    except InvalidInput:
        if _foreign_owner(pyproject) is not None:
            return None
        raise
    table = tool.get("vmctl") if isinstance(tool, dict) else None
    return table if isinstance(table, dict) else None


def _refuse_foreign(file: Path, safe: str) -> None:
    """Another user's settings would decide here what is sent where, and what runs with it."""
    owner = _foreign_owner(file)
    listed = [place for place in safe.split(os.pathsep) if place]
    if owner is None or "*" in listed or file.parent in {Path(place).resolve() for place in listed}:
        return
    from shlex import quote

    raise InvalidInput(
        f"{file} belongs to {owner}, not to you, so its settings are ignored.",
        hint=f"If you trust that user: export {SAFE_DIRECTORY}={quote(str(file.parent))}\n"
        "To write your own settings in your own folder: vmctl init",
    )


def _foreign_owner(file: Path) -> str | None:
    """Another user who owns the file, or the link that it is; None for us and for root.

    Under sudo the user who called it is we, too: the same as git has it.
    """
    ours = {os.geteuid(), 0}
    if os.geteuid() == 0 and os.environ.get("SUDO_UID", "").isdecimal():
        ours.add(int(os.environ["SUDO_UID"]))
    for owner in (file.lstat().st_uid, file.stat().st_uid):
        if owner not in ours:
            try:
                return pwd.getpwuid(owner).pw_name
            except (KeyError, OverflowError):
                return f"user {owner}"
    return None


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as opened:
            text = opened.read(LARGEST_FILE + 1)
        if len(text) > LARGEST_FILE:
            raise InvalidInput(
                f"{file} is larger than {LARGEST_FILE >> 20} MiB, which is too large for settings.",
                hint="Check its content.",
            )
        return tomllib.loads(text.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n"))
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(
            f"{file} is not valid TOML: {error}.", hint="Fix the line named above."
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        why = "it is not UTF-8 text" if isinstance(error, ValueError) else error.strerror
        raise InvalidInput(
            f"{file} cannot be read: {why}.", hint="Fix the file, or run vmctl in another folder."
        ) from error
    except (ValueError, RecursionError) as error:  # what the parser does not foresee
        why = "too deeply nested" if isinstance(error, RecursionError) else str(error)
        raise InvalidInput(
            f"{file} is not valid TOML: {why[:200]}.", hint="Make it simpler."
        ) from error


def _refuse_invalid(table: dict[str, Any], file: Path) -> None:
    """What every setting must keep to, wherever in the file it stands.

    TOML's whole numbers have 64 bits, and Python's can be too long to be shown at all.
    """
    refuse_controls(table, "", str(file))
    pending: list[object] = [table]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            pending += value.values()
            for key in value:
                if len(key) > LONGEST_KEY:
                    raise InvalidInput(
                        f"A name in {file} is longer than {LONGEST_KEY} letters: {key[:40]!r}….",
                        hint="Shorten it.",
                    )
        elif isinstance(value, list):
            pending += value
        elif isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
            raise InvalidInput(
                f"{file} is not valid TOML: a whole number in it has more than 64 bits.",
                hint="Write a smaller one.",
            )


def _make_name(name: str) -> str:
    made = slug(name, limit=40)
    if not made:
        raise InvalidInput(
            f"'{name}' cannot become a VM name.", hint="Choose one: vmctl --name NAME …"
        )
    return made


def _get_local_user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a uid without a passwd entry and without $USER
        return f"user{os.getuid()}"
