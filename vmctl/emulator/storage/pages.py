"""Pages of lists, and links, as Cloud Storage has them."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import TypeVar

from ..errors import Json
from .conditions import invalid

PAGE = 1000
T = TypeVar("T")


def cut(items: Sequence[T], names: Sequence[str], query: Json) -> tuple[list[T], str]:
    """The page of the items, which are in order of their names, and what names the next one."""
    size = min(int(query.get("maxResults", PAGE)), PAGE)
    if size <= 0:
        raise invalid(f"Invalid maxResults: {size}")
    after = ""
    if token := query.get("pageToken", ""):
        try:
            after = base64.b64decode(token, b"-_", validate=True).decode()
        except ValueError:
            raise invalid(f"Invalid pageToken: '{token}'") from None
    rest = [index for index, name in enumerate(names) if name > after]
    page = rest[:size]
    more = len(rest) > size
    return [items[i] for i in page], token_of(names[page[-1]]) if more else ""


def token_of(name: str) -> str:
    """What names the page that begins after a name."""
    return base64.urlsafe_b64encode(name.encode()).decode()
