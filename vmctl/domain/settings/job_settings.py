"""[jobs.NAME]: what is trained. A job is a command, a script with requirements, or a package."""

from __future__ import annotations

import keyword
import posixpath
import re
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from vmctl.domain.errors import InvalidInput
from vmctl.domain.settings.toml_values import (
    check_folder,
    check_name,
    check_table,
    check_texts,
    check_type,
    refuse_unknown,
)

if TYPE_CHECKING:  # most jobs say nothing of a cluster
    from vmctl.domain.settings.target_settings import SlurmSettings

KINDS = ("command", "script", "package")
_KEYS = {*KINDS, "requirements", "module", "directory", "setup", "env", "outputs", "slurm"}
# PEP 508 without URLs: a name, extras, versions, a marker. Compiled where a job has such a thing.
_VERSION = r"(?:===|~=|[<>=!]=|[<>])\s*[A-Za-z0-9.*+!_-]+"
_REQUIREMENT = (
    r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?\s*(?:\[[A-Za-z0-9._,\s-]*\])?\s*"
    rf"(?:\(?{_VERSION}(?:\s*,\s*{_VERSION})*\)?)?\s*(?:;[^;#]+)?"
)
_MODULE = r"[^\W\d]\w*(\.[^\W\d]\w*)*"


class JobSettings(NamedTuple):
    """What to train with: where it runs, what prepares it, what it leaves behind.

    `command` is what runs, for a script and a package the line that is composed of them. `script`
    and `package` are paths below `directory`, "" where the job is of another kind.
    """

    name: str
    command: str
    directory: str = ""
    setup: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    slurm: SlurmSettings | None = None
    script: str = ""
    requirements: tuple[str, ...] = ()  # of the script, as pip has them
    package: str = ""  # a folder with setup.py or pyproject.toml
    module: str = ""  # of the package, run as python -m

    @property
    def steps(self) -> tuple[str, ...]:
        """What a run does one after another, as a person would type it."""
        wanted = [f"./{self.package}"] if self.package else self.requirements
        installs = (f"pip install {shlex.join(wanted)}",) if wanted else ()
        return (*self.setup, *installs, self.command)


def parse_jobs(value: object, file: str) -> dict[str, JobSettings]:
    """The file's [jobs]; raises InvalidInput that names the key."""
    jobs = {}
    for name, given in check_table(value, "jobs", file).items():
        prefix = f"jobs.{check_name(name, 'job', file)}"
        table = check_table(given, prefix, file)
        refuse_unknown(table, _KEYS, file=file, prefix=f"{prefix}.")
        kind = _choose_kind(name, table, prefix, file)
        folder = check_folder(table.get("directory", ""), f"{prefix}.directory", file)
        jobs[name] = JobSettings(
            name=name,
            directory=folder,
            setup=check_texts(table.get("setup", []), f"{prefix}.setup", file),
            env=_parse_env(table.get("env", []), f"{prefix}.env", file),
            outputs=check_texts(table.get("outputs", []), f"{prefix}.outputs", file),
            slurm=_parse_slurm(table, prefix, file),
            **_parse_kind(kind, table, folder, prefix, file),
        )
    return jobs


def _choose_kind(name: str, table: Mapping[str, Any], prefix: str, file: str) -> str:
    """The one kind that the job is of; raises InvalidInput for none, several, or a mixture."""
    kinds = [kind for kind in KINDS if str(table.get(kind, "")).strip()]
    if not kinds:
        raise InvalidInput(
            f"The job '{name}' in {file} has no command.",
            hint=f'Add: [{prefix}] command = "python train.py"',
        )
    if len(kinds) > 1:
        raise InvalidInput(
            f"The job '{name}' in {file} has both a {kinds[0]} and a {kinds[1]}.",
            hint=f"Keep one of them in [{prefix}].",
        )
    kind = kinds[0]
    if "requirements" in table and kind != "script":
        where = "its setup.py or pyproject.toml" if kind == "package" else "a step of its set-up"
        example = "" if kind == "package" else ': setup = ["pip install NAME"]'
        raise InvalidInput(
            f"The job '{name}' in {file} has requirements, which only a script may have.",
            hint=f"A {kind} names them in {where}{example}",
        )
    if ("module" in table) != (kind == "package"):
        said = "no module to run" if kind == "package" else f"a module, but is a {kind}"
        raise InvalidInput(
            f"The job '{name}' in {file} has {said}.",
            hint=f'A package has one: [{prefix}] package = "FOLDER", module = "hello_world.main"',
        )
    return kind


def _parse_kind(
    kind: str, table: Mapping[str, Any], folder: str, prefix: str, file: str
) -> dict[str, Any]:
    """The fields of a job that its kind decides."""
    if kind == "command":
        return {"command": check_type(table["command"], str, f"{prefix}.command", file)}
    path = _parse_path(table[kind], folder, f"{prefix}.{kind}", file)
    if kind == "package":
        module = _parse_module(table["module"], f"{prefix}.module", file)
        return {"command": f"python -m {module}", "package": path, "module": module}
    if not path.endswith(".py"):
        raise InvalidInput(
            f"'{prefix}.script' in {file} must be a Python file, not '{path}'.",
            hint='Such as: script = "hello_script.py". Any other program is a command: '
            f'command = "./{path}"',
        )
    key = f"{prefix}.requirements"
    listed = _parse_requirements(table.get("requirements", []), key, file)
    return {"command": f"python {shlex.quote(path)}", "script": path, "requirements": listed}


def _parse_path(value: object, folder: str, key: str, file: str) -> str:
    """A path below the job's folder or beside it, inside the project."""
    text = check_type(value, str, key, file)
    path = posixpath.normpath(text)
    inside = not posixpath.normpath(posixpath.join(folder, path)).startswith(("/", ".."))
    if not inside or path.startswith("-"):
        name = key.rpartition(".")[2]
        raise InvalidInput(
            f"'{key}' in {file} must be inside the project, not '{text}'.",
            hint=f'Such as: {name} = "hello{".py" if name == "script" else ""}"',
        )
    return path


def _parse_requirements(value: object, key: str, file: str) -> tuple[str, ...]:
    """What pip takes for the name of a package with its versions: no option, URL or path."""
    listed = tuple(dict.fromkeys(item.strip() for item in check_texts(value, key, file)))
    for item in listed:
        if not re.fullmatch(_REQUIREMENT, item):
            raise InvalidInput(
                f"{item[:80]!r} in {key} in {file} is not the name of a package with its versions.",
                hint='Such as: requirements = ["asciimatics>=1.15"]. Options, URLs and files of '
                'pip belong to the set-up: setup = ["pip install …"]',
            )
    return listed


def _parse_module(value: object, key: str, file: str) -> str:
    text = check_type(value, str, key, file)
    if not re.fullmatch(_MODULE, text) or any(map(keyword.iskeyword, text.split("."))):
        like = text.strip("./").removesuffix(".py").replace("/", ".")
        meant = like if re.fullmatch(_MODULE, like) else "hello_world.main"
        raise InvalidInput(
            f"'{key}' in {file} is not the name of a module: '{text[:80]}'.",
            hint=f'Such as: module = "{meant}"',
        )
    return text


def _parse_slurm(table: Mapping[str, Any], prefix: str, file: str) -> SlurmSettings | None:
    if "slurm" not in table:
        return None
    from vmctl.domain.settings.target_settings import parse_job_slurm

    return parse_job_slurm(table["slurm"], f"{prefix}.slurm", file)


def _parse_env(value: object, key: str, file: str) -> tuple[str, ...]:
    """Names of variables, as every shell can have them; each once."""
    names = check_texts(value, key, file)
    for name in names:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,127}", name):
            raise InvalidInput(
                f"{name[:80]!r} in {key} in {file} is not a valid variable name.",
                hint='It may hold letters, digits and "_", such as: env = ["DATA_URL"]',
            )
    return tuple(dict.fromkeys(names))
