"""Between here and Google: a company's CA, and proxies that want a password, refuse or are off."""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import http.server
import ipaddress
import select
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.harness.sshd import free_port
from vmctl.cloud.authorized import Connection
from vmctl.cloud.connection import CA_VARIABLES
from vmctl.domain.errors import InvalidInput, Unreachable

PROXIES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
LOGIN = "ann:p@ss/w%rd"  # as it is sent; in an address it is percent-encoded
WRITTEN = "ann:p%40ss%2Fw%25rd"


@dataclass
class Company:
    """A network: a site whose certificate the company's CA has signed, and a proxy."""

    url: str
    ca: Path
    other_ca: Path
    proxy: str  # HOST:PORT
    asked: list[tuple[str, str]] = field(default_factory=list)  # target and login of each CONNECT
    answer: str = "200 OK"  # of the proxy

    def get(self) -> int:
        response, _ = Connection(10).request(self.url)
        return int(response.status)


class Site(http.server.BaseHTTPRequestHandler):
    """Answers every request with a little JSON."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *args: object) -> None:
        """Say nothing."""


def make_ca(file: Path) -> ec.EllipticCurvePrivateKey:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = signed(file.stem, key, file.stem, key, is_ca=True)
    file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return key


def signed(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: str,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    is_ca: bool = False,
) -> x509.Certificate:
    def named(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(named(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
    )
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    return made.add_extension(
        x509.SubjectAlternativeName([address]), critical=False
    ).sign(issuer_key, hashes.SHA256())  # fmt: skip


@contextlib.contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Company]:
    folder = tmp_path_factory.mktemp("company")
    ca_key = make_ca(folder / "company.pem")
    make_ca(folder / "other.pem")
    key = ec.generate_private_key(ec.SECP256R1())
    own = signed("site", key, "company", ca_key)
    pem = folder / "site.pem"
    pem.write_bytes(
        own.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    site = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    site.socket = context.wrap_socket(site.socket, server_side=True, do_handshake_on_connect=False)

    class Relay(http.server.BaseHTTPRequestHandler):
        """A proxy for HTTPS: it sees whom it leads where, and nothing else."""

        def do_CONNECT(self) -> None:
            login = self.headers.get("Proxy-Authorization", "").removeprefix("Basic ")
            made.asked.append((self.path, base64.b64decode(login).decode()))
            self.wfile.write(f"HTTP/1.1 {made.answer}\r\n\r\n".encode())
            if not made.answer.startswith("200"):
                return
            host, _, port = self.path.rpartition(":")
            with socket.create_connection((host, int(port))) as far:
                ends = [self.connection, far]
                while readable := select.select(ends, [], [], 10)[0]:
                    for end in readable:
                        data = end.recv(1 << 16)
                        if not data:
                            return
                        (far if end is self.connection else self.connection).sendall(data)

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    proxy = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Relay)
    url = f"https://127.0.0.1:{site.server_port}/"
    at = f"127.0.0.1:{proxy.server_port}"
    made = Company(url, folder / "company.pem", folder / "other.pem", at)
    with serving(site), serving(proxy):
        yield made


@pytest.fixture
def company(network: Company, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Company:
    """The network, and an environment that says nothing of it."""
    for name in (*CA_VARIABLES, *PROXIES, "NO_PROXY", "no_proxy", "CLOUDSDK_ACTIVE_CONFIG_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    network.asked.clear()
    network.answer = "200 OK"
    return network


@pytest.mark.parametrize("variable", CA_VARIABLES)
def test_a_company_ca_counts_by_whatever_variable_it_is_named(
    company: Company, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, str(company.ca))
    assert company.get() == 200


def test_gclouds_own_setting_of_a_ca_counts(company: Company, tmp_path: Path) -> None:
    (tmp_path / "configurations").mkdir()
    text = f"[core]\ncustom_ca_certs_file = {company.ca}\n"
    (tmp_path / "configurations/config_default").write_text(text)
    assert company.get() == 200


def test_an_unknown_ca_is_named_with_the_setting_that_works(
    company: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Unreachable, match="is not signed by an authority trusted here") as told:
        company.get()
    assert "export SSL_CERT_FILE=" in told.value.hint
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(company.other_ca))
    with pytest.raises(Unreachable) as told:
        company.get()
    assert f"{company.other_ca} (REQUESTS_CA_BUNDLE) does not hold its CA" in told.value.hint


@pytest.mark.parametrize("text", ["", "no certificate"])
def test_a_file_without_certificates_is_named(
    company: Company, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str
) -> None:
    (tmp_path / "ca.pem").write_text(text)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    with pytest.raises(InvalidInput, match="cannot be read: it holds no PEM") as told:
        company.get()
    assert told.value.hint == "Correct or unset SSL_CERT_FILE."


@pytest.mark.parametrize("variable", PROXIES)
@pytest.mark.parametrize("scheme", ["http://", ""])
def test_a_proxy_is_used_with_its_password_decoded(
    company: Company, monkeypatch: pytest.MonkeyPatch, variable: str, scheme: str
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(company.ca))
    monkeypatch.setenv(variable, f"{scheme}{WRITTEN}@{company.proxy}")
    assert company.get() == 200
    assert company.asked == [(company.url[8:-1], LOGIN)]


def test_what_needs_no_proxy_is_asked_directly(
    company: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(company.ca))
    monkeypatch.setenv("HTTPS_PROXY", company.proxy)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert company.get() == 200
    assert company.asked == []


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        ("403 Forbidden", "Ask its administrator to allow 127.0.0.1"),
        ("407 Proxy Authentication Required", "special characters are percent-encoded"),
    ],
)
def test_a_refusal_of_the_proxys_is_the_proxys(
    company: Company, monkeypatch: pytest.MonkeyPatch, answer: str, hint: str
) -> None:
    company.answer = answer
    monkeypatch.setenv("https_proxy", f"ann:secret@{company.proxy}")
    with pytest.raises(Unreachable) as told:
        company.get()
    assert f"The proxy {company.proxy} (https_proxy) refuses" in told.value.message
    assert answer in told.value.message
    assert hint in told.value.hint
    assert "secret" not in f"{told.value.message} {told.value.hint}"


def test_a_proxy_that_is_off_or_none_is_named(
    company: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("HTTPS_PROXY", nobody)
    with pytest.raises(ConnectionError, match=rf"the proxy {nobody} \(HTTPS_PROXY\)"):
        company.get()
    monkeypatch.setenv("HTTPS_PROXY", "socks5://127.0.0.1:1080")
    with pytest.raises(InvalidInput, match="The proxy in HTTPS_PROXY cannot be used"):
        company.get()
