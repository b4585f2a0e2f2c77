"""What a reply of a VM may be made of, and the one check of them all.

A VM is not trusted: a job can replace everything on it. No reply is used before `checked` has
compared it with its shape; one that does not fit raises IntegrityError, exit code 9. Bytes become
data only in `decoded`, which counts them first, so that no reply can exhaust the memory.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from vmctl.domain.errors import IntegrityError
from vmctl.domain.limits import (
    LARGEST,
    LATEST_S,
    MANY,
    NAME_BYTES,
    PATH_BYTES,
    REPLY_BYTES,
    TEXT,
    VALUES,
)

Shape = Callable[[Any], Any]  # returns the value as it is used, or raises Misfit


class Misfit(Exception):
    """A value that does not fit its shape; `where` grows on its way up."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why
        self.where = ""

    def at(self, place: str) -> Misfit:
        """The same, seen from one level above."""
        self.where = place + self.where
        return self


# -- shapes ----------------------------------------------------------------------------------


def text(most: int = TEXT) -> Shape:
    """A text of `most` characters at most."""

    def check(value: Any) -> str:
        if not isinstance(value, str):
            raise Misfit("is not text")
        if len(value) > most:
            raise Misfit(f"has more than {most} characters")
        return value

    return check


def matching(pattern: str, what: str) -> Shape:
    """A text of a certain form, which is compiled when the first one comes."""

    def check(value: Any) -> str:
        if not isinstance(value, str) or len(value) > TEXT or not re.fullmatch(pattern, value):
            raise Misfit(f"is not {what}")
        return value

    return check


def whole(least: int = 0, most: int = LARGEST) -> Shape:
    """A whole number in a range, not a boolean."""

    def check(value: Any) -> int:
        if type(value) is not int or not least <= value <= most:
            raise Misfit(f"is not a whole number from {least} to {most}")
        return value

    return check


def number(least: float = 0.0, most: float = LATEST_S) -> Shape:
    """A finite number in a range."""

    def check(value: Any) -> float:
        # a whole number may be too large for a float
        if type(value) not in (int, float) or not least <= value <= most or math.isnan(value):
            raise Misfit(f"is not a number from {least:g} to {most:g}")
        return float(value)

    return check


def flag(value: Any) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise Misfit("is neither true nor false")
    return value


def one_of(*values: object) -> Shape:
    """One of a few values."""

    def check(value: Any) -> Any:
        if not any(value == known and type(value) is type(known) for known in values):
            raise Misfit(f"is not one of {', '.join(map(str, values))}")
        return value

    return check


def many(shape: Shape, most: int = MANY) -> Shape:
    """A list of `most` items at most."""

    def check(value: Any) -> list[Any]:
        if not isinstance(value, list):
            raise Misfit("is not a list")
        if len(value) > most:
            raise Misfit(f"holds more than {most} items")
        found = []
        for place, item in enumerate(value):
            try:
                found.append(shape(item))
            except Misfit as error:
                raise error.at(f"[{place}]") from None
        return found

    return check


def row(*shapes: Shape) -> Shape:
    """A list of exactly these things."""

    def check(value: Any) -> list[Any]:
        if not isinstance(value, list) or len(value) != len(shapes):
            raise Misfit(f"is not a list of {len(shapes)}")
        found = []
        for place, (shape, item) in enumerate(zip(shapes, value, strict=True)):
            try:
                found.append(shape(item))
            except Misfit as error:
                raise error.at(f"[{place}]") from None
        return found

    return check


def table(key: Shape, shape: Shape, most: int = MANY) -> Shape:
    """An object whose keys are data."""

    def check(value: Any) -> dict[Any, Any]:
        if not isinstance(value, dict):
            raise Misfit("is not an object")
        if len(value) > most:
            raise Misfit(f"holds more than {most} items")
        found = {}
        for name, item in value.items():
            try:
                found[key(name)] = shape(item)
            except Misfit as error:
                raise error.at("{}") from None
        return found

    return check


def record(required: Mapping[str, Shape], optional: Mapping[str, Shape] | None = None) -> Shape:
    """An object with known keys; others are dropped, and missing optional ones are None."""
    spare = optional or {}

    def check(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise Misfit("is not an object")
        found: dict[str, Any] = {}
        for name, shape in required.items():
            if name not in value:
                raise Misfit(f"has no '{name}'")
            found[name] = _member(name, shape, value[name])
        for name, shape in spare.items():
            given = value.get(name)
            found[name] = None if given is None else _member(name, shape, given)
        return found

    return check


def _member(name: str, shape: Shape, value: Any) -> Any:
    try:
        return shape(value)
    except Misfit as error:
        raise error.at(f".{name}") from None


def either(*shapes: Shape) -> Shape:
    """The first of these that fits."""

    def check(value: Any) -> Any:
        for shape in shapes[:-1]:
            try:
                return shape(value)
            except Misfit:
                continue
        return shapes[-1](value)

    return check


def nothing(value: Any) -> None:
    """null."""
    if value is not None:
        raise Misfit("is not null")


def ranges(count: int) -> Shape:
    """[first, last] pairs of numbers below `count`, each number once, in order."""
    pairs = many(row(whole(0, count - 1), whole(0, count - 1)), count)

    def check(value: Any) -> list[list[int]]:
        found: list[list[int]] = pairs(value)
        before = -1
        for first, last in found:
            if not before < first <= last:
                raise Misfit("does not increase")
            before = last
        return found

    return check


def numbered(most: int = LARGEST) -> Shape:
    """A whole number that is a key, and so a text in JSON."""

    def check(value: Any) -> int:
        if not isinstance(value, str) or not re.fullmatch(r"[0-9]{1,10}", value):
            raise Misfit("is not a number")
        found: int = whole(0, most)(int(value))
        return found

    return check


def path(value: Any) -> str:
    """A path that bytes can express; it is not checked where it leads."""
    if not isinstance(value, str) or not is_encodable(value) or "\0" in value:
        raise Misfit("is not a path")
    if len(value) > PATH_BYTES or len(encoded(value)) > PATH_BYTES:
        raise Misfit(f"is a path of more than {PATH_BYTES} bytes")
    return value


def run_id(value: Any) -> str:
    """The name of a run's directory."""
    if not isinstance(value, str) or not value or "/" in value or not is_encodable(value):
        raise Misfit("is not a name")
    if value in (".", "..") or not value.isprintable() or len(encoded(value)) > NAME_BYTES:
        raise Misfit("is not a name")
    return value


def encoded(name: str) -> bytes:
    """A name as the file system has it; raises UnicodeEncodeError for one it cannot have."""
    return name.encode("utf-8", "surrogateescape")


def is_encodable(name: str) -> bool:
    """Whether a file can have this name at all."""
    try:
        encoded(name)
    except UnicodeEncodeError:
        return False
    return True


# -- the check ---------------------------------------------------------------------------------


def checked(shape: Shape, value: Any, of: str) -> Any:
    """A value that fits its shape; raises IntegrityError where it does not."""
    try:
        return shape(value)
    except Misfit as error:
        raise unexpected_reply(f"{of}{error.where} {error.why}") from None


def decoded(data: bytes, most: int = REPLY_BYTES, values: int = VALUES) -> Any:
    """JSON of limited bytes and values; raises ValueError for any other.

    Commas and brackets inside of texts count as values, too: a bound need not be exact.
    """
    if len(data) > most or sum(map(data.count, (b",", b"[", b"{"))) > values:
        raise ValueError("too much")
    try:
        return json.loads(data, parse_constant=_no_number)
    except RecursionError as error:
        raise ValueError("too deep") from error


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def unexpected_reply(why: str) -> IntegrityError:
    """The error for a reply that vmctl's own helper would never send."""
    return IntegrityError(
        f"Unexpected reply from vmctl's helper on the VM: {why}.",
        hint="Check the VM: vmctl ssh",
    )
