"""Google's refusals, the network's and the credentials' become errors with a next step."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from pathlib import Path
from typing import Any

import httplib2
import pytest
from google.auth import exceptions as auth
from googleapiclient.errors import HttpError, UnknownFileType
from hypothesis import given
from hypothesis import strategies as st

from vmctl.cloud.compute.operations import operation_of
from vmctl.cloud.errors import failure_of_body, map_google_errors
from vmctl.domain import errors
from vmctl.domain.errors import AccessDenied, NoCapacity, Unreachable, VmctlError
from vmctl.domain.google.api_errors import Kind, Quota, as_error, classify

DATA = Path(__file__).resolve().parents[1] / "data" / "compute"
HTTP_ERRORS = json.loads((DATA / "http_errors.json").read_text(encoding="utf-8"))


def saved(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((DATA / name).read_text(encoding="utf-8"))
    return loaded


def content(row: dict[str, Any]) -> bytes:
    body = row["body"]
    return (body if isinstance(body, str) else json.dumps(body)).encode()


@pytest.mark.parametrize("row", HTTP_ERRORS, ids=[row["name"] for row in HTTP_ERRORS])
def test_an_http_error_has_a_kind_and_a_next_step(row: dict[str, Any]) -> None:
    failure = failure_of_body(row["status"], content(row))
    assert failure.kind == row["kind"]
    with pytest.raises(VmctlError) as refusal, map_google_errors("p1"):
        raise HttpError(httplib2.Response({"status": row["status"]}), content(row))
    error = refusal.value
    assert type(error) is getattr(errors, row["error"])
    assert row["says"] in error.message
    assert row["hint"] in error.hint


def test_a_stockout_is_recognised_and_names_other_zones() -> None:
    operation = operation_of(saved("operation_stockout_with_details.json"))
    assert operation.is_done
    assert (operation.target, operation.zone, operation.kind) == ("vm1", "us-central1-b", "insert")
    failure = operation.failure
    assert failure is not None
    assert failure.kind is Kind.STOCKOUT
    assert failure.zones_available == ("us-central1-a", "us-central1-f")
    assert failure.message.startswith("A n1-standard-4 VM instance with 1 nvidia-tesla-t4")
    assert isinstance(as_error(failure, project="p"), NoCapacity)


def test_a_stockout_that_names_no_zones_has_no_hint() -> None:
    operation = saved("operation_stockout_with_details.json")
    for detail in operation["error"]["errors"][0]["errorDetails"]:
        detail.get("errorInfo", {}).get("metadatas", {}).pop("zonesAvailable", None)
    failure = operation_of(operation).failure
    assert failure is not None
    assert failure.zones_available == ()


def test_a_quota_failure_names_metric_limit_region_and_page() -> None:
    failure = operation_of(saved("operation_quota_region.json")).failure
    assert failure is not None
    assert failure.kind is Kind.QUOTA
    assert failure.quota == Quota("NVIDIA_T4_GPUS", 1.0, "europe-west1")
    error = as_error(failure, project="p1")
    assert isinstance(error, NoCapacity)
    assert "NVIDIA_T4_GPUS" in error.message
    assert "limit 1 in europe-west1" in error.message
    assert "https://console.cloud.google.com/iam-admin/quotas?project=p1" in error.hint


@pytest.mark.parametrize(
    ("code", "message", "kind"),
    [
        ("ZONE_RESOURCE_POOL_EXHAUSTED", "… Try a different zone, or try again later.", "stockout"),
        ("GPU_STOCKOUT", "", "stockout"),
        ("SOMETHING", "… (state:STOCKOUT, …)", "stockout"),
        ("UNSUPPORTED_OPERATION", "Instance was preempted", "stockout"),
        ("QUOTA_EXCEEDED", "Quota 'CPUS' exceeded.  Limit: 8.0 in region europe-west1.", "quota"),
        ("RESOURCE_NOT_FOUND", "", "stockout"),
        ("RESOURCE_NOT_READY", "", "transient"),
        ("RESOURCE_OPERATION_RATE_EXCEEDED", "", "transient"),
        ("INVALID_FIELD_VALUE", "", "permanent"),
        ("NEVER_SEEN", "something else", "unknown"),
    ],
)
def test_operation_codes_have_a_kind(code: str, message: str, kind: str) -> None:
    assert classify(code, message).kind == kind


def test_an_operation_s_own_code_that_is_not_known_is_a_riddle() -> None:
    assert classify("NEVER_SEEN", "?", http_status=400).kind is Kind.UNKNOWN
    assert classify("INVALID_USAGE", "?", http_status=400).kind is Kind.PERMANENT
    assert classify("invalid", "?", http_status=400).kind is Kind.PERMANENT
    assert classify("NEVER_SEEN", "?", http_status=403).kind is Kind.PERMANENT


def test_an_unfinished_operation_and_a_good_one_have_no_failure() -> None:
    running = {"name": "op", "status": "RUNNING", "statusMessage": "preparing image"}
    assert not operation_of(running).is_done
    assert operation_of(running).status_message == "preparing image"
    assert operation_of({"name": "op", "status": "DONE"}).failure is None


NOT_FOUND = auth.DefaultCredentialsError("Your default credentials were not found. To set up …")
FOREIGN: list[tuple[Exception, type[VmctlError], str]] = [
    (NOT_FOUND, AccessDenied, "gcloud auth application-default login"),
    (auth.DefaultCredentialsError("File /x.json was not found."), AccessDenied, "Log in"),
    (auth.MalformedError("bad file"), AccessDenied, "Log in again"),
    (auth.RefreshError("invalid_grant: Token has been expired"), AccessDenied, "Log in again"),
    (auth.ReauthFailError("reauth"), AccessDenied, "Log in again"),
    (auth.TransportError("no route"), Unreachable, "network"),
    (auth.GoogleAuthError("odd"), AccessDenied, "Log in"),
    (httplib2.ServerNotFoundError("Unable to find the server"), Unreachable, "network"),
    (ConnectionRefusedError(111, "Connection refused"), Unreachable, "network"),
    (ConnectionResetError(104, "Connection reset by peer"), Unreachable, "network"),
    (TimeoutError("timed out"), Unreachable, "network"),
    (socket.gaierror(-2, "Name or service not known"), Unreachable, "network"),
    (ssl.SSLError(1, "certificate verify failed"), Unreachable, "network"),
    (http.client.IncompleteRead(b"x", 9), Unreachable, "network"),
    (http.client.BadStatusLine("?"), Unreachable, "network"),
    (UnknownFileType("odd"), VmctlError, ""),
]


@pytest.mark.parametrize(
    ("raised", "expected", "hint"),
    FOREIGN,
    ids=lambda v: getattr(v, "__name__", None) or type(v).__name__,
)
def test_foreign_errors_become_ours(
    raised: Exception,
    expected: type[VmctlError],
    hint: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    with pytest.raises(VmctlError) as refusal, map_google_errors("p1"):
        raise raised
    assert type(refusal.value) is expected
    assert hint in refusal.value.hint
    assert "\n" not in refusal.value.message


def test_every_error_of_googles_libraries_is_translated() -> None:
    """A class that one of the libraries adds later must not pass through."""
    import googleapiclient.errors as api

    def subclasses(base: type) -> set[type]:
        return {base}.union(*(subclasses(child) for child in base.__subclasses__()))

    for base in (
        auth.GoogleAuthError,
        httplib2.HttpLib2Error,
        api.Error,
    ):
        for kind in subclasses(base) - subclasses(HttpError):
            error = kind.__new__(kind)
            error.args = ("said",)
            with pytest.raises(VmctlError), map_google_errors("p1"):
                raise error


def test_our_own_errors_pass_through() -> None:
    with pytest.raises(NoCapacity), map_google_errors("p1"):
        raise NoCapacity("ours")


def test_a_local_endpoint_points_to_the_emulator() -> None:
    with (
        pytest.raises(Unreachable) as refusal,
        map_google_errors("p", "http://127.0.0.1:9/compute/v1/"),
    ):
        raise ConnectionRefusedError(111, "Connection refused")
    assert "vmctl emulator status" in refusal.value.hint


# code at once, its HTTP status, code of an operation, message, kind, words of the hint
BOTH_FORMS = (
    [
        (
            "conditionNotMet",
            412,
            "CONDITION_NOT_MET",
            f"Constraint constraints/compute.{name} violated for project {{}}.",
            Kind.PERMANENT,
            hint,
        )
        for name, hint in (
            ("requireOsLogin", "org-policies"),
            ("vmExternalIpAccess", "--no-external-address"),
            ("trustedImageProjects", "exception"),
        )
    ]
    + [
        (
            "notFound",
            404,
            "RESOURCE_NOT_FOUND",
            f"The resource 'projects/{{}}/{what}' was not found",
            Kind.PERMANENT,
            hint,
        )
        for what, hint in (
            ("global/networks/n", "[vm] network"),
            ("regions/r/subnetworks/s", "[vm] network"),
            ("global/images/i", "--image"),
        )
    ]
    + [
        (
            "quotaExceeded",
            403,
            "QUOTA_EXCEEDED",
            "Quota 'NVIDIA_T4_GPUS' exceeded.  Limit: 1.0 in region europe-west1. {}",
            Kind.QUOTA,
            "quotas",
        ),
        (
            "ZONE_RESOURCE_POOL_EXHAUSTED",
            503,
            "ZONE_RESOURCE_POOL_EXHAUSTED",
            "The zone 'projects/{}/zones/z' does not have enough resources available.",
            Kind.STOCKOUT,
            "another zone",
        ),
    ]
)


@pytest.mark.parametrize(("at_once", "status", "later", "text", "kind", "hint"), BOTH_FORMS)
@given(name=st.from_regex(r"[a-z][a-z0-9-]{4,20}[a-z0-9]", fullmatch=True), stated=st.booleans())
def test_an_operations_error_means_the_same_as_one_at_once(
    at_once: str, status: int, later: str, text: str, kind: Kind, hint: str, name: str, stated: bool
) -> None:
    message = text.format(name)
    body = {"error": {"code": status, "message": message, "errors": [{"reason": at_once}]}}
    reply = {"name": "op", "status": "DONE"} | ({"httpErrorStatusCode": status} if stated else {})
    errors_of = {"errors": [{"code": later, "message": message}]}
    first = failure_of_body(status, json.dumps(body).encode())
    second = operation_of({**reply, "error": errors_of}).failure
    assert second is not None
    assert first.kind is second.kind is kind
    one, other = (as_error(failure, project="p1") for failure in (first, second))
    assert (type(one), one.message, one.hint) == (type(other), other.message, other.hint)
    assert hint in one.hint
