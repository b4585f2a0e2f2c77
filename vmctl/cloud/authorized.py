"""Requests to Google with the user's credentials; what its login service says is read in full."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import google_auth_httplib2
import httplib2
from google.auth import exceptions

from vmctl.cloud.connection import Tunnelled, is_page, named_proxy, page_title
from vmctl.cloud.errors import LoginUnreachable, credentials_error, first_line
from vmctl.domain.google.credential_errors import Fault, Login, login_error


class Connection(httplib2.Http):  # type: ignore[misc]  # httplib2 has no types
    """httplib2's connections, through the user's proxy, trusting the user's certificates."""

    def __init__(self, timeout: float) -> None:
        super().__init__(timeout=timeout, proxy_info=None)

    def request(self, uri: str, *args: Any, **more: Any) -> Any:
        """As httplib2's; raises Unreachable for a page that a proxy sent for an answer."""
        if uri.startswith("https:"):
            more["connection_type"] = Tunnelled
        response, content = super().request(uri, *args, **more)
        if is_page(int(response.status), response.get("content-type", "")):
            host = urlsplit(uri).hostname or ""
            raise login_error(
                Login.USER,
                Fault.BLOCKED,
                f"HTTP {response.status}, {page_title(content)}",
                chosen=False,
                host=host,
                proxy=named_proxy(host),
            )
        return response, content


class LoginRequest(google_auth_httplib2.Request):  # type: ignore[misc]
    """Asks a login service for a token, and remembers which one and how it answered."""

    host = ""
    status: int | None = None

    def __call__(self, url: str, *args: Any, timeout: object = None, **more: Any) -> Any:
        """As Google's; the connection has a time limit of its own."""
        self.host, self.status = urlsplit(url).hostname or "", None
        try:
            response = super().__call__(url, *args, **more)
        except (exceptions.TransportError, OSError) as error:
            raise LoginUnreachable(first_line(error), self.host) from error
        self.status = response.status
        return response


class AuthorizedConnection(google_auth_httplib2.AuthorizedHttp):  # type: ignore[misc]
    """Google's connection with credentials; a token that is refused is an error of vmctl's."""

    def __init__(self, credentials: Any, timeout: float) -> None:
        super().__init__(credentials, http=Connection(timeout))
        self._request = LoginRequest(self.http)

    def request(self, *args: Any, **more: Any) -> Any:
        """As httplib2's."""
        try:
            return super().request(*args, **more)
        except exceptions.GoogleAuthError as error:
            raise credentials_error(error, self._request.status, self._request.host) from error
