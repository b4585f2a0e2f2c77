"""Names: what Google accepts, what a POSIX system accepts, and the nearest one to a typo."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

# Accounts that images bring along: cloud-init copies their metadata keys for good, so a key
# pushed for one of them would never expire.
IMAGE_ACCOUNTS = frozenset({"root", "ubuntu", "debian", "admin", "centos", "jupyter", "nobody"})


def slug(text: str, limit: int = 63) -> str:
    """Text as an RFC 1035 label: lower case letters, digits and '-', starting with a letter."""
    plain = _ascii(text).lower()
    joined = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
    if joined and not joined[0].isalpha():
        joined = f"p-{joined}"
    return joined[:limit].rstrip("-")


def owner_label(user: str) -> str:
    """Who owns a VM, as its label says; a name without ASCII letters or digits becomes a digest."""
    label = slug(user, limit=20)
    return label or f"u-{hashlib.sha256(user.encode(errors='surrogateescape')).hexdigest()[:8]}"


def posix_user(name: str) -> str:
    """A login name that every Linux image accepts; "vmctl" in place of the image's own accounts."""
    plain = _ascii(name).lower()
    safe = re.sub(r"[^a-z0-9_-]+", "_", plain).strip("-")[:32]
    if safe and safe[0].isdigit():
        safe = f"_{safe}"[:32]
    return "vmctl" if not safe or safe in IMAGE_ACCOUNTS else safe


def find_nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word closest to a mistyped one, or None when nothing is close."""
    import difflib  # in an error only

    close = difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.6)
    return close[0] if close else None


def _ascii(text: str) -> str:
    """Its letters without accents, and what else of it is ASCII."""
    if text.isascii():
        return text
    import unicodedata  # a megabyte of tables

    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
