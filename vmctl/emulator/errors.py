"""Compute Engine's two kinds of error: an HTTP error at once, or an operation that fails."""

from __future__ import annotations

from typing import Any, TypeAlias

Json: TypeAlias = dict[str, Any]


class ApiError(Exception):
    """A call refused at once; `body()` is the JSON that Google sends with it."""

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        *,
        status: str | None = None,
        details: list[Json] | None = None,
        domain: str = "global",
    ) -> None:
        super().__init__(message)
        self.code = code
        self.domain = domain
        self.reason = reason
        self.message = message
        self.status = status
        self.details = details

    def body(self) -> Json:
        """Return the error envelope with `errors[]`, and `status` and `details` where set."""
        error: Json = {
            "code": self.code,
            "message": self.message,
            "errors": [{"message": self.message, "domain": self.domain, "reason": self.reason}],
        }
        if self.status:
            error["status"] = self.status
        if self.details:
            error["details"] = self.details
        return {"error": error}


class OperationError(Exception):
    """A mutation that was accepted and then failed; it becomes the operation's `error`."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        http_code: int = 400,
        http_message: str = "BAD REQUEST",
        details: list[Json] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.http_code = http_code
        self.http_message = http_message
        self.details = details

    def entry(self) -> Json:
        """Return the element of `operation.error.errors`."""
        entry: Json = {"code": self.code, "message": self.message}
        if self.details:
            entry["errorDetails"] = self.details
        return entry


def not_found(path: str) -> ApiError:
    """Return the 404 for a resource path such as `projects/p/zones/z/instances/x`."""
    return ApiError(404, "notFound", f"The resource '{path}' was not found")


def already_exists(path: str) -> ApiError:
    """Return the 409 for a name that is taken."""
    return ApiError(409, "alreadyExists", f"The resource '{path}' already exists")


def not_ready(path: str) -> ApiError:
    """Return the 400 for a resource that is between two states."""
    return ApiError(400, "resourceNotReady", f"The resource '{path}' is not ready")


def in_use(kind: str, path: str, user: str) -> ApiError:
    """Return the 400 for a resource, such as a disk, that another resource uses."""
    return ApiError(
        400,
        "resourceInUseByAnotherResource",
        f"The {kind} resource '{path}' is already being used by '{user}'",
    )


def invalid_field(field: str, value: object, why: str) -> ApiError:
    """Return the 400 that names a field of the request and what is wrong with it."""
    return ApiError(400, "invalid", f"Invalid value for field '{field}': '{value}'. {why}")


def bad_request(message: str) -> ApiError:
    """Return a 400 with Google's sentence."""
    return ApiError(400, "badRequest", message)


def stale_fingerprint(kind: str) -> ApiError:
    """Return the 412 for an update made on an old copy of metadata, labels or tags."""
    return ApiError(
        412,
        "conditionNotMet",
        f"Supplied fingerprint does not match current {kind} fingerprint.",
    )


def unparsable(message: str) -> ApiError:
    """Return the 400 that Google's JSON front end sends before Compute Engine sees the call."""
    return ApiError(400, "badRequest", message, status="INVALID_ARGUMENT")
