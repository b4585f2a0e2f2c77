"""Connections to Google: through the user's proxy, trusting the user's certificates."""

from __future__ import annotations

import base64
import functools
import http.client
import os
import re
import ssl
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from vmctl.domain.errors import InvalidInput, Unreachable, VmctlError
from vmctl.domain.google.credential_errors import Fault, Login, login_error

CA_VARIABLES = (
    "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE",
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
)


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy for HTTPS that the environment names; with its password only in `headers`."""

    host: str
    port: int
    headers: dict[str, str]
    variable: str

    def __str__(self) -> str:
        return f"{self.host}:{self.port} ({self.variable})"


def proxy_for(host: str) -> Proxy | None:
    """The proxy through which an HTTPS host is reached; None without one.

    The variables are HTTPS_PROXY and ALL_PROXY in either case, less what NO_PROXY names.
    """
    # typeshed lists only the form that asks the system, too
    from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined]

    found = getproxies_environment()
    scheme = next((scheme for scheme in ("https", "all") if found.get(scheme)), None)
    if scheme is None or proxy_bypass_environment(host):
        return None
    name = f"{scheme}_proxy"
    variable = name if os.environ.get(name) else name.upper()
    text = found[scheme]
    parts = urlsplit(text if "://" in text else f"http://{text}")
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        port = 0
    if parts.scheme not in ("http", "https") or not parts.hostname or not port:
        raise InvalidInput(
            f"The proxy in {variable} cannot be used: it is not the address of an HTTP proxy.",
            hint=f"Write it as http://USER:PASSWORD@HOST:PORT: export {variable}=…",
        )
    headers = {}
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Proxy-Authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
    return Proxy(parts.hostname, port, headers, variable)


def named_proxy(host: str) -> str:
    """The proxy of a host for a sentence: its address and its variable; "" without one."""
    try:
        return str(proxy_for(host) or "")
    except InvalidInput:
        return ""


def trusted_certificates() -> tuple[str, str] | None:
    """The file of CA certificates that the user has chosen, and where; None: the usual ones.

    In this order: the environment's variables, then gcloud's own setting.
    """
    for variable in CA_VARIABLES:
        if os.environ.get(variable):
            return os.environ[variable], variable
    named = _gcloud_setting("core", "custom_ca_certs_file")
    return (named, "gcloud's core/custom_ca_certs_file") if named else None


def tls_context() -> ssl.SSLContext:
    """What an HTTPS server is judged by; raises InvalidInput for a file that cannot be read."""
    chosen = trusted_certificates()
    if chosen is None:
        import httplib2

        return _context(str(httplib2.CA_CERTS))
    file, source = chosen
    try:
        return _context(file)
    except OSError as error:  # ssl.SSLError is one
        reason = error.strerror or "no certificate is in it"
        if isinstance(error, ssl.SSLError):
            reason = "it holds no PEM certificates"
        raise InvalidInput(
            f"The CA certificates in {file} cannot be read: {reason}.",
            hint=f"Correct or unset {source}.",
        ) from error


@functools.cache
def _context(file: str) -> ssl.SSLContext:
    is_folder = Path(file).is_dir()  # of certificates by their hashes
    context = ssl.create_default_context(
        cafile=None if is_folder else file, capath=file if is_folder else None
    )
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # many a company's CA lacks what it asks for
    return context


class ProxyUnreachable(ConnectionError):
    """The proxy does not answer: another attempt may help."""


def _untrusted(host: str, words: str) -> VmctlError:
    error = login_error(Login.USER, Fault.UNTRUSTED, words, chosen=False, host=host)
    chosen = trusted_certificates()
    if chosen:
        error.hint = f"{chosen[0]} ({chosen[1]}) does not hold its CA: add that there."
    return error


class Tunnelled(http.client.HTTPSConnection):
    """HTTPS to a host of Google's, through a proxy where there is one; made by httplib2."""

    def __init__(
        self, host: str, port: int | None = None, timeout: float | None = None, **_: Any
    ) -> None:
        name, _colon, number = host.partition(":")
        port = port or int(number or 443)
        self._proxy, self._name = proxy_for(name), name
        through = self._proxy
        peer = (through.host, through.port) if through else (name, port)
        super().__init__(*peer, timeout=timeout, context=tls_context())
        if through:
            self.set_tunnel(name, port, through.headers)

    def connect(self) -> None:
        """Connect, and say whose fault it is where that fails."""
        try:
            super().connect()
        except ssl.SSLCertVerificationError as error:  # for good: no second attempt
            raise _untrusted(self._name, error.verify_message or str(error)) from error
        except OSError as error:
            if self._proxy is None or isinstance(error, ssl.SSLError):
                raise
            refused = str(error).partition("Tunnel connection failed: ")[2]
            if not refused:
                reason = error.strerror or str(error)
                raise ProxyUnreachable(
                    f"the proxy {self._proxy} does not answer: {reason}"
                ) from error
            raise Unreachable(
                f"The proxy {self._proxy} refuses the connection to {self._name}: {refused}.",
                hint=f"Check the user and the password in {self._proxy.variable}: special "
                "characters are percent-encoded."
                if refused.startswith("407")
                else f"Ask its administrator to allow {self._name}, or leave the proxy out: "
                f"export NO_PROXY={self._name}",
            ) from error


def page_title(content: bytes) -> str:
    """What a web page is called, for a sentence."""
    text = content.decode("utf-8", "replace")
    found = re.search(r"<title[^>]*>(.*?)</title>", text, re.IGNORECASE | re.DOTALL)
    return f"“{' '.join(found[1].split())[:80]}”" if found else "it has no title"


def is_page(status: int, content_type: str) -> bool:
    """Whether an answer is a page that somebody between here and Google sent.

    Google's own pages are those of its servers in trouble and of addresses that do not exist.
    """
    return "text/html" in content_type and (status < 500 or status == 511) and status != 404


def _gcloud_setting(section: str, name: str) -> str:
    """A setting of gcloud's active configuration, read from its files; "" without one."""
    import configparser

    folder = Path(os.environ.get("CLOUDSDK_CONFIG") or Path.home() / ".config" / "gcloud")
    active = os.environ.get("CLOUDSDK_ACTIVE_CONFIG_NAME", "")
    read = configparser.ConfigParser(interpolation=None)
    with suppress(OSError, UnicodeDecodeError, configparser.Error):
        if not active and (folder / "active_config").is_file():
            active = (folder / "active_config").read_text(encoding="utf-8").strip()
        read.read(folder / "configurations" / f"config_{active or 'default'}", encoding="utf-8")
    return read.get(section, name, fallback="")
