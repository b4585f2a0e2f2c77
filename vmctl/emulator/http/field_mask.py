"""Partial responses: `fields=items(name,networkInterfaces/accessConfigs),nextPageToken`."""

from __future__ import annotations

import re
from typing import Any

from ..errors import Json, invalid_field

_TOKEN = re.compile(r"[A-Za-z_$][\w$-]*|[*/,()]")


def select(resource: Json, mask: str) -> Json:
    """Return the parts of a reply that `fields` asks for; ApiError(400) if it is malformed."""
    tokens = _TOKEN.findall(mask)
    if "".join(tokens) != mask.replace(" ", ""):
        raise _malformed(mask)
    tree = _group(mask, tokens)
    if tokens:
        raise _malformed(mask)
    picked: Json = _pick(resource, tree)
    return picked


def _group(mask: str, tokens: list[str]) -> Json:
    """Read `a/b,c(d,e)` into nested dicts; an empty dict means everything below."""
    tree: Json = {}
    while tokens and tokens[0] != ")":
        node = tree
        while True:
            name = tokens.pop(0)
            if name in "/,()":
                raise _malformed(mask)
            node = node.setdefault(name, {})
            if not tokens or tokens[0] != "/":
                break
            tokens.pop(0)
            if not tokens:
                raise _malformed(mask)
        if tokens and tokens[0] == "(":
            tokens.pop(0)
            node.update(_group(mask, tokens))
            if not tokens or tokens.pop(0) != ")":
                raise _malformed(mask)
        if tokens and tokens[0] == ",":
            tokens.pop(0)
        elif tokens and tokens[0] != ")":
            raise _malformed(mask)
    return tree


def _pick(value: Any, tree: Json) -> Any:
    if not tree:
        return value
    if isinstance(value, list):
        return [_pick(item, tree) for item in value]
    if not isinstance(value, dict):
        return value
    everything: Json = tree.get("*", {})
    return {
        key: _pick(item, tree.get(key, everything))
        for key, item in value.items()
        if key in tree or "*" in tree
    }


def _malformed(mask: str) -> Exception:
    return invalid_field("fields", mask, "Invalid field selection.")
