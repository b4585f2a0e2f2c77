"""Asynchronous operations: accepted at once, carried out in the background, polled later.

An operation is on disk before the caller learns its name; at the next start `unfinished` returns
those that a killed emulator left.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable
from datetime import timedelta

from ..clock import Clock, parse_stamp, stamp
from ..errors import Json, OperationError, invalid_field
from ..http import urls
from ..store import Key, Record, Store

WAIT_LIMIT_S = 120.0  # as the API documents it for `wait`
KEEP = timedelta(days=14)
USER = "user@vmctl.local"
SYSTEM = "system"

log = logging.getLogger("vmctl.emulator")

Work = Callable[[Record], Awaitable[None]]


class Operations:
    """The operations of all projects and the tasks that carry them out."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._finished: dict[str, asyncio.Event] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._by_request: dict[tuple[str, str], Record] = {}
        self.closing = asyncio.Event()
        for record in store.find("operations"):
            if clock.now() - parse_stamp(record.body["insertTime"]) > KEEP:
                store.delete(record.key)
            else:
                self._remember(record)

    def find_request(self, project: str, request_id: str) -> Record | None:
        """Return the operation that an earlier call with this requestId started, if any."""
        check_request_id(request_id)
        return self._by_request.get((project, request_id))

    def create(
        self,
        kind: str,
        target: Key,
        target_id: str,
        *,
        request_id: str | None = None,
        user: str = USER,
        scope: str | None = None,
        group: str | None = None,
    ) -> Record:
        """Save a PENDING operation of `kind` on `target`, of a group if any, and return it."""
        now = self._clock.now()
        scope = scope or (target.scope if "/" in target.scope else urls.GLOBAL)
        unique = uuid.uuid4().hex
        name = (
            f"operation-{int(now.timestamp() * 1000)}-{unique[:13]}-{unique[13:21]}-{unique[21:29]}"
        )
        key = Key(target.project, "operations", scope, name)
        body: Json = {
            "kind": "compute#operation",
            "id": urls.new_id(),
            "name": name,
            "operationType": kind,
            "targetLink": urls.ROOT + target.path,
            "targetId": target_id,
            "status": "PENDING",
            "user": user,
            "progress": 0,
            "insertTime": stamp(now),
            "selfLink": urls.ROOT + key.path,
        }
        place, _, where = scope.partition("/")
        if where:
            body[place[:-1]] = f"{urls.ROOT}projects/{target.project}/{scope}"
        if group:
            body["operationGroupId"] = group
        if request_id:
            body["clientOperationId"] = request_id
        record = Record(key, body)
        self._store.save(record)
        self._remember(record)
        return record

    def start(self, operation: Record, work: Work) -> asyncio.Task[None]:
        """Carry out `work` in the background and finish the operation with its outcome."""
        task = asyncio.get_running_loop().create_task(self._carry_out(operation, work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def finish(self, operation: Record, error: OperationError | None = None) -> None:
        """Mark the operation DONE, with its error if it failed."""
        now = stamp(self._clock.now())
        operation.body |= {"status": "DONE", "progress": 100, "endTime": now}
        operation.body.setdefault("startTime", now)
        if operation.body.get("user") != SYSTEM:
            operation.body.pop("statusMessage", None)
        if error is not None:
            operation.body["error"] = {"errors": [error.entry()]}
            operation.body["httpErrorStatusCode"] = error.http_code
            operation.body["httpErrorMessage"] = error.http_message
        self._keep(operation)
        self._event(operation).set()
        del self._finished[operation.key.name]

    def report(self, operation: Record, message: str, progress: int | None = None) -> None:
        """Show the progress of a long operation."""
        operation.body["statusMessage"] = message
        if progress is not None:
            operation.body["progress"] = progress
        self._keep(operation)

    async def wait(self, operation: Record) -> None:
        """Return when the operation is DONE, after two minutes, or when the emulator stops."""
        if operation.body["status"] == "DONE":
            return
        waits = [
            asyncio.ensure_future(event.wait()) for event in (self._event(operation), self.closing)
        ]
        try:
            await asyncio.wait(waits, timeout=WAIT_LIMIT_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def unfinished(self) -> list[Record]:
        """Return the operations that an earlier emulator did not finish."""
        return [
            record for record in self._store.find("operations") if record.body["status"] != "DONE"
        ]

    async def close(self) -> None:
        """Release waiting calls and stop the work; unfinished operations stay so on disk."""
        self.closing.set()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _carry_out(self, operation: Record, work: Work) -> None:
        operation.body |= {"status": "RUNNING", "startTime": stamp(self._clock.now())}
        self._keep(operation)
        async with self._clock.working():
            try:
                await work(operation)
            except OperationError as error:
                self.finish(operation, error)
            except Exception as error:
                log.exception("operation %s failed", operation.key.name)
                self.finish(
                    operation,
                    OperationError(
                        "INTERNAL_ERROR",
                        f"Internal error. Please try again or contact Google Support. ({error})",
                        http_code=500,
                        http_message="INTERNAL SERVER ERROR",
                    ),
                )
            else:
                self.finish(operation)

    def _keep(self, operation: Record) -> None:
        """Save an operation's progress; on a full disk the caller still gets its result."""
        try:
            self._store.save(operation)
        except OSError as error:
            log.error("operation %s could not be saved: %s", operation.key.name, error)

    def _remember(self, record: Record) -> None:
        request_id = record.body.get("clientOperationId")
        if request_id:
            self._by_request[record.key.project, request_id] = record

    def _event(self, operation: Record) -> asyncio.Event:
        return self._finished.setdefault(operation.key.name, asyncio.Event())


def check_request_id(request_id: str) -> None:
    """Raise ApiError(400) unless the id is a UUID other than zero."""
    try:
        valid = uuid.UUID(request_id).int != 0
    except ValueError:
        valid = False
    if not valid:
        raise invalid_field("requestId", request_id, "Must be a valid non-zero UUID.")
