"""As whom vmctl talks to Google: application-default credentials, else gcloud's own login."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
import time
import warnings
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from vmctl.cloud.connection import named_proxy
from vmctl.cloud.errors import (
    credentials_error,
    credentials_file,
    current_login,
    first_line,
    is_google_machine,
    map_google_errors,
)
from vmctl.domain.errors import AccessDenied, VmctlError
from vmctl.domain.google.credential_errors import (
    CHOSEN_FILE,
    Fault,
    Login,
    fault_of,
    login_error,
    no_credentials,
)

PROJECT_VARIABLES = ("GOOGLE_CLOUD_PROJECT", "GCLOUD_PROJECT")
SCOPE = "https://www.googleapis.com/auth/cloud-platform"
GCLOUD_TIMEOUT_S = 60
REFRESH_TIMEOUT_S = 30
SAME_TOKEN_S = 5.0


@dataclass(frozen=True, slots=True)
class Identity:
    """Credentials of Google's library, where they come from, and the project found with them."""

    credentials: Any
    source: str
    project: str | None = None
    account: str = ""  # "" where only Google knows it

    @property
    def project_source(self) -> str:
        """Where the project is named: a variable beats the credentials."""
        return next((name for name in PROJECT_VARIABLES if os.environ.get(name)), self.source)


class Access(NamedTuple):
    """Which Google project, as whom, and where each choice comes from."""

    project: str
    project_source: str
    account: str  # "" where only Google knows it
    credentials_source: str

    @property
    def text(self) -> str:
        """A line for people."""
        who = (
            f"{self.account} ({self.credentials_source})"
            if self.account
            else (self.credentials_source)
        )
        return f"Google project {self.project} ({self.project_source}), logged in by {who}"


def find_access(chosen: str | None, identity: Identity, file: Path | None = None) -> Access | None:
    """The Google project, by the first that names one; None where nothing does.

    The order: VMCTL_PROJECT, `project` in the settings `file` (`chosen` is either),
    GOOGLE_CLOUD_PROJECT, the credentials' own, gcloud's configuration.
    """
    if chosen:
        named = os.environ.get("VMCTL_PROJECT") == chosen
        project = chosen
        source = "VMCTL_PROJECT" if named else file.name if file else "vmctl.toml"
    elif identity.project:
        project, source = identity.project, f"from {identity.project_source}"
    else:
        project, source = gcloud_project() or "", "gcloud config set project"
    return Access(project, source, identity.account, identity.source) if project else None


def find_credentials(project: str | None = None) -> Identity:
    """Application-default credentials, else those of `gcloud auth login`; and their project.

    With a `project` given, nobody is asked for one. The order: the file that
    GOOGLE_APPLICATION_CREDENTIALS names, the file of `gcloud auth application-default login`,
    the service account of a machine of Google's, `gcloud auth login`.
    Raises AccessDenied when there are none, or when those that were chosen cannot be used.
    """
    from google.auth import exceptions

    named = project or next(filter(None, map(os.environ.get, PROJECT_VARIABLES)), None)
    file = credentials_file()
    try:
        if file is not None:
            return _of_file(file, named)
        if is_google_machine():
            return _of_machine(named)
    except exceptions.GoogleAuthError as error:
        if file is not None:
            raise credentials_error(error) from error  # chosen on purpose: nothing else will do
    token = _gcloud("auth", "print-access-token")
    return Identity(_gcloud_credentials(token), "gcloud auth login", named)


def _of_file(file: Path, project: str | None) -> Identity:
    import google.auth
    from google.auth.exceptions import GoogleAuthError, MalformedError

    from vmctl.cloud.authorized import Connection, LoginRequest

    request = LoginRequest(Connection(REFRESH_TIMEOUT_S))
    with warnings.catch_warnings():
        # user credentials without a quota project: Compute Engine needs none
        warnings.simplefilter("ignore")
        # without scopes: an external account would ask Resource Manager for its project at once
        load: Any = google.auth.load_credentials_from_file
        try:
            loaded, found = load(str(file), request=request)
        except (AttributeError, KeyError, TypeError, ValueError) as error:  # JSON of other things
            if isinstance(error, GoogleAuthError):
                raise
            words = f"{file} holds no credentials of Google's"
            raise credentials_error(MalformedError(words)) from error  # type: ignore[no-untyped-call]
    credentials = _with_scopes(loaded)
    project = project or found
    if not project and hasattr(credentials, "get_project_id"):
        with map_google_errors(""):
            project = credentials.get_project_id(request=request)
    return Identity(credentials, _source(), project, current_login()[1])


def _with_scopes(credentials: Any) -> Any:
    from google.auth import credentials as forms

    add: Any = forms.with_scopes_if_required  # google-auth leaves it untyped
    return add(credentials, [SCOPE])


def _of_machine(project: str | None) -> Identity:
    import google.auth

    credentials, found = google.auth.default(scopes=[SCOPE])
    account = str(getattr(credentials, "service_account_email", ""))
    source = "the service account of this machine"
    return Identity(credentials, source, project or found, account if "@" in account else "")


def prove(identity: Identity) -> None:
    """Fetch a token; raises AccessDenied when Google gives none, Unreachable without network."""
    from google.auth.exceptions import GoogleAuthError

    from vmctl.cloud.authorized import Connection, LoginRequest

    request = LoginRequest(Connection(REFRESH_TIMEOUT_S))
    with map_google_errors(identity.project or ""):
        try:
            identity.credentials.refresh(request)
        except GoogleAuthError as error:
            raise credentials_error(error, request.status, request.host) from error


def gcloud_project() -> str | None:
    """The project that `gcloud config set project` has chosen; None without one."""
    try:
        return _gcloud("config", "get-value", "project")
    except AccessDenied:
        return None


def _source() -> str:
    if os.environ.get(CHOSEN_FILE):
        return f"the file that {CHOSEN_FILE} names"
    return "gcloud auth application-default login"


def _gcloud_credentials(token: str) -> Any:
    from google.oauth2.credentials import Credentials

    lock, given = threading.Lock(), [(token, time.monotonic())]

    def refresh(request: object, scopes: object) -> tuple[str, datetime]:
        """gcloud renews its own token: ask it again whenever this one may have expired.

        Connections that begin side by side share its last reply.
        """
        with lock:
            fresh, since = given[0]
            if time.monotonic() - since > SAME_TOKEN_S:
                fresh = _gcloud("auth", "print-access-token")
                given[0] = fresh, time.monotonic()
        # google-auth compares with a naive UTC time
        return fresh, datetime.now(UTC).replace(tzinfo=None) + timedelta(minutes=30)

    # google-auth leaves this constructor untyped
    return Credentials(token=None, refresh_handler=refresh, scopes=[SCOPE])  # type: ignore[no-untyped-call]


def _gcloud(*words: str) -> str:
    """What gcloud prints; raises AccessDenied, with its last line, where it refuses."""
    program = shutil.which("gcloud")
    if program is None:
        raise no_credentials()
    try:
        done = subprocess.run(
            [program, *words, "--quiet"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=GCLOUD_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _gcloud_error(f"gcloud does not answer: {first_line(error)}") from error
    text = done.stdout.strip()
    if done.returncode == 0 and text and text != "(unset)":
        return text
    if "active account" in done.stderr or not done.stderr.strip():
        raise no_credentials()
    raise _gcloud_error(done.stderr)


def _gcloud_error(text: str) -> VmctlError:
    """From what gcloud wrote: its last line that is not one of its commands to type."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = [line for line in lines if not line.startswith(("$ ", "gcloud "))]
    errors = [line for line in said if line.startswith("ERROR:")]
    last = (errors or said or lines)[-1]
    words = re.sub(r"^ERROR: (\([\w.-]+\) )?", "", last)
    fault = fault_of(text)
    if fault is Fault.UNKNOWN and re.search(r"resolve|connect|network|unreachable", text, re.I):
        fault = Fault.UNREACHABLE
    elif fault is Fault.UNKNOWN:
        fault = Fault.EXPIRED
    return login_error(
        Login.GCLOUD, fault, words, chosen=False, proxy=named_proxy("oauth2.googleapis.com")
    )
