"""Values of a TOML table with the types that they must have; InvalidInput names key and file."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from typing import Any, TypeVar

from vmctl.domain.errors import InvalidInput
from vmctl.domain.names import find_nearest
from vmctl.domain.terminal import controls_in, visible

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


def check_type(value: object, kind: type[T], key: str, file: str) -> T:
    """The value, if it is of this type; a boolean is not a number."""
    if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    raise _mistyped(value, kind, key, file)


def check_number(value: object, key: str, file: str) -> float:
    """A number, whole or not."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    raise _mistyped(value, float, key, file)


def check_table(value: object, key: str, file: str) -> dict[str, Any]:
    """A table inside the file's."""
    return check_type(value, dict, key, file)


def get_text(table: Mapping[str, Any], key: str, file: str) -> str | None:
    """The text under a key of the file's own table; None where there is none."""
    return check_type(table[key], str, key, file) if key in table else None


def check_texts(value: object, key: str, file: str) -> tuple[str, ...]:
    """A list of texts."""
    items = check_type(value, list, key, file)
    return tuple(check_type(item, str, f"{key}[{place}]", file) for place, item in enumerate(items))


def check_folder(value: object, key: str, file: str) -> str:
    """A folder relative to the project's root, never outside it; "" for the root itself."""
    text = check_type(value, str, key, file)
    path = posixpath.normpath(text) if text else ""
    if path.startswith(("/", "..")):
        raise InvalidInput(
            f"'{key}' in {file} must be a folder inside the project, not '{text}'.",
            hint='Such as: directory = "src"',
        )
    return "" if path == "." else path


def parse_bool(text: str, variable: str) -> bool:
    """What a variable of the environment says by 1 or 0, or in words."""
    if text.lower() in {"1", "true", "yes", "on"}:
        return True
    if text.lower() in {"", "0", "false", "no", "off"}:
        return False
    raise InvalidInput(f"{variable} must be 1 or 0, not '{text}'.", hint=f"Such as: {variable}=1")


SCRIPTS = ("command", "setup")  # may have several lines, as a shell's scripts do
_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")


def check_name(name: str, what: str, file: str) -> str:
    """The name of a job, a service or the like: a word that no shell, path or terminal minds."""
    if not _PATTERN.fullmatch(name):
        raise InvalidInput(
            f"The {what} name '{visible(name)}' in {file} may hold only letters, digits, '-' and "
            "'_', at most 40, and begins with a letter or digit.",
            hint=f"Such as: [{what}s.{suggest_name(name) or 'train'}]",
        )
    return name


def suggest_name(name: str) -> str:
    """What such a name could be; "" where nothing is left of it."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-_")[:40].rstrip("-_")


def refuse_controls(value: object, key: str, where: str) -> None:
    """Raise InvalidInput for a control character in a setting or its name, however deep.

    Nobody needs one there; on a terminal it would be obeyed, and what is seen would be a lie.
    """
    pending = [(key, value)]
    while pending:
        key, value = pending.pop()
        if isinstance(value, Mapping):
            for name, inner in value.items():
                full = f"{key}.{name}" if key else name
                _refuse_controls(name, "", f"The name '{visible(full, keep='')}' in {where}")
                pending.append((full, inner))
        elif isinstance(value, list | tuple):
            pending += [(f"{key}[{place}]", inner) for place, inner in enumerate(value)]
        elif isinstance(value, str):
            several = key.rpartition(".")[2].partition("[")[0] in SCRIPTS
            named = f"'{key}' in {where}" if where else key
            _refuse_controls(value, "\n\t" if several else "", named)


def _refuse_controls(text: str, keep: str, named: str) -> None:
    found = controls_in(text, keep)
    if found:
        raise InvalidInput(
            f"{named} contains an invisible control character: {found}.",
            hint="Remove it or retype the value: names, paths and commands are plain text.",
        )


def refuse_unknown(table: Mapping[str, Any], known: set[str], *, file: str, prefix: str) -> None:
    """Raise InvalidInput for a key that means nothing, with the nearest that does."""
    for key in table:
        if key not in known:
            close = find_nearest(key, known)
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
