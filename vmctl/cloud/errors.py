"""Maps foreign errors to vmctl's: Google's, the network's and the credentials'."""

from __future__ import annotations

import http.client
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from vmctl.domain.errors import AccessDenied, Unreachable, VmctlError
from vmctl.domain.google.api_errors import ApiError, as_error, classify

CHOSEN_FILE = "GOOGLE_APPLICATION_CREDENTIALS"
LOGIN = "gcloud auth application-default login"


@contextmanager
def map_google_errors(project: str, endpoint: str = "") -> Iterator[None]:
    """Whatever Google's libraries raise in here leaves as an error of vmctl's tree.

    `endpoint` is named when it does not answer.
    """
    import httplib2
    from google.auth import exceptions as auth
    from googleapiclient import errors as api

    where = endpoint or "https://compute.googleapis.com"
    try:
        yield
    except api.HttpError as error:
        raise as_error(api_error_of(error), project=project) from error
    except (auth.RefreshError, auth.DefaultCredentialsError, auth.InvalidValue) as error:
        raise credentials_error(error) from error
    except auth.TransportError as error:
        raise Unreachable(
            f"Google's login service does not answer: {_first_line(error)}",
            hint="Check the network, then run it again.",
        ) from error
    except auth.GoogleAuthError as error:
        raise credentials_error(error) from error
    except (httplib2.HttpLib2Error, http.client.HTTPException, OSError) as error:
        # ServerNotFoundError, timeouts, resets, TLS, answers cut off
        raise Unreachable(
            f"Compute Engine at {where} does not answer: {_first_line(error)}",
            hint=_network_hint(endpoint),
        ) from error
    except api.Error as error:
        raise VmctlError(f"Google's answer could not be read: {_first_line(error)}") from error


def api_error_of(error: Any) -> ApiError:
    """A googleapiclient HttpError, read in full and classified."""
    status = int(error.resp.status)
    return failure_of_body(status, error.content)


def failure_of_body(status: int, content: bytes) -> ApiError:
    """An HTTP error's status and body, classified; a body that is no JSON is quoted briefly."""
    try:
        body = json.loads(content)
        reply = body["error"]
    except (ValueError, KeyError, TypeError):
        text = content.decode("utf-8", "replace").strip()[:200]
        return classify(str(status), text or f"HTTP {status}", http_status=status)
    if not isinstance(reply, Mapping):
        return classify(str(status), str(reply), http_status=status)
    errors = [one for one in reply.get("errors", []) if isinstance(one, Mapping)]
    details = [one for one in reply.get("details", []) if isinstance(one, Mapping)]
    code = next((str(one["reason"]) for one in [*errors, *details] if one.get("reason")), "")
    return classify(
        _telling(code, details) or str(reply.get("status", status)),
        str(reply.get("message", f"HTTP {status}")),
        http_status=status,
        details=tuple(details),
    )


def credentials_error(error: Exception) -> AccessDenied:
    """Missing, broken, expired or revoked credentials, with the command that fixes them."""
    from google.auth import exceptions as auth

    if isinstance(error, auth.ReauthFailError | auth.RefreshError):
        return AccessDenied(
            f"The Google credentials have expired or were revoked: {_first_line(error)}",
            hint=f"Log in again: {LOGIN}",
        )
    if isinstance(error, auth.MalformedError):
        return AccessDenied(
            f"The credentials file cannot be used: {_first_line(error)}",
            hint=f"Check GOOGLE_APPLICATION_CREDENTIALS, or log in: {LOGIN}",
        )
    if "default credentials were not found" in str(error):
        return AccessDenied(
            "There are no Google credentials on this computer.",
            hint=f"Log in: {LOGIN} (or rehearse without an account: vmctl --local up)",
        )
    hint = f"Log in: {LOGIN}"
    if os.environ.get(CHOSEN_FILE):
        hint = f"Fix the file in {CHOSEN_FILE}, or unset it and log in: {LOGIN}"
    return AccessDenied(f"The Google credentials cannot be used: {_first_line(error)}.", hint=hint)


_TELLING_REASONS = {"SERVICE_DISABLED", "BILLING_DISABLED", "ACCESS_TOKEN_SCOPE_INSUFFICIENT"}


def _telling(code: str, details: list[Mapping[str, Any]]) -> str:
    """The newer form says "forbidden" in `errors` and what it means in `details`."""
    for detail in details:
        if detail.get("reason") in _TELLING_REASONS:
            return str(detail["reason"])
    return code


def _network_hint(endpoint: str) -> str:
    if "127.0.0.1" in endpoint:
        return "Check the embedded Compute Engine: vmctl emulator status"
    return "Check the network, then run it again: it resumes where it stopped."


def _first_line(error: Exception) -> str:
    text = str(error.args[0] if error.args else error) if str(error) else type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror
    return text.strip().splitlines()[0].rstrip(".") if text.strip() else type(error).__name__
