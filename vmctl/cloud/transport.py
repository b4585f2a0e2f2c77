"""One Google project over one connection: requests out, replies and operations in."""

from __future__ import annotations

import http.client
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Self

from vmctl.cloud.compute.operations import operation_of
from vmctl.cloud.errors import api_error_of, map_google_errors
from vmctl.domain.google.operation import Operation, refused

if TYPE_CHECKING:
    from vmctl.cloud.credentials import Access

READ_RETRIES = 3  # googleapiclient waits 2, 4, 8 seconds at most before them
CHANGE_RETRIES = 2  # of the same request with the same requestId: Google does it once


class Transport:
    """What may be asked again is; errors are of vmctl's tree.

    One object per thread: httplib2 is not shared. What asks Google to do something returns an
    Operation; a request that is refused at once returns one that is done and failed.
    """

    def __init__(
        self,
        service: Any,
        project: str,
        endpoint: str = "",
        *,
        connect: Callable[[], Any] | None = None,
        http: Any = None,
    ) -> None:
        self._service = service
        self._endpoint = endpoint
        self._connect = connect
        self._http = http  # None: the service's own
        self._date = ""
        self.project = project
        self.access: Access | None = None  # None for the embedded one, and for clones

    def now(self, otherwise: datetime) -> datetime:
        """The service's time at its last answer, to the second; else what this computer says."""
        try:
            return parsedate_to_datetime(self._date).astimezone(UTC)
        except ValueError:
            return otherwise

    def _note_date(self, response: Mapping[str, str]) -> None:
        self._date = response.get("date", self._date)

    def clone(self) -> Self:
        """The same project over a connection of its own, for another thread."""
        connect = self._connect
        http = connect() if connect else None
        return type(self)(self._service, self.project, self._endpoint, connect=connect, http=http)

    def pages(
        self, collection: str, verb: str = "list", *, project: str = "", **arguments: Any
    ) -> Iterator[Any]:
        """The replies of a method that only reads, page by page, such as `regions` `list`.

        `project` is another one than this, such as that of public images. Google's client knows
        which methods have a next page by their schemas, which `discovery_document` leaves out.
        """
        method = getattr(getattr(self._service, collection)(), verb)
        token: str | None = None
        while token != "":
            pages = {} if token is None else {"pageToken": token}
            reply = self._get(method(project=project or self.project, **arguments, **pages))
            yield reply
            token = reply.get("nextPageToken", "")

    def change(
        self, collection: str, verb: str, name: str, *, request_id: str = "", **arguments: Any
    ) -> Operation:
        """Ask for a change of what has this name, such as `snapshots` `delete`.

        The request's ID is fresh for every attempt: a derived one would replay an old answer,
        such as a stockout.
        """
        from googleapiclient.errors import HttpError

        method = getattr(getattr(self._service, collection)(), verb)
        request_id = request_id or str(uuid.uuid4())
        request = method(project=self.project, requestId=request_id, **arguments)
        request.http = self._http or request.http
        request.add_response_callback(self._note_date)
        with map_google_errors(self.project, self._endpoint):
            try:
                reply = _execute(request, CHANGE_RETRIES)
            except HttpError as error:
                return refused(verb, arguments.get("zone", ""), name, api_error_of(error))
        return operation_of(reply)

    def _get(self, request: Any, *, missing_ok: bool = False) -> Any:
        """A read; with `missing_ok` a 404 is None, else everything refused is raised."""
        from googleapiclient.errors import HttpError

        request.http = self._http or request.http
        request.add_response_callback(self._note_date)
        with map_google_errors(self.project, self._endpoint):
            try:
                return _execute(request, READ_RETRIES)
            except HttpError as error:
                if missing_ok and error.resp.status == 404:
                    return None
                raise


def _execute(request: Any, retries: int) -> Any:
    """Send a request and read its answer; what may be repeated is, `retries` times.

    googleapiclient retries 429, 5xx and lost connections, but not an answer cut off in its
    middle. Repeating is safe for changes, too: the request carries its requestId.
    """
    for left in reversed(range(retries + 1)):
        try:
            return request.execute(num_retries=retries)
        except http.client.HTTPException:
            request.http.close()  # whatever still comes on that connection is not wanted
            if left == 0:
                raise
    raise AssertionError("the last attempt returns or raises")
