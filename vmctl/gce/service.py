"""Which Compute Engine to talk to, and as whom: the one place that knows local from real."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
import time
import warnings
from datetime import UTC, datetime, timedelta
from typing import Any

from vmctl.clock import Clock
from vmctl.config import Project
from vmctl.domain.errors import AccessDenied, InvalidInput
from vmctl.gce import local
from vmctl.gce.compute import Compute
from vmctl.gce.translate import credentials_error, translated

SCOPE = "https://www.googleapis.com/auth/cloud-platform"
LOCAL_PROJECT = "vmctl-local"
TIMEOUT_S = 60
GCLOUD_TIMEOUT_S = 60
SAME_TOKEN_S = 5.0


def open_compute(project: Project, clock: Clock | None = None) -> Compute:
    """The Compute Engine of a project: the embedded one, started when needed, or Google's.

    Raises AccessDenied without usable credentials, InvalidInput without a Google project.
    """
    if project.local:
        running = local.start(local.home(), clock or Clock())
        chosen = project.google_project or running.project or LOCAL_PROJECT
        return _local(running.endpoint, _project_id(chosen))
    return _real(project.google_project)


def _local(endpoint: str, project: str) -> Compute:
    import httplib2
    from googleapiclient.discovery import build

    def connect() -> Any:
        # proxy_info=None: a proxy set for the internet is not asked for 127.0.0.1
        return httplib2.Http(timeout=TIMEOUT_S, proxy_info=None)

    service = build(
        "compute",
        "v1",
        http=connect(),
        static_discovery=True,
        cache_discovery=False,
        client_options={"api_endpoint": endpoint},
    )
    return Compute(service, project, endpoint, connect=connect)


def _real(chosen_project: str | None) -> Compute:
    import google_auth_httplib2
    import httplib2
    from googleapiclient.discovery import build

    credentials, found_project = _credentials()
    project = chosen_project or found_project or _gcloud("config", "get-value", "project")
    if not project:
        raise InvalidInput(
            "No Google Cloud project is chosen.",
            hint='Write project = "ID" in vmctl.toml, or: gcloud config set project ID',
        )
    project = _project_id(project)
    # gcloud's own variable for private endpoints: both tools then talk to the same one
    endpoint = os.environ.get("CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE", "")

    def connect() -> Any:
        return google_auth_httplib2.AuthorizedHttp(
            credentials, http=httplib2.Http(timeout=TIMEOUT_S)
        )

    with translated(project, endpoint):
        service = build(
            "compute",
            "v1",
            http=connect(),
            static_discovery=True,
            cache_discovery=False,
            client_options={"api_endpoint": endpoint} if endpoint else None,
        )
    return Compute(service, project, endpoint, connect=connect)


def _project_id(text: str) -> str:
    """A project's ID or number; what Google's client would refuse is refused here, in words."""
    if not re.fullmatch(r"(?:[a-z][-a-z0-9.]*:)?[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?", text):
        raise InvalidInput(
            f"'{text}' is no ID of a Google Cloud project.",
            hint="An ID looks like my-project-123; see yours: gcloud projects list",
        )
    return text


def _credentials() -> tuple[Any, str | None]:
    """Application-default credentials, else those of `gcloud auth login`; and their project."""
    import google.auth
    from google.auth import exceptions

    try:
        with warnings.catch_warnings():
            # user credentials without a quota project: Compute Engine needs none
            warnings.simplefilter("ignore", UserWarning)
            credentials, found = google.auth.default(scopes=[SCOPE])
        return credentials, found
    except exceptions.DefaultCredentialsError as error:
        if os.environ.get("GOOGLE_APPLICATION_CREDENTIALS"):
            raise credentials_error(error) from error  # chosen on purpose: nothing else will do
        token = _gcloud("auth", "print-access-token")
        if token is None:
            raise credentials_error(error) from error
    return _gcloud_credentials(token), os.environ.get("GOOGLE_CLOUD_PROJECT")


def _gcloud_credentials(token: str) -> Any:
    from google.oauth2.credentials import Credentials

    lock, given = threading.Lock(), [(token, time.monotonic())]

    def refresh(request: object, scopes: object) -> tuple[str, datetime]:
        """gcloud renews its own token: ask it again whenever ours may be over.

        Connections that begin side by side share what it has just said.
        """
        with lock:
            fresh, since = given[0]
            if time.monotonic() - since > SAME_TOKEN_S:
                fresh = _gcloud("auth", "print-access-token") or ""
                given[0] = fresh, time.monotonic()
        if not fresh:
            raise AccessDenied(
                "gcloud gives no access token any more.", hint="Log in again: gcloud auth login"
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
