"""One API call from request to reply: fault, route, check, handle, check again.

Handlers return values; this is the one place that turns values and refusals into HTTP.
"""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import dataclass
from urllib.parse import parse_qsl

from ..cloud.call import Call, Handler
from ..cloud.cloud import DEFAULT_PROJECT, Cloud
from ..cloud.lifecycle import Lifecycle
from ..cloud.operations import check_request_id
from ..errors import ApiError, Json, OperationError, not_found, unparsable
from .discovery import Discovery, Match, Method
from .field_mask import select
from .permissions import PUBLIC_PROJECTS, check_permission
from .urls import project_number

# by the beginning of the path: which document, and what of the path is not in it
PREFIXES = {
    "/compute/v1/": ("compute.v1", "/compute/v1/"),
    "/storage/v1/": ("storage.v1", "/storage/v1/"),
    "/v1/projects/": ("aiplatform.v1", "/"),
    "/v2/entries:list": ("logging.v2", "/"),
}
BODY_LIMIT = 4 * 1024 * 1024

log = logging.getLogger("vmctl.emulator")


@dataclass(frozen=True, slots=True)
class Reply:
    """A status with a JSON body; `drop` asks for a broken connection instead."""

    status: int
    body: Json
    drop: bool = False


class Dispatcher:
    """Answers API calls, from HTTP requests and from the parts of batches alike."""

    def __init__(
        self,
        cloud: Cloud,
        lifecycle: Lifecycle,
        handlers: dict[str, Handler],
        *,
        check_replies: bool = False,
    ) -> None:
        """`check_replies`: check each reply against Google's schema, up to 20 ms an instance."""
        self._cloud = cloud
        self._lifecycle = lifecycle
        self._handlers = handlers
        self._check_replies = check_replies

    async def answer(self, http_method: str, path: str, query: str, raw: bytes) -> Reply:
        """Answer one call; `path` is the URL's, still escaped, `query` what follows the `?`."""
        reply = await self._answer(http_method, path, dict(parse_qsl(query, True)), raw)
        log.info("%s %s -> %d", http_method, path[:500], reply.status)
        return reply

    async def _answer(
        self, http_method: str, path: str, query: dict[str, str], raw: bytes
    ) -> Reply:
        try:
            discovery, match = self._route(http_method, path)
            method = match.method.id
            breakpoints = self._cloud.breakpoints
            number = breakpoints.count(http_method, method, (path, query))
            if await breakpoints.pause(number, method, "before"):
                return Reply(500, {}, drop=True)
            await asyncio.sleep(self._cloud.faults.latency_s(method))
            if self._cloud.faults.drops(method, "before"):
                return Reply(500, {}, drop=True)
            refusal = self._cloud.faults.refuse_call(method)
            if refusal is not None:
                raise refusal
            body = await self._handle(discovery, match, query, raw)
            if await breakpoints.pause(number, method, "after"):
                return Reply(500, {}, drop=True)
            if self._cloud.faults.drops(method, "after"):
                return Reply(500, {}, drop=True)
            is_empty = match.method.response is None and method.startswith("storage.")
            return Reply(204 if is_empty else 200, body)
        except ApiError as error:
            return Reply(error.code, error.body())
        except OperationError as error:
            refused = ApiError(error.http_code, "internalError", error.message)
            return Reply(refused.code, refused.body())
        except RecursionError:
            return Reply(400, unparsable("The request is nested too deeply.").body())
        except OSError as error:
            log.exception("%s %s failed", http_method, path[:500])
            unkept = ApiError(500, "internalError", f"The emulator cannot keep its state: {error}")
            return Reply(500, unkept.body())
        except Exception as error:
            log.exception("%s %s failed", http_method, path[:500])
            broken = ApiError(500, "internalError", f"The emulator failed: {error!r}")
            return Reply(500, broken.body())

    def _route(self, http_method: str, path: str) -> tuple[Discovery, Match]:
        for prefix, (api, base) in PREFIXES.items():
            if path.startswith(prefix):
                discovery = Discovery.load(api)
                match = discovery.match(http_method, path.removeprefix(base))
                if match is not None:
                    return discovery, match
        raise ApiError(404, "notFound", f"Not Found: no method for {http_method} {path}")

    def _find_project(self, number: str) -> str:
        """Return the id of the project with a number; ApiError(404) when none has it."""
        for project in {DEFAULT_PROJECT, *PUBLIC_PROJECTS, *self._cloud.store.projects()}:
            if project_number(project) == number:
                return project
        raise not_found(f"projects/{number}")

    async def _handle(
        self, discovery: Discovery, match: Match, query: dict[str, str], raw: bytes
    ) -> Json:
        method = match.method
        discovery.check_parameters(match, query)
        if "projectsId" in match.path:
            match.path["project"] = match.path["projectsId"]
        if match.path.get("project", "").isdigit():
            match.path["project"] = self._find_project(match.path["project"])
        url_path = match.url_path
        query = {k: v.lower() if _is_boolean(method, k) else v for k, v in query.items()}
        check_permission(method.id, match.path.get("project"), url_path)
        body: Json = {}
        if method.request is not None:
            body = {k: _without_nulls(v) for k, v in parse_object(raw).items() if v is not None}
            body = discovery.check_request(method.request, body)
        handler = self._handlers.get(method.id)
        if handler is None:
            raise ApiError(400, "notImplemented", f"The emulator does not implement {method.id}.")
        call = Call(self._cloud, self._lifecycle, method.id, url_path, match.path, query, body)
        answer = self._answered_before(call, method.parameters)
        if answer is None:
            answer = await handler(call)
        if self._check_replies and method.response is not None:
            discovery.check_response(method.response, answer)
        return select(answer, query["fields"]) if query.get("fields") else answer

    def _answered_before(self, call: Call, parameters: Json) -> Json | None:
        """The operation of an earlier call with this requestId: retries start nothing new."""
        request_id = call.query.get("requestId")
        if request_id is None or "requestId" not in parameters:
            return None
        check_request_id(request_id)
        earlier = self._cloud.operations.find_request(call.project, request_id)
        return None if earlier is None else dict(earlier.body)


def parse_object(raw: bytes) -> Json:
    """Parse the body of a request, {} if it is empty; ApiError(400) unless it is an object."""
    try:
        body: object = json.loads(raw.strip() or b"{}", parse_constant=_refuse_constant)
        if b"\\u" in raw or b"\xed" in raw:
            json.dumps(body, ensure_ascii=False).encode()  # half a surrogate pair cannot be saved
    except RecursionError:
        raise unparsable("The request is nested too deeply.") from None
    except UnicodeError:
        raise unparsable("Invalid JSON payload received. Not Unicode.") from None
    except ValueError as error:
        raise unparsable(f"Invalid JSON payload received. {error}") from None
    if not isinstance(body, dict):
        raise unparsable("Invalid JSON payload received. Expected an object.")
    return body


def _is_boolean(method: Method, parameter: str) -> bool:
    return bool(method.parameters.get(parameter, {}).get("type") == "boolean")


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not a value of JSON.")


def _without_nulls(value: object) -> object:
    """Drop null members: to Google a null field is an absent one."""
    if isinstance(value, dict):
        return {k: _without_nulls(v) for k, v in value.items() if v is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value
