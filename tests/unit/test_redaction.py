"""A trace that may be shown to others names nobody, and keeps the shape of what was said."""

from __future__ import annotations

import io
import json

import pytest

from vmctl.cloud.recorder import Recorder
from vmctl.domain.google.redaction import ADDRESS, EMAIL, KEY, NUMBER, Redaction

OURS = Redaction(project="ada-lovelace-42", owner="ada", login="ada_l")
BLOB = "AAAAC3NzaC1lZDI1NTE5AAAAIHq0000000000000000000000000000000000000000abcd"


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("projects/ada-lovelace-42/zones/z", "projects/a-project/zones/z"),
        ("permission for 'projects/123456789012'", f"permission for 'projects/{NUMBER}'"),
        ("not used in project 123456789012 before", f"not used in project {NUMBER} before"),
        ("overview?project=123456789012 then", f"overview?project={NUMBER} then"),
        ("enable billing on project #123456789012", f"enable billing on project #{NUMBER}"),
        ("organizations/998877665544", f"organizations/{NUMBER}"),
        ("ada.lovelace+gcp@uni.example.edu", EMAIL),
        ("123456789012-compute@developer.gserviceaccount.com", EMAIL),
        (f"ada_l:ssh-ed25519 {BLOB} google-ssh {{}}", f"someone:ssh-ed25519 {KEY} google-ssh {{}}"),
        (BLOB, KEY),
        ("ada-vmctl-selftest", "owner-vmctl-selftest"),
        ("(labels.vmctl-owner = ada)", "(labels.vmctl-owner = owner)"),
        ("34.76.120.9", ADDRESS),
        ("2600:1900:4010:1:0:0:0:1", "2001:db8::1"),
        ("Bearer ya29.a0AfH6SMBx", "TOKEN"),
    ],
)
def test_who_it_was_is_taken_out(said: str, kept: str) -> None:
    assert OURS.text(said) == kept


@pytest.mark.parametrize(
    "said",
    [
        "10.132.0.2",
        "0.0.0.0/0",
        "127.0.1.3",
        "169.254.169.254",
        "adam and canada",  # the owner's name inside other words
        "2026-06-08T12:11:17.000-07:00",
        "operation-1787000000000-5f3c2b1a0d9e8-0a1b2c3d-4e5f6071",
        "pytorch-2-9-cu129-ubuntu-2404-nvidia-580",
        "be91a1e6-e416-48fa-a358-5e02c995626f",
        "projects/debian-cloud",
    ],
)
def test_what_names_nobody_stays(said: str) -> None:
    assert OURS.text(said) == said


def test_the_project_that_is_part_of_nothing_else_goes_before_the_owner() -> None:
    named = Redaction(project="ada-1", owner="ada", login="ada")
    assert named.text("projects/ada-1 by ada") == "projects/a-project by owner"


def test_what_vmctl_writes_itself_stays_when_the_login_is_called_so() -> None:
    assert Redaction(project="p-1", owner="x", login="vmctl").text("vmctl-owner") == "vmctl-owner"


def test_a_value_keeps_its_shape() -> None:
    said = {
        "kind": "compute#project",
        "id": "123456789012",
        "quotas": [{"metric": "CPUS", "limit": 24.0, "usage": 1}],
        "on": True,
        "none": None,
        "contents": "a whole boot's log of ada's",
    }
    assert OURS.value(said) == {
        "kind": "compute#project",
        "id": NUMBER,
        "quotas": [{"metric": "CPUS", "limit": 24.0, "usage": 1}],
        "on": True,
        "none": None,
        "contents": "(not kept)",
    }


def test_what_others_do_in_the_project_is_redacted() -> None:
    ours = Redaction("p-1234", owner="ada", own="vmctl-selftest")
    link = "https://www.googleapis.com/compute/v1/projects/p-1234/zones/z/instances/"
    operation = {"kind": "compute#operation", "targetLink": f"{link}ada-vmctl-selftest"}
    others = {"kind": "compute#operation", "targetLink": f"{link}bobs-secret-plan"}
    assert "owner-vmctl-selftest" in str(ours.value(operation))
    assert "bob" not in str(ours.value(others))


@pytest.mark.parametrize(
    ("key", "value", "kept"),
    [
        ("enable-oslogin", "TRUE", "TRUE"),
        ("startup-script", "export TOKEN=hunter2", "(not kept)"),
        ("startup-script", "curl …/vmctl-selftest/boot", "curl …/vmctl-selftest/boot"),
        ("database-password", "hunter2", "(not kept)"),
        (
            "ssh-keys",
            f"bob:ssh-rsa {BLOB} bob@home.example.org\n"
            f'eve:ssh-rsa {BLOB} google-ssh {{"userName":"eve","expireOn":"2026-12-01"}}',
            f"someone:ssh-rsa {KEY} {EMAIL}\n"
            f'someone:ssh-rsa {KEY} google-ssh {{"userName":"someone","expireOn":"2026-12-01"}}',
        ),
    ],
)
def test_metadata_is_nobodys_business(key: str, value: str, kept: str) -> None:
    assert OURS.value({"key": key, "value": value}) == {"key": key, "value": kept}


class Answer:
    """What httplib2 answers with, as far as a witness looks."""

    status = 200


class Service:
    """A connection that answers every request the same way."""

    timeout = 7

    def request(self, uri: str, **more: object) -> tuple[Answer, bytes]:
        return Answer(), b'{"user": "ada@example.org", "status": "DONE"}'


def test_a_call_is_written_down_without_headers_and_passed_on_as_it_is() -> None:
    stream = io.StringIO()
    witnessed = Recorder(stream, OURS, {"service": "x"}).wrap(Service(), "ada-lovelace-42")
    response, content = witnessed.request(
        "https://compute.googleapis.com/compute/v1/projects/ada-lovelace-42/zones?alt=json",
        method="POST",
        body='{"name": "ada-vm"}',
        headers={"authorization": "Bearer ya29.secret"},
    )
    assert (response.status, b"ada@example.org" in content) == (200, True)
    assert witnessed.timeout == 7
    head, call = map(json.loads, stream.getvalue().splitlines())
    assert head == {"trace": 1, "service": "x"}
    assert call == {
        "method": "POST",
        "path": "projects/a-project/zones",
        "query": {"alt": "json"},
        "request": {"name": "owner-vm"},
        "status": 200,
        "response": {"user": EMAIL, "status": "DONE"},
    }
