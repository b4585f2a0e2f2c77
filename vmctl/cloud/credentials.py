"""As whom vmctl talks to Google: application-default credentials, else gcloud's own login."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
import warnings
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from vmctl.cloud.errors import CHOSEN_FILE, credentials_error, map_google_errors
from vmctl.domain.errors import AccessDenied, Unreachable

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

    @property
    def project_source(self) -> str:
        """Where the project is named: a variable beats the credentials."""
        return next((name for name in PROJECT_VARIABLES if os.environ.get(name)), self.source)


def find_credentials() -> Identity:
    """Application-default credentials, else those of `gcloud auth login`; and their project.

    Raises AccessDenied when there are none, or when those that were chosen cannot be used.
    """
    import google.auth
    from google.auth import exceptions

    try:
        with warnings.catch_warnings():
            # user credentials without a quota project: Compute Engine needs none
            warnings.simplefilter("ignore", UserWarning)
            credentials, found = google.auth.default(scopes=[SCOPE])
        return Identity(credentials, _source(credentials), found)
    except exceptions.DefaultCredentialsError as error:
        if os.environ.get(CHOSEN_FILE):
            raise credentials_error(error) from error  # chosen on purpose: nothing else will do
        token = _gcloud("auth", "print-access-token")
        if token is None:
            raise credentials_error(error) from error
    project = os.environ.get("GOOGLE_CLOUD_PROJECT") or None
    return Identity(_gcloud_credentials(token), "gcloud auth login", project)


def prove(identity: Identity) -> None:
    """Fetch a token; raises AccessDenied when Google gives none, Unreachable without network."""
    import google_auth_httplib2
    import httplib2

    with map_google_errors(identity.project or ""):
        http = httplib2.Http(timeout=REFRESH_TIMEOUT_S)
        try:
            identity.credentials.refresh(google_auth_httplib2.Request(http))
        except OSError as error:
            raise Unreachable(
                f"Google's login service does not answer: {error.strerror or error}.",
                hint="Check the network, then run it again.",
            ) from error


def gcloud_project() -> str | None:
    """The project that `gcloud config set project` has chosen; None without one."""
    return _gcloud("config", "get-value", "project")


def _source(credentials: Any) -> str:
    if os.environ.get(CHOSEN_FILE):
        return f"the file that {CHOSEN_FILE} names"
    if type(credentials).__module__.startswith("google.auth.compute_engine"):
        return "the service account of this machine"
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
                fresh = _gcloud("auth", "print-access-token") or ""
                given[0] = fresh, time.monotonic()
        if not fresh:
            raise AccessDenied(
                "gcloud no longer gives an access token.", hint="Log in again: gcloud auth login"
            )
        # google-auth compares with a naive UTC time
        return fresh, datetime.now(UTC).replace(tzinfo=None) + timedelta(minutes=30)

    # google-auth leaves this constructor untyped
    return Credentials(token=None, refresh_handler=refresh, scopes=[SCOPE])  # type: ignore[no-untyped-call]


def _gcloud(*words: str) -> str | None:
    """What gcloud prints; None when it is not installed or has nothing to say."""
    program = shutil.which("gcloud")
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, *words, "--quiet"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=GCLOUD_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    text = done.stdout.strip()
    return text if done.returncode == 0 and text and text != "(unset)" else None
