"""Which Compute Engine to talk to, and as whom: the one place that knows local from real."""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vmctl.clock import Clock
from vmctl.cloud import emulator_launch, emulator_process
from vmctl.cloud.compute.compute import Compute
from vmctl.cloud.credentials import find_access, find_credentials
from vmctl.cloud.errors import map_google_errors
from vmctl.cloud.recorder import Recorder
from vmctl.config import Project
from vmctl.domain.errors import InvalidInput
from vmctl.files import atomic_write
from vmctl.folders import cache_dir

LOCAL_PROJECT = "vmctl-local"
TIMEOUT_S = 60


def open_compute(
    project: Project, clock: Clock | None = None, recorder: Recorder | None = None
) -> Compute:
    """The Compute Engine of a project: the embedded one, started when needed, or Google's.

    A recorder records all requests and replies. Raises AccessDenied without usable
    credentials, InvalidInput without a Google project.
    """
    if project.local:
        running = emulator_launch.start(emulator_process.home(), clock or Clock())
        chosen = project.google_project or running.project or LOCAL_PROJECT
        return _local(running, project_id(chosen), recorder)
    return _real(project, recorder)


def _local(
    running: emulator_process.EmulatorProcess, project: str, recorder: Recorder | None
) -> Compute:
    def connect() -> Any:
        connection = local_connection(running)
        return recorder.wrap(connection, project) if recorder else connection

    return _compute(project, running.endpoint, connect)


def local_connection(running: emulator_process.EmulatorProcess) -> Any:
    """An httplib2 connection to the emulator, whatever address a request names."""
    import http.client

    import httplib2

    context = running.trust()

    class Proven(http.client.HTTPSConnection):
        """To the emulator, whatever address is asked for."""

        def __init__(self, *_: object, **__: object) -> None:
            super().__init__(
                emulator_process.ADDRESS, running.port, timeout=TIMEOUT_S, context=context
            )

    class Http(httplib2.Http):  # type: ignore[misc]  # httplib2 has no types
        """Sends the emulator's secret, over connections that its certificate has proven."""

        def request(self, uri: str, *args: Any, headers: Any = None, **more: Any) -> Any:
            sent = {**(headers or {}), **running.headers()}
            return super().request(uri, *args, headers=sent, connection_type=Proven, **more)

    # proxy_info=None: a proxy set for the internet is not asked for 127.0.0.1
    connection = Http(timeout=TIMEOUT_S, proxy_info=None)
    connection.follow_redirects = False  # it sends none, but 308 for a part of an upload
    return connection


def _real(chosen: Project, recorder: Recorder | None) -> Compute:
    identity = find_credentials(chosen.google_project)
    access = find_access(chosen.google_project, identity, chosen.file)
    if access is None:
        raise InvalidInput(
            "No Google Cloud project is set.",
            hint='Write project = "ID" in vmctl.toml, or: gcloud config set project ID',
        )
    project = project_id(access.project)
    # gcloud's own variables for private endpoints: both tools then talk to the same one
    endpoint = os.environ.get("CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE", "")

    def connect() -> Any:
        from vmctl.cloud.authorized import AuthorizedConnection

        http = AuthorizedConnection(identity.credentials, TIMEOUT_S)
        # around the login, not inside it: its tokens are not witnessed
        return recorder.wrap(http, project) if recorder else http

    with map_google_errors(project, endpoint):
        compute = _compute(project, endpoint, connect)
    compute.access = access
    return compute


def _compute(project: str, endpoint: str, connect: Callable[[], Any]) -> Compute:
    """Google's client in its shipped form; without an endpoint it goes to Google's own."""
    from googleapiclient.discovery import build_from_document

    service = build_from_document(
        discovery_document(),
        http=connect(),
        client_options={"api_endpoint": endpoint} if endpoint else None,
    )
    return Compute(service, project, endpoint, connect=connect)


@functools.cache
def discovery_document(api: str = "compute", version: str = "v1") -> dict[str, Any]:
    """The API's methods, as Google's client ships them, without their descriptions.

    Of the schemas there are the names only: the client writes a manual of each method from them
    whenever it makes one, which was half of what `vmctl status` did, and reads them for nothing
    else. What is left is kept, because the whole takes ten times as long to read.
    """
    import json

    from googleapiclient.discovery_cache import DISCOVERY_DOC_DIR, get_static_doc

    shipped = Path(DISCOVERY_DOC_DIR, f"{api}.{version}.json").stat()
    name = f"{api}-{_KEPT}"
    kept = cache_dir() / f"{name}-{shipped.st_size}-{shipped.st_mtime_ns}.json"
    with contextlib.suppress(OSError, ValueError):
        found: dict[str, Any] = json.loads(kept.read_bytes())
        return found
    document: dict[str, Any] = json.loads(
        get_static_doc(api, version), object_hook=_without_descriptions
    )
    document["schemas"] = {name: {"id": name, "type": "object"} for name in document["schemas"]}
    with contextlib.suppress(OSError):
        for old in kept.parent.glob(f"{name}-*"):
            old.unlink()
        atomic_write(kept, json.dumps(document))
    return document


_KEPT = "methods-1"  # the number changes with what is left out


def _without_descriptions(value: dict[str, Any]) -> dict[str, Any]:
    """A part of the document; a parameter may be called "description", which is a part itself."""
    for key in ("description", "enumDescriptions"):
        if isinstance(value.get(key), str | list):
            del value[key]
    return value


def project_id(text: str) -> str:
    """A project's ID or number; what Google's client would refuse is refused here, in words."""
    if not re.fullmatch(r"(?:[a-z][-a-z0-9.]*:)?[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?", text):
        raise InvalidInput(
            f"'{text}' is not a valid Google Cloud project ID.",
            hint="An ID looks like my-project-123; see yours: gcloud projects list",
        )
    return text
