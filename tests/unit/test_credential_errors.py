"""Every kind of Google credentials, with everything that can be wrong: sentence, cure, exit code.

The credentials are real ones of Google's library; their login services answer here.
"""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest

from tests.harness.credentials import service_account, serving_tokens
from vmctl.cloud.credentials import find_credentials, prove
from vmctl.domain.errors import AccessDenied, Unreachable, VmctlError, exit_code_of
from vmctl.domain.google.credential_errors import Fault, Login, fault_of, login_error

CHOSEN = "GOOGLE_APPLICATION_CREDENTIALS"
SILENT = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with serving_tokens() as url:
        yield url


@pytest.fixture(scope="module")
def key() -> dict[str, str]:
    return {**service_account(), "project_id": "p1"}


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("GOOGLE_CLOUD_PROJECT", "GCLOUD_PROJECT", CHOSEN):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "gcloud"))
    monkeypatch.setenv("NO_GCE_CHECK", "true")


def document(kind: str, url: str, key: dict[str, str], subject: Path) -> dict[str, object]:
    if kind == "user":
        login = {"type": "authorized_user", "client_id": "a", "client_secret": "b"}
        return {**login, "refresh_token": "c", "token_uri": url}
    if kind == "service account":
        return {**key, "token_uri": url}
    subject.write_text("subject")
    external: dict[str, object] = {
        "type": "external_account",
        "audience": "//iam.googleapis.com/projects/7/locations/global/workloadIdentityPools/p/"
        "providers/q",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": url,
        "credential_source": {"file": str(subject)},
    }
    if kind == "impersonated":
        root = url.rpartition("/")[0]
        external["token_url"] = f"{root}/token/t"
        external["service_account_impersonation_url"] = f"{url}:generateAccessToken"
    return external


USER = "gcloud auth application-default login"
CELLS = [
    ("user", "revoked", 5, "expired or was revoked", USER),
    ("user", "expired", 5, "has expired", USER),
    ("user", "denied", 5, "may not get an access token", USER),
    ("service account", "deleted-key", 5, "Invalid JWT Signature", "keys create FILE"),
    ("service account", "clock", 5, "The clock of this computer", "Set the clock"),
    ("service account", "denied", 5, "may not get", "Ask the administrator"),
    ("external account", "stale", 5, "has expired", "Renew the token"),
    ("external account", "target", 5, "may not get", "workload identity pool"),
    ("external account", "denied", 5, "may not get", "workload identity pool"),
    ("impersonated", "acting", 5, "getAccessToken", "roles/iam.serviceAccountTokenCreator"),
    *(
        (kind, answer, 7, text, hint)
        for kind, (answer, text, hint) in product(
            ("external account", "impersonated"),
            [("busy", "temporarily unavailable", "Try again")],
        )
    ),
    *(
        (kind, answer, 7, text, hint)
        for kind, (answer, text, hint) in product(
            ("user", "service account", "external account", "impersonated"),
            [
                ("silent", "does not answer", "Check the network"),
                ("page", "Sign in to the guests' network", "in a browser"),
                ("forbidden-page", "Blocked by policy", "in a browser"),
            ],
        )
    ),
]


@pytest.mark.parametrize(("kind", "answer", "code", "text", "hint"), CELLS)
def test_a_login_that_fails_names_cause_and_cure(
    kind: str,
    answer: str,
    code: int,
    text: str,
    hint: str,
    server: str,
    key: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = f"{SILENT}/{answer}" if answer == "silent" else f"{server}/{answer}"
    file = tmp_path / "file.json"
    # the one address that the library takes from nowhere else
    monkeypatch.setattr("google.oauth2.credentials._GOOGLE_OAUTH2_TOKEN_ENDPOINT", url)
    file.write_text(json.dumps(document(kind, url, key, tmp_path / "subject")))
    monkeypatch.setenv(CHOSEN, str(file))
    with pytest.raises(VmctlError) as refusal:
        prove(find_credentials("given"))
    error = refusal.value
    assert exit_code_of(error) == code
    assert text in error.message
    assert hint in error.hint
    assert "\n" not in error.message
    assert "Error code" not in error.message
    if error.exit_code == 5 and USER in error.hint:
        assert f"nset {CHOSEN}" in error.hint  # logging in alone would change nothing


def test_a_subject_token_that_is_missing_is_named(
    server: str, key: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject, file = tmp_path / "subject", tmp_path / "file.json"
    file.write_text(json.dumps(document("external account", f"{server}/t", key, subject)))
    subject.unlink()
    monkeypatch.setenv(CHOSEN, str(file))
    # with a project at hand, nobody is asked for one: the credentials are not even used
    identity = find_credentials("given")
    assert identity.project == "given"
    with pytest.raises(AccessDenied, match=r"is missing: File .*subject") as refusal:
        prove(identity)
    assert "credential_source" in refusal.value.hint


@pytest.mark.parametrize("content", [None, "{bad", '{"type": "unheard_of"}', "[]"])
def test_a_chosen_file_that_cannot_be_used_is_named(
    content: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file.json"
    if content is not None:
        file.write_text(content)
    monkeypatch.setenv(CHOSEN, str(file))
    with pytest.raises(AccessDenied, match="credentials file") as refusal:
        find_credentials("given")
    assert CHOSEN in refusal.value.hint


@pytest.mark.parametrize(
    ("said", "text", "hint"),
    [
        (None, "no Google credentials", USER),
        ("You do not currently have an active account selected.", "no Google credentials", USER),
        ("Reauthentication failed. cannot prompt.", "Reauthentication failed", "gcloud auth login"),
    ],
)
def test_gclouds_own_refusal_is_passed_on(
    said: str | None, text: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if said is not None:
        gcloud = tmp_path / "gcloud"
        gcloud.write_text(
            f"#!/bin/sh\necho 'ERROR: (gcloud.auth.print-access-token) {said}' >&2\n"
            "echo 'Please run:' >&2; echo '  $ gcloud auth login' >&2\nexit 1\n"
        )
        gcloud.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/nowhere" if said is None else f"{tmp_path}:/bin")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "config"))
    with pytest.raises(AccessDenied, match=text) as refusal:
        find_credentials("given")
    assert hint in refusal.value.hint


@pytest.mark.parametrize(("login", "fault", "chosen"), [*product(Login, Fault, (True, False))])
def test_every_cell_has_a_sentence_a_cure_and_an_exit_code(
    login: Login, fault: Fault, chosen: bool
) -> None:
    error = login_error(login, fault, "words.", chosen=chosen, account="a@b", host="h")
    network = {Fault.UNREACHABLE, Fault.UNAVAILABLE, Fault.BLOCKED, Fault.UNTRUSTED}
    assert isinstance(error, Unreachable if fault in network else AccessDenied)
    assert "words" in error.message
    assert error.hint
    assert not set("{}") & set(error.message + error.hint)
    if chosen and USER in error.hint and login is not Login.MACHINE:
        assert f"nset {CHOSEN}" in error.hint


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_login_service_in_trouble_is_never_the_users_fault(status: int) -> None:
    assert fault_of("invalid_grant", status) is Fault.UNAVAILABLE


class Metadata(http.server.BaseHTTPRequestHandler):
    """A metadata server: the machine has no service account, or Google gives it no token."""

    refusal: int | None = None

    def do_GET(self) -> None:
        is_token = self.path.partition("?")[0].endswith("/token")
        status = self.refusal if is_token and self.refusal else 200
        self.send_response(status)
        self.send_header("Metadata-Flavor", "Google")
        is_text = "project-id" in self.path or self.path.endswith("universe-domain")
        self.send_header("Content-Type", "text/plain" if is_text else "application/json")
        self.end_headers()
        account = {"email": "vm@p1.iam.gserviceaccount.com", "aliases": ["default"], "scopes": []}
        token = {"access_token": "t", "expires_in": 3600, "token_type": "Bearer"}
        body = token if is_token else account
        self.wfile.write(b"from-the-machine" if is_text else json.dumps(body).encode())

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.mark.parametrize(
    ("refusal", "code", "text"),
    [(None, 0, ""), (404, 5, "This machine's service account"), (403, 5, "This machine's")],
)
def test_the_service_account_of_a_machine_of_googles(
    refusal: int | None, code: int, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from google.auth.compute_engine import _metadata

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    at = f"127.0.0.1:{server.server_port}"
    monkeypatch.setattr(Metadata, "refusal", refusal)
    monkeypatch.delenv("NO_GCE_CHECK")
    monkeypatch.setenv("GCE_METADATA_HOST", at)
    monkeypatch.setenv("GCE_METADATA_IP", at)
    for name, value in (("_GCE_METADATA_HOST", at), ("_NO_GCE_CHECK", False)):
        monkeypatch.setattr(_metadata, name, value)  # read when it is imported
    try:
        found = find_credentials()
        assert found.project == "from-the-machine"
        if not code:
            prove(found)
            return
        with pytest.raises(VmctlError) as refused:
            prove(found)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert exit_code_of(refused.value) == code
    assert text in refused.value.message
    assert "service account with the scope cloud-platform" in refused.value.hint
