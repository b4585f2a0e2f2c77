"""Names and URLs of resources: built and parsed here only."""

from __future__ import annotations

import hashlib
import itertools
import re
import secrets

ROOT = "https://www.googleapis.com/compute/v1/"
GLOBAL = "global"

_REFERENCE = re.compile(
    r"(?:https?://[^/]+/(?:compute/(?:v1|beta|alpha)/)?)?"
    r"/?(?:projects/(?P<project>[^/]+)/)?"
    r"(?:(?P<scope>global|zones/[^/]+|regions/[^/]+)/)?"
    r"(?:(?P<collection>[A-Za-z]+)/)?"
    r"(?P<name>(?:family/)?[^/]+)"
)


def path(project: str, scope: str, collection: str, name: str) -> str:
    """Return `projects/P/SCOPE/COLLECTION/NAME`; zones, regions and projects have no scope."""
    parts = ["projects", project, scope, collection, name]
    return "/".join(part for part in parts if part)


def link(project: str, scope: str, collection: str, name: str) -> str:
    """Return the absolute URL of a resource, as it stands in `selfLink`."""
    return ROOT + path(project, scope, collection, name)


def zone_link(project: str, zone: str) -> str:
    """Return the URL of a zone."""
    return f"{ROOT}projects/{project}/zones/{zone}"


def region_of(zone: str) -> str:
    """Return the region of a zone: `europe-west1` of `europe-west1-b`."""
    return zone.rpartition("-")[0]


def last(url: str) -> str:
    """Return the last segment of a URL or partial URL."""
    return url.rstrip("/").rpartition("/")[2]


class Reference:
    """A parsed full or partial resource URL; missing parts are None."""

    __slots__ = ("collection", "name", "project", "scope")

    def __init__(self, text: str) -> None:
        match = _REFERENCE.fullmatch(text)
        if match is None:
            raise ValueError(text)
        self.project: str | None = match["project"]
        self.scope: str | None = match["scope"]
        self.collection: str | None = match["collection"]
        self.name: str = match["name"]


_sequence = itertools.count(secrets.randbelow(1 << 16))


def new_id() -> str:
    """Return a fresh numeric id of 19 digits, as a string like every 64-bit field."""
    return str((1 << 60) + (secrets.randbits(44) << 16) + next(_sequence) % (1 << 16))


def project_number(project: str) -> str:
    """Return the project's number: 12 digits derived from its id."""
    digest = hashlib.sha256(project.encode()).digest()
    return str(10**11 + int.from_bytes(digest[:8], "big") % (9 * 10**11))


def stable_id(*parts: str) -> str:
    """Return an id derived from `parts`, for resources that Google provides."""
    digest = hashlib.sha256("\0".join(parts).encode()).digest()
    return str(int.from_bytes(digest[:8], "big") >> 2)
