"""vmctl.toml, the environment and the flags become one frozen Project.

Flags beat the environment (`VMCTL_*`), the environment beats the file, the file beats the defaults.
A wrong key or type is an error that names the key, the file and the nearest valid key.
"""

from __future__ import annotations

import getpass
import os
import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from vmctl.domain.cost import check_budget
from vmctl.domain.errors import InvalidInput
from vmctl.domain.names import nearest, posix_user, slug
from vmctl.domain.watchdog import parse_idle

FILE_NAME = "vmctl.toml"
TENSORBOARD_PORT = 8898
JUPYTER_PORT = 8888


@dataclass(frozen=True, slots=True)
class VmSettings:
    """The machine wanted: raw words, parsed where they are used."""

    gpu: str = "t4"
    machine: str | None = None
    zone: str | None = None
    region: str = "europe-west1"
    image: str = "pytorch"
    disk_gb: int = 100
    max_hours: float = 12.0
    key_hours: float = 24.0  # how long a login key opens the VM; used, it is renewed at half of it
    idle: str = "1h"  # the VM's own watchdog stops it when nothing is done on it; or "off"
    budget: float | None = None  # USD for one start of the VM, turned into a time
    spot: bool = False
    restrict_ssh: bool | None = None  # to the user's own address; None: as it is
    external_address: bool = True  # without one: through Google's Identity-Aware Proxy
    network: str | None = None
    subnetwork: str | None = None


@dataclass(frozen=True, slots=True)
class JobSettings:
    """A command to train with: where it runs, what prepares it, what it leaves behind."""

    name: str
    command: str
    directory: str = ""
    setup: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """A web service on the VM that a tunnel reaches; `{port}` stands in its command."""

    name: str
    command: str
    port: int
    directory: str = ""
    token: bool = False


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

    @property
    def instance_name(self) -> str:
        """The VM's name: owner and project, so that a class can share one Google project."""
        return slug(f"{self.owner}-{self.name}")

    @property
    def workspace(self) -> str:
        """The folder on the VM that holds the pushed tree."""
        return f"~/Workspace/{self.name}"

    @property
    def key_lifetime(self) -> timedelta:
        """How long the login key opens the VM after it was put there."""
        return timedelta(hours=self.vm.key_hours)

    @property
    def login_user(self) -> str:
        """Who logs in on the VM: the local user, never an account that the image brings."""
        return posix_user(_local_user())


@dataclass(frozen=True, slots=True)
class Flags:
    """What the command line says; None where it says nothing."""

    local: bool | None = None
    name: str | None = None
    gpu: str | None = None
    machine: str | None = None
    zone: str | None = None
    region: str | None = None
    image: str | None = None
    disk_gb: int | None = None
    max_hours: float | None = None
    idle: str | None = None
    budget: float | None = None
    spot: bool | None = None
    restrict_ssh: bool | None = None
    external_address: bool | None = None


DEFAULT_SERVICES: Mapping[str, ServiceSettings] = {
    "tensorboard": ServiceSettings(
        name="tensorboard",
        command="tensorboard --logdir runs --port {port} --host 127.0.0.1",
        port=TENSORBOARD_PORT,
    ),
    "jupyter": ServiceSettings(
        name="jupyter",
        command="jupyter lab --no-browser --ip 127.0.0.1 --port {port} --ServerApp.port_retries=0",
        port=JUPYTER_PORT,
        token=True,
    ),
}


def load_project(
    start: Path, *, flags: Flags | None = None, environ: Mapping[str, str] | None = None
) -> Project:
    """The project that holds the folder `start`; raises InvalidInput for a wrong setting."""
    flags = flags or Flags()
    environ = os.environ if environ is None else environ
    file, table = _find_file(start)
    root = file.parent if file else start.resolve()
    where = str(file) if file else "the environment"
    known = {"name", "project", "local", "vm", "push", "jobs", "services"}
    _refuse_unknown(table, known, file=where, prefix="")

    vm = _vm_settings(table.get("vm", {}), where)
    vm = _vm_environment(vm, environ)
    vm = _vm_flags(vm, flags)
    push = _table(table.get("push", {}), where, "push")
    _refuse_unknown(push, {"exclude"}, file=where, prefix="push.")

    if flags.name == "":
        raise InvalidInput("--name is empty.", hint="Choose one: vmctl --name NAME …")
    name = flags.name or environ.get("VMCTL_NAME") or _text(table, "name", where) or root.name
    local = flags.local
    if local is None:
        local = _truth(environ["VMCTL_LOCAL"], "VMCTL_LOCAL") if "VMCTL_LOCAL" in environ else None
    if local is None:
        local = _typed(table.get("local", False), bool, "local", where)
    return Project(
        root=root,
        name=_project_name(name),
        owner=slug(environ.get("VMCTL_OWNER") or _local_user(), limit=20),
        local=local,
        google_project=environ.get("VMCTL_PROJECT") or _text(table, "project", where),
        vm=vm,
        exclude=_texts(push.get("exclude", []), "push.exclude", where),
        jobs=_jobs(table.get("jobs", {}), where),
        services=_services(table.get("services", {}), where),
        file=file,
    )


# -- finding and reading the file ------------------------------------------------------------


def settings_file(start: Path) -> Path | None:
    """The file whose settings count in a folder; None where only the defaults do."""
    return _find_file(start)[0]


def _find_file(start: Path) -> tuple[Path | None, dict[str, Any]]:
    """The nearest vmctl.toml, or pyproject.toml with [tool.vmctl], from `start` upwards."""
    folder = start.resolve()
    for candidate in (folder, *folder.parents):
        file = candidate / FILE_NAME
        if file.is_file():
            return file, _read_toml(file)
        pyproject = candidate / "pyproject.toml"
        if pyproject.is_file():
            tool = _read_toml(pyproject).get("tool", {})
            table = tool.get("vmctl") if isinstance(tool, dict) else None
            if isinstance(table, dict):
                return pyproject, table
        if (candidate / ".git").exists():
            break
    return None, {}


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(
            f"{file} is not valid TOML: {error}.", hint="Mend the line that it names."
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        why = "it is not UTF-8 text" if isinstance(error, ValueError) else error.strerror
        raise InvalidInput(
            f"{file} cannot be read: {why}.", hint="Mend it, or work in another folder."
        ) from error


# -- tables of the file ----------------------------------------------------------------------


def _vm_settings(value: object, file: str) -> VmSettings:
    table = _table(value, file, "vm")
    names = {item.name for item in fields(VmSettings)}
    _refuse_unknown(table, names, file=file, prefix="vm.")
    settings = VmSettings()
    for key, given in table.items():
        settings = replace(settings, **{key: _vm_value(key, given, file)})
    return _settle(settings, table)


_TRUTHS = {"spot", "restrict_ssh", "external_address"}


def _vm_value(key: str, value: object, where: str) -> Any:
    """One setting of [vm] with the type that VmSettings gives it."""
    if key == "disk_gb":
        number = _typed(value, int, f"vm.{key}", where)
        if not 10 <= number <= 65536:
            raise InvalidInput(
                f"{_named(key, where)} must be from 10 to 65536 GB, not {number}.",
                hint="The PyTorch image needs at least 50 GB; 100 is usual.",
            )
        return number
    if key == "max_hours":
        hours = float(_typed(value, (int, float), f"vm.{key}", where))
        return _hours(hours, _named(key, where))
    if key == "key_hours":
        hours = float(_typed(value, (int, float), f"vm.{key}", where))
        if not 1 <= hours <= 8760:
            raise InvalidInput(
                f"{_named(key, where)} must be from 1 to 8760 hours, not {hours:g}.",
                hint="It is how long vmctl's login key opens the VM, such as 24.",
            )
        return hours
    if key in _TRUTHS:
        return _typed(value, bool, f"vm.{key}", where)
    if key == "idle":
        text: str = _typed(value, str, f"vm.{key}", where)
        parse_idle(text, of=_named(key, where))
        return text
    if key == "budget":
        return check_budget(float(_typed(value, (int, float), f"vm.{key}", where)), where)
    return _typed(value, str, f"vm.{key}", where)


def _named(key: str, where: str) -> str:
    """A [vm] setting as its user knows it: by the flag, by the variable, or by key and file."""
    return where if where.startswith(("--", "VMCTL_")) else f"vm.{key} in {where}"


def _vm_environment(settings: VmSettings, environ: Mapping[str, str]) -> VmSettings:
    given = []
    for item in fields(VmSettings):
        variable = f"VMCTL_{item.name.upper()}"
        if variable not in environ:
            continue
        given.append(item.name)
        text = environ[variable]
        value: object = text
        try:
            if item.name == "disk_gb":
                value = int(text)
            elif item.name in ("max_hours", "key_hours", "budget"):
                value = float(text)
            elif item.name in _TRUTHS:
                value = _truth(text, variable)
        except ValueError as error:
            wanted = "a whole number" if item.name == "disk_gb" else "a number"
            raise InvalidInput(
                f"{variable} must be {wanted}, not '{text}'.",
                hint=f"Such as: {variable}={item.default or 5}",
            ) from error
        settings = replace(settings, **{item.name: _vm_value(item.name, value, variable)})
    return _settle(settings, given)


def _vm_flags(settings: VmSettings, flags: Flags) -> VmSettings:
    given = []
    for item in fields(VmSettings):
        value = getattr(flags, item.name, None)
        if value is not None:
            given.append(item.name)
            where = "--" + item.name.replace("_", "-")
            settings = replace(settings, **{item.name: _vm_value(item.name, value, where)})
    return _settle(settings, given)


def _settle(settings: VmSettings, given: Collection[str]) -> VmSettings:
    """A zone brings its region along; a region alone forgets the zone of a weaker layer."""
    if "region" in given and "zone" not in given:
        return replace(settings, zone=None)
    if "zone" in given and "region" not in given and settings.zone:
        return replace(settings, region=settings.zone.rpartition("-")[0] or settings.region)
    return settings


def _jobs(value: object, file: str) -> dict[str, JobSettings]:
    jobs = {}
    for name, given in _table(value, file, "jobs").items():
        prefix = f"jobs.{name}"
        table = _table(given, file, prefix)
        known = {"directory", "setup", "command", "env", "outputs"}
        _refuse_unknown(table, known, file=file, prefix=f"{prefix}.")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}", name):
            raise InvalidInput(
                f"The job name '{name}' in {file} may hold only letters, digits, '-' and '_'.",
                hint="Such as: [jobs.train]",
            )
        if not str(table.get("command", "")).strip():
            raise InvalidInput(
                f"The job '{name}' in {file} has no command.",
                hint=f'Add: [{prefix}] command = "python train.py"',
            )
        jobs[name] = JobSettings(
            name=name,
            command=_typed(table["command"], str, f"{prefix}.command", file),
            directory=_inside(table.get("directory", ""), f"{prefix}.directory", file),
            setup=_texts(table.get("setup", []), f"{prefix}.setup", file),
            env=_texts(table.get("env", []), f"{prefix}.env", file),
            outputs=_texts(table.get("outputs", []), f"{prefix}.outputs", file),
        )
    return jobs


def _services(value: object, file: str) -> dict[str, ServiceSettings]:
    services = dict(DEFAULT_SERVICES)
    for name, given in _table(value, file, "services").items():
        prefix = f"services.{name}"
        table = _table(given, file, prefix)
        known = {"port", "command", "directory", "token"}
        _refuse_unknown(table, known, file=file, prefix=f"{prefix}.")
        base = services.get(name)
        if base is None and not {"port", "command"} <= table.keys():
            raise InvalidInput(
                f"The service '{name}' in {file} needs both a port and a command.",
                hint=f'Add to [{prefix}]: port = 8080, command = "… --port {{port}}"',
            )
        base = base or ServiceSettings(name=name, command="", port=0)
        port = _typed(table.get("port", base.port), int, f"{prefix}.port", file)
        if not 1 <= port <= 65535:
            raise InvalidInput(
                f"{prefix}.port in {file} must be from 1 to 65535, not {port}.",
                hint="Such as: port = 8080",
            )
        services[name] = ServiceSettings(
            name=name,
            command=_typed(table.get("command", base.command), str, f"{prefix}.command", file),
            port=port,
            directory=_inside(table.get("directory", base.directory), f"{prefix}.directory", file),
            token=_typed(table.get("token", base.token), bool, f"{prefix}.token", file),
        )
    return services


# -- small parsers ---------------------------------------------------------------------------


def _refuse_unknown(table: Mapping[str, Any], known: set[str], *, file: str, prefix: str) -> None:
    for key in table:
        if key not in known:
            close = nearest(key, known)
            meant = f"Did you mean '{prefix}{close}'?" if close else ""
            valid = ", ".join(sorted(known))
            raise InvalidInput(
                f"Unknown setting '{prefix}{key}' in {file}.",
                hint=meant or f"Valid here: {valid}.",
            )


def _table(value: object, file: str, key: str) -> dict[str, Any]:
    table: dict[str, Any] = _typed(value, dict, key, file)
    return table


_WORDS = {
    str: "text in quotes",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "a table",
}

_LIKE = {str: '"…"', int: "100", float: "1.5", bool: "true", list: '["…"]', dict: "…"}


def _typed(value: Any, kind: Any, key: str, file: str) -> Any:
    kinds = kind if isinstance(kind, tuple) else (kind,)
    wrong_bool = isinstance(value, bool) and bool not in kinds
    if wrong_bool or not isinstance(value, kinds):
        wanted = _WORDS[kinds[-1]]
        given = _WORDS.get(type(value), type(value).__name__)
        name, item, _ = key.rpartition(".")[2].partition("[")
        like = f"{name} = {_LIKE[list if item else kinds[-1]]}"
        raise InvalidInput(
            f"'{key}' in {file} must be {wanted}, not {given} ({value!r}).",
            hint=f"Such as: {like if kinds[-1] is not dict else f'[{key}]'}",
        )
    return value


def _text(table: Mapping[str, Any], key: str, file: str) -> str | None:
    return _typed(table[key], str, key, file) if key in table else None


def _texts(value: object, key: str, file: str) -> tuple[str, ...]:
    items = _typed(value, list, key, file)
    return tuple(_typed(item, str, f"{key}[{place}]", file) for place, item in enumerate(items))


def _inside(value: object, key: str, file: str) -> str:
    """A folder relative to the project's root, never outside it."""
    text: str = _typed(value, str, key, file)
    path = os.path.normpath(text) if text else ""
    if path.startswith(("/", "..")):
        raise InvalidInput(
            f"'{key}' in {file} must be a folder inside the project, not '{text}'.",
            hint='Such as: directory = "src"',
        )
    return "" if path == "." else path


def _hours(hours: float, where: str) -> float:
    if not 0.01 <= hours <= 2880:
        raise InvalidInput(
            f"{where} must be from 0.01 to 2880 hours (120 days), not {hours:g}.",
            hint="It is the time after which Google stops the VM, such as 12.",
        )
    return hours


def _truth(text: str, variable: str) -> bool:
    if text.lower() in {"1", "true", "yes", "on"}:
        return True
    if text.lower() in {"", "0", "false", "no", "off"}:
        return False
    raise InvalidInput(f"{variable} must be 1 or 0, not '{text}'.", hint=f"Such as: {variable}=1")


def _project_name(name: str) -> str:
    made = slug(name, limit=40)
    if not made:
        raise InvalidInput(
            f"No VM name can be made of '{name}'.", hint="Choose one: vmctl --name NAME …"
        )
    return made


def _local_user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a uid without a passwd entry and without $USER
        return f"user{os.getuid()}"
