"""Maps foreign errors to vmctl's: Google's, the network's and the credentials'."""

from __future__ import annotations

import http.client
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from vmctl.cloud.connection import named_proxy
from vmctl.domain.errors import Unreachable, VmctlError
from vmctl.domain.google.api_errors import ApiError, as_error, classify
from vmctl.domain.google.credential_errors import (
    CHOSEN_FILE,
    Fault,
    Login,
    cure,
    fault_of,
    login_error,
    no_credentials,
)

GOOGLE = "https://compute.googleapis.com"


class LoginUnreachable(ConnectionError):
    """Google's login service does not answer: another attempt may help."""

    def __init__(self, words: str, host: str) -> None:
        super().__init__(words)
        self.host = host


@contextmanager
def map_google_errors(project: str, endpoint: str = "") -> Iterator[None]:
    """Whatever Google's libraries raise in here leaves as an error of vmctl's tree.

    `endpoint` is named when it does not answer.
    """
    import httplib2
    from google.auth import exceptions as auth
    from googleapiclient import errors as api

    where = endpoint or GOOGLE
    try:
        yield
    except api.HttpError as error:
        raise _refusal(api_error_of(error), project) from error
    except LoginUnreachable as error:
        login, account, chosen = current_login()
        raise login_error(
            login,
            Fault.UNREACHABLE,
            str(error),
            chosen=chosen,
            account=account,
            host=error.host,
            proxy=named_proxy(error.host),
        ) from error
    except auth.GoogleAuthError as error:
        raise credentials_error(error) from error
    except (httplib2.HttpLib2Error, http.client.HTTPException, OSError) as error:
        # ServerNotFoundError, timeouts, resets, TLS, answers cut off
        raise Unreachable(
            f"Compute Engine at {where} does not answer: {first_line(error)}",
            hint=_network_hint(endpoint),
        ) from error
    except (api.Error, json.JSONDecodeError) as error:
        raise VmctlError(f"Google's answer could not be read: {first_line(error)}") from error


def _refusal(failure: ApiError, project: str) -> VmctlError:
    """Compute Engine's refusal; where it refuses the credentials, with a cure that fits them."""
    error = as_error(failure, project=project)
    if failure.http_status == 401 or failure.code == "ACCESS_TOKEN_SCOPE_INSUFFICIENT":
        login, account, chosen = current_login()
        error.hint = cure(login, Fault.EXPIRED, chosen=chosen, account=account)
    return error


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


def credentials_error(error: Exception, status: int | None = None, host: str = "") -> VmctlError:
    """What Google's library says of the credentials, as the table's error for it.

    `status` and `host` are those of the login service's last answer, where there was one.
    """
    from google.auth import exceptions as auth

    if "default credentials were not found" in str(error):
        return no_credentials()
    login, account, chosen = current_login()
    words = " ".join(str(part) for part in error.args)
    fault = fault_of(words, status)
    if isinstance(error, auth.TransportError) and fault is not Fault.UNTRUSTED:
        fault = Fault.UNREACHABLE
    elif getattr(error, "_retryable", False):  # the library's tries have failed, all of them
        fault = Fault.UNAVAILABLE
    elif isinstance(error, auth.DefaultCredentialsError | auth.MalformedError):
        fault = fault if fault is Fault.MISSING else Fault.UNUSABLE
        login = Login.FILE
    elif "impersonated" in words and login is Login.EXTERNAL:
        login = Login.IMPERSONATED
    return login_error(
        login,
        fault,
        _spoken(error, status),
        chosen=chosen,
        account=account,
        host=host,
        proxy=named_proxy(host),
    )


_LOGINS = {
    "authorized_user": Login.USER,
    "external_account_authorized_user": Login.USER,
    "service_account": Login.SERVICE_ACCOUNT,
    "external_account": Login.EXTERNAL,
    "impersonated_service_account": Login.IMPERSONATED,
}


def current_login() -> tuple[Login, str, bool]:
    """The kind of the credentials that are used, their account, and whether a variable chose them.

    Read from the file that Google's library reads; without one it is gcloud's login.
    """
    chosen = bool(os.environ.get(CHOSEN_FILE))
    file = credentials_file()
    if file is None:
        return (Login.MACHINE if is_google_machine() else Login.GCLOUD), "", chosen
    try:
        said = json.loads(file.read_bytes())
        login = _LOGINS.get(said.get("type"), Login.FILE)
    except (OSError, ValueError, AttributeError):
        return Login.FILE, "", chosen
    target = str(said.get("service_account_impersonation_url") or "")
    account = target.rpartition("/")[2].partition(":")[0] or said.get("client_email")
    return login, str(account or said.get("account") or ""), chosen


def credentials_file() -> Path | None:
    """The file of application-default credentials: the chosen one, else gcloud's, if any."""
    if os.environ.get(CHOSEN_FILE):
        return Path(os.environ[CHOSEN_FILE])
    folder = os.environ.get("CLOUDSDK_CONFIG") or Path.home() / ".config" / "gcloud"
    file = Path(folder) / "application_default_credentials.json"
    return file if file.is_file() else None


def is_google_machine() -> bool:
    """Whether this computer is Google's, by its firmware: its metadata server then answers.

    The server itself is not asked: elsewhere its address is often silent for seconds.
    """
    if os.environ.get("NO_GCE_CHECK") == "true":
        return False
    if os.environ.get("GCE_METADATA_HOST") or os.environ.get("GCE_METADATA_ROOT"):
        return True
    try:
        return Path("/sys/class/dmi/id/product_name").read_text().startswith("Google")
    except (OSError, UnicodeDecodeError):
        return False


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
    proxy = named_proxy(urlsplit(endpoint or GOOGLE).hostname or "")
    also = f" and the proxy {proxy}" if proxy else ""
    return f"Check the network{also}, then run it again: it resumes where it stopped."


def _spoken(error: Exception, status: int | None) -> str:
    """Google's own words in an error of its library: the last sentence of a nested answer."""
    answer: object = error.args[1] if len(error.args) > 1 else ""
    with suppress(ValueError):
        answer = json.loads(answer) if isinstance(answer, str) else answer
    if isinstance(answer, Mapping):
        inner = answer.get("error")
        told = inner.get("message") if isinstance(inner, Mapping) else None
        told = told or answer.get("error_description")
        if told:
            return " ".join(str(told).split())
    text = first_line(error)
    if text.startswith(("<", "{")) or (status is not None and status >= 500):
        return f"HTTP {status}" if status else "its answer could not be read"
    return text


def first_line(error: Exception) -> str:
    """The first line of a foreign error's text."""
    text = str(error.args[0] if error.args else error) if str(error) else type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror
    return text.strip().splitlines()[0].rstrip(".") if text.strip() else type(error).__name__
