"""[targets.NAME]: machines and clusters besides Compute Engine, read from the file or `--on`.

A target is reached by SSH: `ssh` is any server, `slurm` the login node of a cluster; or it is a
service, which has no host: `vertex` is Vertex AI.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from vmctl.domain.duration import parse_duration
from vmctl.domain.errors import InvalidInput, NotFound
from vmctl.domain.names import find_nearest
from vmctl.domain.settings.toml_values import (
    check_name,
    check_table,
    check_texts,
    check_type,
    refuse_unknown,
)

if TYPE_CHECKING:  # most targets are machines
    from vmctl.domain.settings.vertex_settings import VertexSettings

SSH, SLURM, VERTEX = "ssh", "slurm", "vertex"
KINDS = (SSH, SLURM, VERTEX)
# what OpenSSH takes for a host or a user, and never for an option, a token or a second word
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,250}|[0-9A-Fa-f]*:[0-9A-Fa-f:.]{1,60}")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,60}(@[A-Za-z0-9.-]{1,100})?")
_FOLDER = re.compile(r"(~|~?(/[^/\0\n]+)+)")
_WORD = re.compile(r"[A-Za-z0-9_.,:/+=@%~-]{1,200}")  # of sbatch: no space, quote or option
_MODULE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./+~-]{0,200}")
_TIME = re.compile(r"\d+(-\d+(:\d+){0,2})?|\d+(:\d+){1,2}|UNLIMITED", re.IGNORECASE)
_MEMORY = re.compile(r"\d+[KMGT]?", re.IGNORECASE)
_GPUS = re.compile(r"(?:([A-Za-z0-9_.-]+):)?(\d{1,4})")


@dataclass(frozen=True, slots=True)
class SlurmSettings:
    """Resources of a batch job, in Slurm's own words; None leaves a resource to the cluster."""

    account: str | None = None
    partition: str | None = None
    time: str | None = None  # D-HH:MM:SS or one of sbatch's other forms
    nodes: int | None = None
    tasks: int | None = None
    cpus: int | None = None  # of a task
    mem: str | None = None  # of a node, such as 16G
    gpus: str | None = None  # of a node: N or TYPE:N
    modules: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()  # sbatch's options as they are, such as --constraint=MEM512
    resubmit: bool = False  # go on in a next job when the time limit ends this one

    def under(self, weaker: SlurmSettings) -> SlurmSettings:
        """These where they say something, else the weaker ones."""
        default = SlurmSettings()
        given = {item.name: getattr(self, item.name) for item in fields(self)}
        return replace(weaker, **{k: v for k, v in given.items() if v != getattr(default, k)})


@dataclass(frozen=True, slots=True)
class TargetSettings:
    """One target: how it is reached, where the project's folder lies, which Python jobs get."""

    name: str
    kind: str
    host: str
    user: str | None = None
    port: int | None = None
    workspace: str = "~/Workspace"
    python: str | None = None
    keep_login: float = 8 * 3600.0  # seconds that a login which asked for a password stays open
    slurm: SlurmSettings = field(default_factory=SlurmSettings)
    from_file: bool = False  # the project's file chose it, nobody typed it
    vertex: VertexSettings | None = None  # of Vertex AI, where `host` is ""

    @property
    def address(self) -> str:
        """As a person would write it: user@host:port, or Vertex AI's region and bucket."""
        if self.vertex is not None:
            return f"Vertex AI in {self.vertex.region} with gs://{self.vertex.bucket}"
        host = f"[{self.host}]" if ":" in self.host and self.port else self.host
        port = f":{self.port}" if self.port else ""
        return f"{self.user}@{host}{port}" if self.user else f"{host}{port}"


def parse_targets(value: object, file: str) -> dict[str, TargetSettings]:
    """The file's [targets]; raises InvalidInput that names the key."""
    targets = {}
    for name, given in check_table(value, "targets", file).items():
        prefix = f"targets.{check_name(name, 'target', file)}"
        targets[name] = _parse_target(name, check_table(given, prefix, file), prefix, file)
    return targets


def choose_target(
    word: str, targets: Mapping[str, TargetSettings], file: str, *, from_file: bool
) -> TargetSettings:
    """The target that `--on`, VMCTL_ON or `on` names: one of the file's, or KIND/USER@HOST:PORT.

    Raises NotFound with the nearest name, InvalidInput for an address that cannot be one.
    """
    kind, slash, address = word.partition("/")
    if kind == VERTEX and slash:
        return replace(_in_region(address, targets, file), from_file=from_file)
    if slash:
        return replace(_parse_word(word, kind, address), from_file=from_file)
    found = targets.get(word)
    if found is not None:
        return replace(found, from_file=from_file)
    close = find_nearest(word, targets)
    known = ", ".join(sorted(targets))
    raise NotFound(
        f"There is no target '{word}' in {file}.",
        hint=f"Did you mean: --on {close}"
        if close
        else f"One of: {known}. Or without a table: --on ssh/user@host"
        if known
        else f'Write one: [targets.{word}] kind = "ssh", host = "{word}". '
        f"Or without a table: --on ssh/{word}",
    )


def parse_slurm(table: Mapping[str, Any], prefix: str, file: str) -> SlurmSettings:
    """Resources of a target's or a job's table."""
    values: dict[str, Any] = {}
    for item in fields(SlurmSettings):
        if item.name not in table:
            continue
        key, value = f"{prefix}.{item.name}", table[item.name]
        if item.name in ("nodes", "tasks", "cpus"):
            values[item.name] = _check_count(check_type(value, int, key, file), key, file)
        elif item.name in ("modules", "extra"):
            values[item.name] = check_texts(value, key, file)
        elif item.name == "resubmit":
            values[item.name] = check_type(value, bool, key, file)
        elif item.name == "gpus" and isinstance(value, int) and not isinstance(value, bool):
            values[item.name] = str(value)
        else:
            values[item.name] = check_type(value, str, key, file)
    return check_slurm(SlurmSettings(**values), lambda name: f"{prefix}.{name} in {file}")


def parse_job_slurm(value: object, key: str, file: str) -> SlurmSettings:
    """A job's own table of resources."""
    table = check_table(value, key, file)
    known = {item.name for item in fields(SlurmSettings)}
    refuse_unknown(table, known, file=file, prefix=f"{key}.")
    return parse_slurm(table, key, file)


def check_slurm(settings: SlurmSettings, named: Any) -> SlurmSettings:
    """The same settings, if sbatch can be given each; `named(key)` is what their user calls one."""
    forms = {
        "account": (_WORD, 'account = "NAISS2026-22-1"'),
        "partition": (_WORD, 'partition = "gpu"'),
        "time": (_TIME, 'time = "0-02:00:00"'),
        "mem": (_MEMORY, 'mem = "16G"'),
        "gpus": (_GPUS, 'gpus = "a100:1"'),
    }
    for key, (form, example) in forms.items():
        text = getattr(settings, key)
        if text is not None and not form.fullmatch(text):
            raise InvalidInput(
                f"{named(key)} is not a value for Slurm: {text[:80]!r}.", hint=f"Such as: {example}"
            )
    for module in settings.modules:
        if not _MODULE.fullmatch(module):
            raise InvalidInput(
                f"{named('modules')} holds {module[:80]!r}, which is not a module's name.",
                hint='Such as: modules = ["PyTorch/2.1.2-foss-2023a-CUDA-12.1.1"]',
            )
    for option in settings.extra:
        if not re.fullmatch(r"--?[A-Za-z][A-Za-z0-9-]*([= ][^\n]*)?", option):
            raise InvalidInput(
                f"{named('extra')} holds {option[:80]!r}, which is not an option of sbatch.",
                hint='Such as: extra = ["--constraint=MEM512"]',
            )
    return settings


def split_gpus(text: str) -> tuple[str | None, int]:
    """The type, if one is named, and the number of `a100:1`."""
    found = _GPUS.fullmatch(text)
    assert found is not None
    return found[1], int(found[2])


def _parse_target(name: str, table: dict[str, Any], prefix: str, file: str) -> TargetSettings:
    kind = check_type(table.get("kind", ""), str, f"{prefix}.kind", file)
    if kind not in KINDS:
        raise InvalidInput(
            f"{prefix}.kind in {file} must be one of {', '.join(KINDS)}, not '{kind}'.",
            hint='Such as: kind = "ssh"',
        )
    if kind == VERTEX:
        from vmctl.domain.settings.vertex_settings import parse_vertex

        return TargetSettings(name, kind, "", vertex=parse_vertex(name, table, file))
    reach = {"kind", "host", "user", "port", "workspace", "python", "keep_login", "modules"}
    resources = {item.name for item in fields(SlurmSettings)} if kind == SLURM else set()
    refuse_unknown(table, reach | resources, file=file, prefix=f"{prefix}.")
    if "host" not in table:
        raise InvalidInput(
            f"The target '{name}' in {file} has no host.",
            hint=f'Add to [{prefix}]: host = "HOST", its address or a name of your ~/.ssh/config',
        )
    text: dict[str, Any] = {
        key: check_type(table[key], str, f"{prefix}.{key}", file)
        for key in ("host", "user", "workspace", "python", "keep_login")
        if key in table
    }
    port = check_type(table["port"], int, f"{prefix}.port", file) if "port" in table else None
    keep = text.pop("keep_login", None)
    target = TargetSettings(
        name=name, kind=kind, port=port, slurm=parse_slurm(table, prefix, file), **text
    )
    if keep is not None:
        target = replace(target, keep_login=parse_duration(keep, of=f"{prefix}.keep_login"))
    return _checked(target, lambda key: f"{prefix}.{key} in {file}")


def _in_region(region: str, targets: Mapping[str, TargetSettings], file: str) -> TargetSettings:
    """`vertex/europe-west4`: the file's target there; a bucket cannot be guessed."""
    for target in targets.values():
        if target.vertex is not None and target.vertex.region == region:
            return target
    raise InvalidInput(
        f"vertex/{region} needs a bucket, and no target in {file} has one there.",
        hint=f'Write: [targets.vertex] kind = "vertex", region = "{region}", bucket = "gs://NAME"',
    )


def _parse_word(word: str, kind: str, address: str) -> TargetSettings:
    """`ssh/alice@gpu1:2222`, `slurm/alvis`."""
    found = re.fullmatch(r"(?:(.+)@)?(\[[^\]@]+\]|[^:@\[\]]+)(?::(\d{1,6}))?", address)
    if kind not in KINDS or found is None:
        raise InvalidInput(
            f"'{word}' is not a target.", hint="Such as: --on ssh/user@host:22, or --on slurm/host"
        )
    user, host, port = found.groups()
    target = TargetSettings(
        name=word, kind=kind, host=host.strip("[]"), user=user, port=int(port) if port else None
    )
    return _checked(target, lambda key: f"The {key} of --on {word}")


def _checked(target: TargetSettings, named: Any) -> TargetSettings:
    forms = {"host": _HOST, "user": _USER, "workspace": _FOLDER, "python": _FOLDER}
    for key, form in forms.items():
        text = getattr(target, key)
        if text is None or (form.fullmatch(text) and "/../" not in f"{text}/"):
            continue
        if key == "python" and re.fullmatch(r"[A-Za-z0-9._-]+", text) and text[0] != "-":
            continue  # a program's name, found on PATH there
        raise InvalidInput(
            f"{named(key)} cannot be {text[:80]!r}.",
            hint={
                "host": "A host's name or address, or a name of your ~/.ssh/config.",
                "user": "A login name, such as: alice",
                "workspace": 'A folder there, such as: workspace = "~/Workspace"',
                "python": 'A program there, such as: python = "~/venvs/torch/bin/python"',
            }[key],
        )
    if target.port is not None and not 0 < target.port < 65536:
        raise InvalidInput(
            f"{named('port')} must be from 1 to 65535, not {target.port}.", hint="Usually 22."
        )
    return target


def _check_count(number: int, key: str, file: str) -> int:
    if not 1 <= number <= 100_000:
        raise InvalidInput(
            f"{key} in {file} must be from 1 to 100000, not {number}.", hint="Such as: 1"
        )
    return number
