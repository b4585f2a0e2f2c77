"""[vm]: the machine that is wished for, read from the file, the environment and the flags.

Each layer beats the one before; a value that cannot be is InvalidInput, named as its user knows it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from vmctl.domain.errors import InvalidInput
from vmctl.domain.settings.toml_values import (
    check_number,
    check_table,
    check_type,
    parse_bool,
    refuse_unknown,
)

# names of Google's, which stand in lines to be pasted into a shell, too
RESOURCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,250}")
_RESOURCES = {"machine", "zone", "region", "image", "network", "subnetwork"}
_TRUTHS = {"spot", "restrict_ssh", "external_address"}
_NUMBERS = {"max_hours", "key_hours", "budget"}
_BOUNDS = {  # least, most, in what, and what it is
    "disk_gb": (10, 65536, "GB", "The PyTorch image needs at least 50 GB; 100 is usual."),
    "max_hours": (
        0.01, 2880, "hours (120 days)",
        "The time after which Google stops the VM, such as 12.",
    ),
    "key_hours": (
        1, 8760, "hours", "The lifetime of vmctl's login key, such as 24.",
    ),
}  # fmt: skip
N = TypeVar("N", int, float)


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


def from_table(value: object, file: str) -> VmSettings:
    """What the file's [vm] says, and the defaults for the rest."""
    table = check_table(value, "vm", file)
    refuse_unknown(table, {item.name for item in fields(VmSettings)}, file=file, prefix="vm.")
    return _override(VmSettings(), table, lambda _: file)


def list_variables() -> list[str]:
    """The environment's variables that are settings of [vm]."""
    return [_variable(item.name) for item in fields(VmSettings)]


def with_environment(settings: VmSettings, environ: Mapping[str, str]) -> VmSettings:
    """The settings, those that `VMCTL_*` names in their places."""
    given = {
        item.name: _parse_variable(item.name, environ[_variable(item.name)], item.default)
        for item in fields(VmSettings)
        if _variable(item.name) in environ
    }
    return _override(settings, given, _variable)


def with_flags(settings: VmSettings, flags: Mapping[str, object]) -> VmSettings:
    """The settings, those that the command line names in their places; None names nothing."""
    given = {key: value for key, value in flags.items() if value is not None}
    return _override(settings, given, lambda key: "--" + key.replace("_", "-"))


def _override(
    settings: VmSettings, given: Mapping[str, object], where: Callable[[str], str]
) -> VmSettings:
    """The settings under a stronger layer; `where` is what its user calls one of its keys."""
    checked: dict[str, Any] = {key: _check(key, value, where(key)) for key, value in given.items()}
    return _align_region(replace(settings, **checked), given)


def _check(key: str, value: object, where: str) -> str | int | float | bool:
    """One setting with the type that VmSettings gives it, inside its bounds."""
    full = f"vm.{key}"
    if key == "disk_gb":
        return _check_bounds(key, check_type(value, int, full, where), _name_of(key, where))
    if key in ("max_hours", "key_hours"):
        return _check_bounds(key, check_number(value, full, where), _name_of(key, where))
    if key == "budget":
        return _check_budget(check_number(value, full, where), _name_of(key, where))
    if key in _TRUTHS:
        return check_type(value, bool, full, where)
    text = check_type(value, str, full, where)
    if key == "idle":
        from vmctl.domain.machine.watchdog import parse_idle  # not at every start

        parse_idle(text, of=_name_of(key, where))
    if key in _RESOURCES and text and not RESOURCE.fullmatch(text):
        raise InvalidInput(
            f"{_name_of(key, where)} may hold only letters, digits and . _ : / @ -, "
            f"not {text[:80]!r}.",
            hint="Google's names look like: europe-west1-b",
        )
    return text


def _check_bounds(key: str, value: N, named: str) -> N:
    least, most, unit, hint = _BOUNDS[key]
    if not least <= value <= most:
        raise InvalidInput(
            f"{named} must be from {least} to {most} {unit}, not {value:.12g}.", hint=hint
        )
    return value


def _check_budget(usd: float, named: str) -> float:
    if not 0 < usd <= 100_000:
        raise InvalidInput(
            f"{named} must be more than $0 and at most $100000, not {usd:g}.",
            hint="The spending limit for one start of the VM, such as: --budget 5",
        )
    return usd


def _name_of(key: str, where: str) -> str:
    """A [vm] setting as its user knows it: by the flag, by the variable, or by key and file."""
    return where if where.startswith(("--", "VMCTL_")) else f"vm.{key} in {where}"


def _variable(key: str) -> str:
    return f"VMCTL_{key.upper()}"


def _parse_variable(key: str, text: str, default: object) -> object:
    """A variable's text as a value of its setting's type."""
    variable = _variable(key)
    if key in _TRUTHS:
        return parse_bool(text, variable)
    if key != "disk_gb" and key not in _NUMBERS:
        return text
    try:
        return int(text) if key == "disk_gb" else float(text)
    except ValueError as error:
        wanted = "a whole number" if key == "disk_gb" else "a number"
        raise InvalidInput(
            f"{variable} must be {wanted}, not '{text}'.",
            hint=f"Such as: {variable}={default or 5}",
        ) from error


def _align_region(settings: VmSettings, given: Collection[str]) -> VmSettings:
    """A zone brings its region along; a region alone forgets the zone of a weaker layer."""
    if "region" in given and "zone" not in given:
        return replace(settings, zone=None)
    if "zone" in given and "region" not in given and settings.zone:
        return replace(settings, region=settings.zone.rpartition("-")[0] or settings.region)
    return settings
