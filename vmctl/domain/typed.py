"""Values of a TOML table with the types that they must have; InvalidInput names key and file."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from typing import Any, TypeVar

from vmctl.domain.errors import InvalidInput
from vmctl.domain.names import nearest

T = TypeVar("T")

_WORDS = {
    str: "text in quotes",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "a table",
}
_LIKE = {str: '"…"', int: "100", float: "1.5", bool: "true", list: '["…"]'}


def typed(value: object, kind: type[T], key: str, file: str) -> T:
    """The value, which is of this type; a truth is no number."""
    if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    raise _mistyped(value, kind, key, file)


def number(value: object, key: str, file: str) -> float:
    """A number, whole or not."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    raise _mistyped(value, float, key, file)


def table_at(value: object, key: str, file: str) -> dict[str, Any]:
    """A table inside the file's."""
    return typed(value, dict, key, file)


def text_in(table: Mapping[str, Any], key: str, file: str) -> str | None:
    """The text under a key of the file's own table; None where there is none."""
    return typed(table[key], str, key, file) if key in table else None


def texts(value: object, key: str, file: str) -> tuple[str, ...]:
    """A list of texts."""
    items = typed(value, list, key, file)
    return tuple(typed(item, str, f"{key}[{place}]", file) for place, item in enumerate(items))


def folder_inside(value: object, key: str, file: str) -> str:
    """A folder relative to the project's root, never outside it; "" for the root itself."""
    text = typed(value, str, key, file)
    path = posixpath.normpath(text) if text else ""
    if path.startswith(("/", "..")):
        raise InvalidInput(
            f"'{key}' in {file} must be a folder inside the project, not '{text}'.",
            hint='Such as: directory = "src"',
        )
    return "" if path == "." else path


def truth(text: str, variable: str) -> bool:
    """What a variable of the environment says by 1 or 0, or in words."""
    if text.lower() in {"1", "true", "yes", "on"}:
        return True
    if text.lower() in {"", "0", "false", "no", "off"}:
        return False
    raise InvalidInput(f"{variable} must be 1 or 0, not '{text}'.", hint=f"Such as: {variable}=1")


def refuse_unknown(table: Mapping[str, Any], known: set[str], *, file: str, prefix: str) -> None:
    """Raise InvalidInput for a key that means nothing, with the nearest that does."""
    for key in table:
        if key not in known:
            close = nearest(key, known)
            meant = f"Did you mean '{prefix}{close}'?" if close else ""
            valid = ", ".join(sorted(known))
            raise InvalidInput(
                f"Unknown setting '{prefix}{key}' in {file}.",
                hint=meant or f"Valid here: {valid}.",
            )


def _mistyped(value: object, kind: type, key: str, file: str) -> InvalidInput:
    given = _WORDS.get(type(value), type(value).__name__)
    name, item, _ = key.rpartition(".")[2].partition("[")
    like = f"[{key}]" if kind is dict else f"{name} = {_LIKE[list if item else kind]}"
    return InvalidInput(
        f"'{key}' in {file} must be {_WORDS[kind]}, not {given} ({_short(value)}).",
        hint=f"Such as: {like}",
    )


def _short(value: object) -> str:
    """A value as it was written, for the middle of a sentence."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
