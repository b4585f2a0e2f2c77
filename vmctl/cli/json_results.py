"""The documents that commands print under --json, and their JSON Schemas, made from the results."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import inspect
import types
import typing
from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import PurePath
from typing import Any

DIALECT = "https://json-schema.org/draft/2020-12/schema"

# a command, or one with an option that makes its result another one: where that is defined.
# "[…]" is a list of them.
RESULTS: Mapping[str, str] = {
    "init": "workflows.setup.init:InitResult",
    "doctor": "domain.readiness.checks:Checkup",
    "up": "workflows.machine.up:UpResult",
    "adopt": "workflows.machine.adopt:AdoptResult",
    "down": "workflows.machine.down:DownResult",
    "status": "workflows.machine.status:StatusResult",
    "keep": "workflows.machine.keep:KeepResult",
    "cost": "workflows.costs.cost:CostResult",
    "ls": "workflows.machine.status:ListResult",
    "ls --orphans": "workflows.costs.gc:OrphansResult",
    "gc": "workflows.costs.gc:GcResult",
    "gpus": "workflows.costs.gpus:GpusResult",
    "push": "workflows.sync.push:PushResult",
    "pull": "workflows.sync.pull:PullResult",
    "fetch": "workflows.sync.fetch:FetchResult",
    "run": "domain.runs.run:RunResult",
    "logs": "domain.runs.run:RunResult",
    "ps": "[domain.runs.run:RunView]",
    "cancel": "workflows.runs.run:CancelResult",
    "tunnel": "domain.events:UrlReady",
    "tunnel --background": "workflows.tunnels.registry:TunnelRecord",
    "tunnel stop": "[workflows.tunnels.registry:TunnelRecord]",
    "tunnels": "[workflows.tunnels.registry:TunnelRecord]",
    "up --on": "domain.readiness.checks:Checkup",
    "status --on": "domain.machine.server:ServerStatus",
    "down --on": "domain.machine.server:NothingToStop",
    "login": "workflows.session.server:LoginResult",
    "ssh-config": "workflows.session.ssh_config:SshConfigResult",
    "selftest": "workflows.selftest.selftest:SelftestResult",
    "emulator start": "workflows.setup.emulator:EmulatorResult",
    "emulator stop": "workflows.setup.emulator:EmulatorResult",
    "emulator status": "workflows.setup.emulator:EmulatorResult",
    "emulator env": "workflows.setup.emulator:EmulatorEnv",
    "emulator forward": "workflows.setup.emulator:ForwardsResult",
    "emulator fault": "workflows.setup.emulator:FaultsResult",
    "emulator clock": "workflows.setup.emulator:ClockResult",
    "--print-gcloud": "workflows.setup.print_gcloud:Equivalent",
}
ERROR: Mapping[str, Any] = {
    "description": "On standard error, as the last line, when a command fails.",
    "type": "object",
    "properties": {
        "error": {"type": "string", "description": "its class, such as NotFound"},
        "message": {"type": "string"},
        "hint": {"type": "string", "description": "what to do next; may be empty"},
        "exit_code": {"type": "integer"},
        "attempts": {"type": "array", "items": {"type": "object"}},
        "evidence": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["error", "message", "hint", "exit_code"],
}


def to_plain(value: object) -> Any:
    """A result as JSON's types: dataclasses to objects, times to ISO 8601."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            item.name: to_plain(getattr(value, item.name)) for item in dataclasses.fields(value)
        }
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, enum.Enum):
        return to_plain(value.value)
    if isinstance(value, (dt.datetime, dt.date)):
        return value.isoformat()
    if isinstance(value, (str, int, float, bool)) or value is None:
        return value
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Iterable):
        return [to_plain(item) for item in value]
    return str(value)


def schema_of(name: str) -> dict[str, Any]:
    """The JSON Schema of a command's document."""
    head = {"$schema": DIALECT, "title": f"vmctl {name} --json"}
    if name == "error":
        return {**head, **ERROR}
    where = RESULTS[name]
    inner, _, class_name = where.strip("[]").partition(":")
    found = getattr(import_module(f"vmctl.{inner}"), class_name)
    wanted = list[found] if where.startswith("[") else found  # type: ignore[valid-type]
    return {**head, **schema_of_type(wanted)}


def schema_of_type(wanted: Any) -> dict[str, Any]:
    """The schema of what `plain` makes of a value of this type."""
    origin, inside = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [schema_of_type(one) for one in inside]}
    if wanted is type(None):
        return {"type": "null"}
    if dataclasses.is_dataclass(wanted) and isinstance(wanted, type):
        return _object(wanted)
    if isinstance(wanted, type):
        return _simple(wanted)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {"type": "object", "additionalProperties": schema_of_type(inside[1])}
    if isinstance(origin, type):  # a tuple, a list, any other sequence
        items = [one for one in inside if one is not Ellipsis]
        if origin is tuple and Ellipsis not in inside:
            return {"type": "array", "prefixItems": [schema_of_type(one) for one in items]}
        return {"type": "array", "items": schema_of_type(items[0])}
    return {}


def _object(wanted: type) -> dict[str, Any]:
    hints = typing.get_type_hints(wanted)
    names = [field.name for field in dataclasses.fields(wanted)]
    return {
        "description": " ".join((inspect.getdoc(wanted) or "").split()),
        "type": "object",
        "properties": {name: schema_of_type(hints[name]) for name in names},
        "required": names,
    }


def _simple(wanted: type) -> dict[str, Any]:
    if issubclass(wanted, enum.Enum):
        return {"enum": [member.value for member in wanted]}
    if issubclass(wanted, dt.datetime):
        return {"type": "string", "format": "date-time"}
    if issubclass(wanted, dt.date):
        return {"type": "string", "format": "date"}
    if issubclass(wanted, PurePath):
        return {"type": "string"}
    kinds = {bool: "boolean", int: "integer", float: "number", str: "string"}
    kind = kinds.get(wanted)
    return {"type": kind} if kind else {}
