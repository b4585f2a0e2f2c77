"""List filters, in one grammar: AIP-160's, and Compute Engine's older `eq` and `ne`.

    labels.owner=me AND (status=RUNNING OR -name:web*)       name = (a OR b)
    status eq RUNNING      (name eq "web-[0-9]+\\.x") (zone ne '.*-b')

OR binds tighter than AND, as AIP-160 says. What follows `eq` and `ne` is a regular expression for
the whole value, in which a backslash stays what it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from ..errors import invalid_field

Predicate = Callable[[Any], bool]

_SPACE = re.compile(r"\s*")
_FIELD = re.compile(r"""[A-Za-z_][\w\-]*(?:\.(?:[\w\-]+|"[^"\\]*"))*""")
_OPERATOR = re.compile(r"""!=|>=|<=|=|<|>|:|(?:eq|ne)(?=[\s"'])""")
_QUOTED = re.compile(r"""(["'])((?:\\.|(?!\1)[^\\])*)\1""", re.DOTALL)
_WORD = re.compile(r"""[^\s()=!<>"']+""")
_PATTERN = re.compile(r"""(?:\\.|[^\s()"'])*""")


class _Parser:
    """Recursive descent over the text; every method returns a predicate."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def error(self) -> Exception:
        return invalid_field("filter", self.text, "Invalid list filter expression.")

    def peek(self, wanted: str) -> bool:
        """Whether a bracket, or a word by itself, comes next."""
        self.at = self.match(_SPACE).end()
        end = self.at + len(wanted)
        if self.text[self.at : end] != wanted:
            return False
        return not wanted.isalpha() or self.text[end : end + 1] in ("", " ", "\t", "\n", "(", ")")

    def skip(self, wanted: str) -> bool:
        """Whether a bracket or a word comes next; if it does, it is passed."""
        found = self.peek(wanted)
        self.at += len(wanted) if found else 0
        return found

    def match(self, pattern: re.Pattern[str]) -> re.Match[str]:
        found = pattern.match(self.text, self.at)
        if found is None:
            raise self.error()
        return found

    def take(self, pattern: re.Pattern[str]) -> re.Match[str]:
        """Pass what a pattern matches after spaces."""
        self.at = self.match(_SPACE).end()
        found = self.match(pattern)
        self.at = found.end()
        return found

    def parse(self) -> Predicate:
        found = self.both(self.comparison)
        if self.at != len(self.text):
            raise self.error()
        return found

    def both(self, restriction: Callable[[], Predicate]) -> Predicate:
        parts = [self.either(restriction)]
        while self.skip("AND") or not (self.at == len(self.text) or self.peek(")")):
            parts.append(self.either(restriction))
        return parts[0] if len(parts) == 1 else lambda value: all(part(value) for part in parts)

    def either(self, restriction: Callable[[], Predicate]) -> Predicate:
        parts = [self.one(restriction)]
        while self.skip("OR"):
            parts.append(self.one(restriction))
        return parts[0] if len(parts) == 1 else lambda value: any(part(value) for part in parts)

    def one(self, restriction: Callable[[], Predicate]) -> Predicate:
        negated = self.skip("NOT") or self.skip("-")
        if self.skip("("):
            found = self.both(restriction)
            if not self.skip(")"):
                raise self.error()
        else:
            found = restriction()
        return (lambda value: not found(value)) if negated else found

    def comparison(self) -> Predicate:
        field = self.take(_FIELD)[0]
        parts = [part.strip('"') for part in re.findall(r'"[^"]*"|[^.]+', field)]
        op = self.take(_OPERATOR)[0]
        if op not in ("eq", "ne") and self.skip("("):
            test = self.both(lambda: self.value(op))
            if not self.skip(")"):
                raise self.error()
        else:
            test = self.value(op)
        return lambda resource: test(_lookup(resource, parts))

    def value(self, op: str) -> Predicate:
        self.at = self.match(_SPACE).end()
        quoted = self.text[self.at : self.at + 1] in ('"', "'")
        if op in ("eq", "ne"):
            wanted = self.take(_QUOTED)[2] if quoted else self.pattern()
            try:
                return _whole(re.compile(wanted), op == "eq")
            except re.error:
                raise self.error() from None
        if quoted:
            return _tests(op, re.sub(r"\\(.)", r"\1", self.take(_QUOTED)[2]))
        return _tests(op, self.take(_WORD)[0])

    def pattern(self) -> str:
        """An unquoted regular expression: up to a space or a bracket that it does not open."""
        start, depth = self.at, 0
        while True:
            self.at = self.match(_PATTERN).end()
            here = self.text[self.at : self.at + 1]
            if here == "(" or (here == ")" and depth):
                depth += 1 if here == "(" else -1
                self.at += 1
            elif self.at == start:
                raise self.error()
            else:
                return self.text[start : self.at]


def _whole(pattern: re.Pattern[str], wanted: bool) -> Predicate:
    return lambda have: any(pattern.fullmatch(text) for text in _texts(have)) == wanted


def _tests(op: str, wanted: str) -> Predicate:
    if op in ("=", "!="):
        pattern = ".*".join(re.escape(part) for part in wanted.split("*"))
        return _whole(re.compile(pattern, re.DOTALL), op == "=")
    if op == ":":
        return lambda have: (
            have is not None
            if wanted == "*"
            else any(wanted.strip("*").lower() in t.lower() for t in _texts(have))
        )
    return lambda have: have is not None and any(_ordered(op, t, wanted) for t in _texts(have))


def _ordered(op: str, have: str, wanted: str) -> bool:
    left: Any = have
    right: Any = wanted
    for read in (int, float, _moment):
        try:
            left, right = read(have), read(wanted)
            break
        except ValueError:
            pass
    return bool(
        {"<": left < right, "<=": left <= right, ">": left > right, ">=": left >= right}[op]
    )


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _lookup(value: Any, parts: list[str]) -> Any:
    for index, part in enumerate(parts):
        if isinstance(value, list):
            found = [_lookup(item, parts[index:]) for item in value]
            flat = [x for item in found for x in (item if isinstance(item, list) else [item])]
            return [item for item in flat if item is not None] or None
        if not isinstance(value, dict):
            return None
        value = value.get(part)
    return value


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)


def _texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [str(key) for key in value]
    return [_text(item) for item in value] if isinstance(value, list) else [_text(value)]


def compile_filter(text: str) -> Predicate:
    """Turn a `filter` parameter into a test on resources; ApiError(400) when it is malformed."""
    return _Parser(text.strip()).parse() if text.strip() else lambda resource: True
