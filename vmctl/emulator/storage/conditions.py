"""Preconditions of a call: which generation it may find, in Cloud Storage's words."""

from __future__ import annotations

import re

from ..errors import ApiError, Json
from .objects import Stored

NAMES = (
    "ifGenerationMatch",
    "ifGenerationNotMatch",
    "ifMetagenerationMatch",
    "ifMetagenerationNotMatch",
)


class NotModified(ApiError):
    """A reader has this generation already."""

    def __init__(self) -> None:
        super().__init__(304, "notModified", "Not Modified")


def no_such_object(bucket: str, name: str) -> ApiError:
    """The 404 for an object."""
    return ApiError(404, "notFound", f"No such object: {bucket}/{name}")


def no_such_bucket() -> ApiError:
    """The 404 for a bucket."""
    return ApiError(404, "notFound", "The specified bucket does not exist.")


def invalid(message: str) -> ApiError:
    """A 400 with Cloud Storage's sentence."""
    return ApiError(400, "invalid", message)


def check(there: Stored | None, query: Json, *, reads: bool = False, prefix: str = "if") -> None:
    """Raise ApiError(412), or for a reader NotModified, unless what is there is what may be.

    No object is generation 0. `prefix` is "ifSource" for the source of a copy."""
    for name in NAMES:
        text = query.get(name.replace("if", prefix, 1))
        if text is None:
            continue
        if there is None:
            found = 0
        else:
            found = int(there.body["metageneration"]) if "Meta" in name else there.generation
        if not re.fullmatch("[0-9]{1,20}", str(text)):
            raise invalid(f"Invalid value for {name}: '{text}'")
        matches = found == int(text)
        if name.endswith("NotMatch") and matches and reads:
            raise NotModified
        if matches == name.endswith("NotMatch"):
            raise ApiError(
                412,
                "conditionNotMet",
                "At least one of the pre-conditions you specified did not hold.",
            )
