"""Google's discovery documents, compiled: routes by method id, schemas for requests and replies.

The documents are those inside google-api-python-client. Nothing here knows about instances or
disks: what a path means and what a body may hold is read from the document alone.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from ..errors import ApiError, Json, invalid_field, unparsable

SOUND_KEPT = 4096  # replies
NAME_LIMIT = 200  # characters of a parameter in a path: it becomes a file's name
OBJECT_LIMIT = 1024  # of an object's name
# How Google's documents call integers, and the least and the greatest of each
INTEGERS = {
    "int32": (-(2**31), 2**31 - 1),
    "uint32": (0, 2**32 - 1),
    "int64": (-(2**63), 2**63 - 1),
    "uint64": (0, 2**64 - 1),
}
# Sent by gcloud and by the client libraries, whichever revision of the document they hold.
_ALWAYS_ALLOWED = {"returnPartialSuccess", "$prettyPrint", "$alt", "$unique"}
# The source disk's zone, in no document: Ansible's modules and libcloud have always sent it.
_UNDOCUMENTED = {name: {"zone": {"type": "string"}} for name in ("Snapshot", "Image")}
_REFERENCE = re.compile(r'"\$ref": "(\w+)"')
_TYPE_NAMES = {
    "boolean": "TYPE_BOOL",
    "integer": "TYPE_INT32",
    "number": "TYPE_DOUBLE",
    "string": "TYPE_STRING",
}


@dataclass(frozen=True, slots=True)
class Method:
    """One API method: how it is reached and what it takes and gives back."""

    id: str
    http_method: str
    segments: tuple[str, ...]
    parameters: Json
    request: str | None
    response: str | None


@dataclass(frozen=True, slots=True)
class Match:
    """A method together with the values of its path parameters."""

    method: Method
    path: dict[str, str]

    @property
    def url_path(self) -> str:
        """The path below the API's own, such as `/compute/v1/`, no longer escaped."""
        return "/".join(self.path.get(part[1:-1], part) for part in self.method.segments)


def document_path(api: str = "compute.v1") -> Path:
    """Return a discovery document's file without importing the client library."""
    spec = importlib.util.find_spec("googleapiclient")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("google-api-python-client is not installed")
    folder = Path(next(iter(spec.submodule_search_locations)))
    return folder / "discovery_cache" / "documents" / f"{api}.json"


class Discovery:
    """One of Google's APIs as data."""

    def __init__(self, document: Json) -> None:
        self.revision: str = document["revision"]
        self._schemas: Json = document["schemas"]
        self._common = set(document["parameters"]) | _ALWAYS_ALLOWED
        self._routes: dict[tuple[str, int], list[Method]] = {}
        for method in _methods(document):
            self._routes.setdefault((method.http_method, len(method.segments)), []).append(method)
        for routes in self._routes.values():
            # A literal segment wins over a parameter: `instances/bulkInsert`, not `instances/NAME`.
            routes.sort(key=lambda m: [s.startswith("{") for s in m.segments])
        self._validator = lru_cache(maxsize=None)(self._make_validator)
        self._sound: set[bytes] = set()  # digests of replies that keep to their schema

    @classmethod
    @cache
    def load(cls, api: str = "compute.v1") -> Discovery:
        """Read an installed document (compute's has 5 MB, some 30 ms), once."""
        return cls(json.loads(document_path(api).read_bytes()))

    def match(self, http_method: str, path: str) -> Match | None:
        """Find the method for a path below the API's own; None when it has no such method."""
        segments = path.strip("/").split("/")
        for method in self._routes.get((http_method, len(segments)), ()):
            found: dict[str, str] = {}
            for template, segment in zip(method.segments, segments, strict=True):
                if template.startswith("{"):
                    name, _, verb = template[1:].partition("}")  # {customJobsId}:cancel
                    if not segment.endswith(verb) or (":" in segment) != bool(verb):
                        break
                    found[name] = unquote(segment.removesuffix(verb) if verb else segment)
                elif template != segment:
                    break
            else:
                return Match(method, found)
        return None

    def check_parameters(self, match: Match, query: dict[str, str]) -> None:
        """Raise ApiError(400) for a malformed, an unknown or a missing parameter."""
        for name, value in match.path.items():
            pattern = match.method.parameters.get(name, {}).get("pattern")
            if pattern and not re.fullmatch(pattern, value):
                raise invalid_field(name, value, f"Must be a match of regex '{pattern}'")
            if len(value) > (OBJECT_LIMIT if name.lower().endswith("object") else NAME_LIMIT):
                raise invalid_field(name, value, f"Must be at most {NAME_LIMIT} characters long")
        for name, parameter in match.method.parameters.items():
            if parameter["location"] != "query":
                continue
            if name in query:
                _check_parameter(name, parameter, query[name])
            elif parameter.get("required"):
                raise ApiError(400, "required", f"Required field '{name}' not specified")
        for name in query:
            if name not in match.method.parameters and name not in self._common:
                raise unparsable(
                    f'Invalid JSON payload received. Unknown name "{name}": Cannot bind query '
                    f"parameter. Field '{name}' could not be found in request message."
                )

    def check_request(self, schema: str, body: Json) -> Json:
        """Return a request's body with 64-bit numbers as strings, as replies spell them.

        ApiError(400), worded like Google's, when it breaks its schema."""
        error = next(iter(self._errors("in", schema, body)), None)
        if error is not None:
            raise _to_api_error(error)
        spelt: Json = self._spell_numbers({"$ref": schema}, body)
        return spelt

    def _spell_numbers(self, schema: Json, value: Any) -> Any:
        schema = self._schemas[schema["$ref"]] if "$ref" in schema else schema
        if isinstance(value, dict):
            known, other = schema.get("properties", {}), schema.get("additionalProperties", {})
            return {k: self._spell_numbers(known.get(k, other), v) for k, v in value.items()}
        if isinstance(value, list):
            return [self._spell_numbers(schema.get("items", {}), item) for item in value]
        if schema.get("format") in INTEGERS and not isinstance(value, bool):
            return str(int(value)) if schema["type"] == "string" else int(value)
        return value

    def check_response(self, schema: str, body: Json) -> None:
        """Raise ValueError when one of the emulator's replies breaks Google's schema: a bug here.

        A reply that is the same as an earlier one, as polling clients get it, is not checked
        again: that takes 5 ms for an empty list of all zones.
        """
        packed = json.dumps(body, sort_keys=True)
        digest = hashlib.sha256(f"{schema}\0{packed}".encode("utf-8", "surrogatepass")).digest()
        if digest in self._sound:
            return
        error = next(iter(self._errors("out", schema, body)), None)
        if error is not None:
            where = ".".join(str(part) for part in error.absolute_path)
            raise ValueError(f"{schema}.{where}: {error.message[:300]}")
        if len(self._sound) >= SOUND_KEPT:
            self._sound.clear()
        self._sound.add(digest)

    def _errors(self, direction: str, schema: str, body: Json) -> list[Any]:
        validator = self._validator(direction, schema)
        return sorted(validator.iter_errors(body), key=lambda e: [str(p) for p in e.absolute_path])

    def _make_validator(self, direction: str, schema: str) -> Any:
        from jsonschema import Draft202012Validator, FormatChecker

        needed: Json = {}
        names = [schema]
        while names:
            if (name := names.pop()) not in needed:
                needed[name] = _convert(self._schemas[name], direction)
                if direction == "in":
                    needed[name].get("properties", {}).update(_UNDOCUMENTED.get(name, {}))
                names += _REFERENCE.findall(json.dumps(self._schemas[name]))
        formats = FormatChecker(formats=())
        for name in INTEGERS:
            formats.checks(name)(partial(is_integer, name))
        return Draft202012Validator(
            {"$ref": f"#/$defs/{schema}", "$defs": needed}, format_checker=formats
        )


def is_integer(format: str, value: object) -> bool:
    """Whether a number, or a text that stands for one, is within the range of a format."""
    low, high = INTEGERS[format]
    if isinstance(value, str):
        return re.fullmatch("-?[0-9]{1,20}", value) is not None and low <= int(value) <= high
    return not isinstance(value, (int, float)) or low <= value <= high


def _check_parameter(name: str, parameter: Json, value: str) -> None:
    """Raise ApiError(400) for a query parameter that is not of its type."""
    where = re.sub("[A-Z]", lambda letter: f"_{letter[0].lower()}", name)
    kind, form = parameter["type"], parameter.get("format")
    if kind == "boolean" and value.lower() not in ("true", "false"):
        raise unparsable(f"Invalid value at '{where}' (TYPE_BOOL), \"{value}\"")
    if form in INTEGERS and not is_integer(form, value):
        raise unparsable(f"Invalid value at '{where}' (TYPE_{form.upper()}), \"{value}\"")
    if "enum" in parameter and value not in parameter["enum"]:
        raise unparsable(f"Invalid value at '{where}' (TYPE_ENUM), \"{value}\"")
    if "pattern" in parameter and not re.fullmatch(parameter["pattern"], value):
        raise invalid_field(name, value, f"Must be a match of regex '{parameter['pattern']}'")


def _methods(node: Json) -> Iterator[Method]:
    for raw in node.get("methods", {}).values():
        yield Method(
            id=raw["id"],
            http_method=raw["httpMethod"],
            segments=tuple(raw.get("flatPath", raw["path"]).split("/")),
            parameters=raw.get("parameters", {}),
            request=raw.get("request", {}).get("$ref"),
            response=raw.get("response", {}).get("$ref"),
        )
    for child in node.get("resources", {}).values():
        yield from _methods(child)


def _convert(schema: Json, direction: str) -> Json:
    """Translate Google's dialect into JSON Schema, "in" (lenient about 64-bit numbers) or "out"."""
    if "$ref" in schema:
        return {"$ref": f"#/$defs/{schema['$ref']}"}
    kind = schema.get("type")
    if kind == "object":
        extra = schema.get("additionalProperties")
        return {
            "type": "object",
            "properties": {
                k: _convert(v, direction) for k, v in schema.get("properties", {}).items()
            },
            "additionalProperties": _convert(extra, direction) if extra is not None else False,
        }
    if kind == "array":
        return {"type": "array", "items": _convert(schema["items"], direction)}
    if kind == "string":
        return _convert_string(schema, direction)
    result: Json = {} if kind == "any" else {"type": kind}
    if schema.get("format") in INTEGERS:
        result["format"] = schema["format"]
    return result


def _convert_string(schema: Json, direction: str) -> Json:
    result: Json = {"type": "string"}
    if schema.get("format") in ("int64", "uint64"):
        result["format"] = schema["format"]
        if (
            direction == "in"
        ):  # Google takes a 64-bit number as a number too, and always answers a string
            result["type"] = ["string", "integer"]
    elif "pattern" in schema:
        # Not `$`, which also matches before a newline at the end.
        result["pattern"] = rf"^(?:{schema['pattern']})\Z"
    if "enum" in schema:
        result["enum"] = schema["enum"]
    return result


def _field(parts: Any) -> str:
    text = "resource"
    for part in parts:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text


def _to_api_error(error: Any) -> ApiError:
    field = _field(error.absolute_path)
    report: dict[str, Callable[[], ApiError]] = {
        "additionalProperties": lambda: _unknown_name(error, field),
        "enum": lambda: unparsable(f"Invalid value at '{field}' (TYPE_ENUM), \"{error.instance}\""),
        "format": lambda: unparsable(
            f"Invalid value at '{field}' (TYPE_{error.validator_value.upper()}), "
            f"{json.dumps(error.instance)[:200]}"
        ),
        "pattern": lambda: invalid_field(
            field, error.instance, f"Must be a match of regex '{error.validator_value[4:-3]}'"
        ),
    }
    known = report.get(error.validator)
    if known is not None:
        return known()
    wanted = error.validator_value
    name = _TYPE_NAMES.get(wanted if isinstance(wanted, str) else "integer", "message")
    return unparsable(f"Invalid value at '{field}' ({name}), {json.dumps(error.instance)[:200]}")


def _unknown_name(error: Any, field: str) -> ApiError:
    known = error.schema.get("properties", {})
    name = next((key for key in error.instance if key not in known), "?")
    where = "" if field == "resource" else f" at '{field}'"
    message = f'Invalid JSON payload received. Unknown name "{name}"{where}: Cannot find field.'
    refused = unparsable(message)
    refused.details = [
        {
            "@type": "type.googleapis.com/google.rpc.BadRequest",
            "fieldViolations": [{"field": field, "description": message}],
        }
    ]
    return refused
