"""One of Google's APIs besides Compute Engine, by its own document: embedded or real."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from vmctl.clock import Clock
from vmctl.cloud import emulator_launch, emulator_process
from vmctl.cloud.client import (
    LOCAL_PROJECT,
    TIMEOUT_S,
    discovery_document,
    local_connection,
    project_id,
)
from vmctl.cloud.credentials import find_access, find_credentials
from vmctl.cloud.errors import api_error_of, map_google_errors
from vmctl.domain.errors import InvalidInput, VmctlError

if TYPE_CHECKING:
    from vmctl.config import Project
    from vmctl.domain.google.api_errors import ApiError

RETRIES = 4  # googleapiclient waits 2, 4, 8 and 16 seconds at most before them


class GoogleApi(NamedTuple):
    """A service in Google's own form, the project it is asked for, and how to open a connection."""

    service: Any
    http: Any
    project: str
    root: str
    explain: Callable[[ApiError, str], VmctlError]

    def ask(self, request: Any, *, missing_ok: bool = False, retries: int = RETRIES) -> Any:
        """Send a request; with `missing_ok` a 404 is None, other refusals leave in words."""
        from googleapiclient.errors import HttpError

        with map_google_errors(self.project, self.root):
            try:
                return request.execute(num_retries=retries)
            except HttpError as error:
                if missing_ok and error.resp.status == 404:
                    return None
                raise self.explain(api_error_of(error), self.project) from error

    def pages(self, method: Callable[..., Any], **arguments: Any) -> Iterator[Any]:
        """The replies of a method that lists; Google's own way needs the schemas left out."""
        token = None
        while token != "":
            reply = self.ask(method(pageToken=token, **arguments))
            yield reply
            token = reply.get("nextPageToken", "")

    def close(self) -> None:
        """End its connection."""
        self.http.close()


def open_api(
    project: Project,
    api: str,
    root: str,
    explain: Callable[[ApiError, str], VmctlError],
    clock: Clock,
) -> GoogleApi:
    """The service; `root` is its address at Google.

    The document's own root is changed: an endpoint given to Google's client counts for no upload.
    """
    from googleapiclient.discovery import build_from_document

    if project.local:
        running = emulator_launch.start(emulator_process.home(), clock)
        chosen = project.google_project or running.project or LOCAL_PROJECT
        http, parts = local_connection(running), urlsplit(running.endpoint)
        root = f"{parts.scheme}://{parts.netloc}/"
    else:
        from vmctl.cloud.authorized import AuthorizedConnection

        identity = find_credentials(project.google_project)
        access = find_access(project.google_project, identity, project.file)
        if access is None:
            raise InvalidInput(
                "No Google Cloud project is set.",
                hint='Write project = "ID" in vmctl.toml, or: gcloud config set project ID',
            )
        chosen = access.project
        http = AuthorizedConnection(identity.credentials, TIMEOUT_S)
    chosen = project_id(chosen)
    document = dict(discovery_document(api), rootUrl=root)
    document["baseUrl"] = root + document["servicePath"]
    with map_google_errors(chosen, root):
        service = build_from_document(document, http=http)
    return GoogleApi(service, http, chosen, root, explain)
