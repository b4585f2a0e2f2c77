"""List filters: `labels.owner=me AND status=RUNNING`, `status eq RUNNING`, OR, NOT, brackets."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from ..errors import Json, invalid_field

Predicate = Callable[[Json], bool]

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<paren>[()])
      | (?P<op>!=|>=|<=|=|<|>|:)
      | "(?P<double>(?:[^"\\]|\\.)*)"
      | '(?P<single>(?:[^'\\]|\\.)*)'
      | (?P<word>[^\s()=!<>:"']+(?:[:][^\s()=!<>"']+)*)
    )""",
    re.VERBOSE,
)
_FIELD = re.compile(r"[A-Za-z_][\w.\-]*")


class _Parser:
    """Recursive descent over the tokens; every method returns a predicate on resources."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens: list[tuple[str, str]] = []
        at = 0
        text = text.rstrip()
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None or match.end() == at:
                raise self.error()
            kind = match.lastgroup or ""
            value = match[kind]
            if kind in ("double", "single"):
                kind, value = "text", re.sub(r"\\(.)", r"\1", value)
            elif kind == "word" and ":" in value and not self._expects_value():
                # `labels.owner:me`: the colon is an operator after a field, text inside a value
                value = value.partition(":")[0]
                match_end = match.start("word") + len(value)
                self.tokens.append((kind, value))
                at = match_end
                continue
            self.tokens.append((kind, value))
            at = match.end()
        self.at = 0

    def _expects_value(self) -> bool:
        return bool(self.tokens) and (
            self.tokens[-1][0] == "op" or self.tokens[-1] in (("word", "eq"), ("word", "ne"))
        )

    def error(self) -> Exception:
        return invalid_field("filter", self.text, "Invalid list filter expression.")

    def peek(self) -> tuple[str, str]:
        return self.tokens[self.at] if self.at < len(self.tokens) else ("end", "")

    def take(self) -> tuple[str, str]:
        token = self.peek()
        self.at += 1
        return token

    def parse(self) -> Predicate:
        found = self.either()
        if self.peek()[0] != "end":
            raise self.error()
        return found

    def either(self) -> Predicate:
        parts = [self.both()]
        while self.peek() == ("word", "OR"):
            self.take()
            parts.append(self.both())
        return lambda resource: any(part(resource) for part in parts)

    def both(self) -> Predicate:
        parts = [self.one()]
        while True:
            if self.peek() == ("word", "AND"):
                self.take()
            elif self.peek()[0] == "end" or self.peek() in (("paren", ")"), ("word", "OR")):
                return lambda resource: all(part(resource) for part in parts)
            parts.append(self.one())

    def one(self) -> Predicate:
        kind, value = self.take()
        if (kind, value) == ("word", "NOT"):
            inner = self.one()
            return lambda resource: not inner(resource)
        if (kind, value) == ("paren", "("):
            found = self.either()
            if self.take() != ("paren", ")"):
                raise self.error()
            return found
        negated = kind == "word" and value.startswith("-")
        field = value.removeprefix("-")
        if kind != "word" or not _FIELD.fullmatch(field):
            raise self.error()
        test = self.comparison(field)
        return (lambda resource: not test(resource)) if negated else test

    def comparison(self, field: str) -> Predicate:
        kind, op = self.take()
        value_kind, value = self.take()
        if (kind != "op" and op not in ("eq", "ne")) or value_kind not in ("word", "text"):
            raise self.error()
        try:
            test = _tests(op, value)
        except re.error:
            raise self.error() from None
        return lambda resource: test(_lookup(resource, field.split(".")))


def _tests(op: str, wanted: str) -> Callable[[Any], bool]:
    if op in ("eq", "ne"):
        pattern = re.compile(wanted)
        return lambda have: (pattern.fullmatch(_text(have)) is not None) == (op == "eq")
    if op in ("=", "!="):
        pattern = re.compile(".*".join(re.escape(part) for part in wanted.split("*")))
        return lambda have: any(pattern.fullmatch(t) for t in _texts(have)) == (op == "=")
    if op == ":":
        return lambda have: (
            have is not None
            if wanted == "*"
            else any(wanted.strip("*").lower() in t.lower() for t in _texts(have))
        )
    return lambda have: have is not None and _ordered(op, _text(have), wanted)


def _ordered(op: str, have: str, wanted: str) -> bool:
    left: Any = have
    right: Any = wanted
    try:
        left, right = float(have), float(wanted)
    except ValueError:
        pass
    return bool(
        {"<": left < right, "<=": left <= right, ">": left > right, ">=": left >= right}[op]
    )


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
    return _Parser(text).parse() if text.strip() else lambda resource: True
