"""PATH: where programs are looked for."""

from __future__ import annotations


def without_relative(places: str) -> str:
    """PATH without `.` and other relative entries, an empty one among them.

    In a folder that came from elsewhere these are programs of that folder's own.
    """
    return ":".join(place for place in places.split(":") if place.startswith("/"))
