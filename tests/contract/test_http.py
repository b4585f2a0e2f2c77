"""HTTP itself: who may call, batches, parameters, malformed requests, one emulator per home."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable
from email import message_from_bytes
from pathlib import Path

import pytest

from tests.harness.emulator import Emulator
from tests.harness.eventually import eventually
from tests.harness.folders import commands_of

from .conftest import ZONE, Cloud


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example:80"},
        {"Origin": "http://evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Origin": "null", "Content-Type": "text/plain"},
    ],
)
@pytest.mark.parametrize("path", ["/compute/v1/projects/p1/zones", "/emulator/v1/status"])
def test_web_pages_are_turned_away(emulator: Emulator, headers: dict[str, str], path: str) -> None:
    status, answer = emulator.send("GET", path, headers=headers)
    assert status == 403
    assert "not web pages" in answer["error"]["message"]


def test_it_listens_on_loopback_only(emulator: Emulator) -> None:
    port = emulator.about["port"]
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        local, state = line.split()[1], line.split()[3]
        if state == "0A" and int(local.partition(":")[2], 16) == port:
            assert local.partition(":")[0] == "0100007F"
            return
    pytest.fail("no listening socket found")


def test_unknown_paths_and_methods_are_not_found(emulator: Emulator) -> None:
    for method, path in [
        ("GET", "/"),
        ("GET", "/compute/v1/nothing"),
        ("PUT", "/compute/v1/projects/p1/zones"),
        ("GET", "/emulator/v1/nothing"),
    ]:
        status, answer = emulator.send(method, path)
        assert (status, answer["error"]["errors"][0]["reason"]) == (404, "notFound")


def test_what_the_emulator_does_not_do_is_refused_by_name_and_not_tried_again(
    emulator: Emulator,
) -> None:
    path = f"/compute/v1/projects/p1/zones/{ZONE}/instances/vm1/reportHostAsFaulty"
    status, answer = emulator.send("POST", path)
    assert status == 400  # clients repeat calls that end in 5xx
    assert answer["error"]["errors"][0]["reason"] == "notImplemented"
    assert "compute.instances.reportHostAsFaulty" in answer["error"]["message"]


def test_unknown_parameters_are_refused_and_those_of_gcloud_are_not(emulator: Emulator) -> None:
    path = "/compute/v1/projects/p1/zones"
    assert emulator.send("GET", f"{path}?returnPartialSuccess=True&alt=json")[0] == 200
    status, answer = emulator.send("GET", f"{path}?validateOnly=true")
    assert status == 400
    assert 'Unknown name "validateOnly"' in answer["error"]["message"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "Invalid JSON payload received."),
        (b"[]", "Expected an object"),
        (b'"x"', "Expected an object"),
        (b'{"labels":' * 2000 + b"1" + b"}" * 2000, "nested too deeply"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"name": "vm1", "description": "\xff"}', "Invalid JSON payload received."),
    ],
)
def test_a_malformed_body_is_refused(emulator: Emulator, body: bytes, message: str) -> None:
    path = f"/compute/v1/projects/p1/zones/{ZONE}/instances"
    status, answer = emulator.send("POST", path, body)
    assert status == 400
    assert message in answer["error"]["message"]


def test_a_project_id_must_look_like_one(emulator: Emulator) -> None:
    status, answer = emulator.send("GET", "/compute/v1/projects/..%2f..%2fetc/zones")
    assert status == 400
    assert "Invalid value for field 'project'" in answer["error"]["message"]


def test_a_64_bit_number_may_come_as_a_number_and_null_is_absent(cloud: Cloud) -> None:
    body = cloud.body(description=None, labels={})
    body["disks"][0]["initializeParams"]["diskSizeGb"] = 33
    path = f"/compute/v1/projects/{cloud.project}/zones/{ZONE}/instances"
    cloud.emulator.admin("POST", "faults", {"kind": "slow-boot", "seconds": 86_400, "calls": 1})
    status, operation = cloud.emulator.send("POST", path, body)
    assert status == 200, operation
    eventually(lambda: cloud.emulator.admin("GET", "faults") == {"faults": []})
    instance = cloud.get()
    assert instance["disks"][0]["diskSizeGb"] == "33"
    assert "description" not in instance


def test_a_batch_answers_each_part_by_its_id(emulator: Emulator) -> None:
    parts = {
        "<a+1>": "GET /compute/v1/projects/p1/zones/mars-a HTTP/1.1\r\n\r\n",
        "<a+2>": f"GET /compute/v1/projects/p1/zones/{ZONE}?alt=json HTTP/1.1\r\n"
        "Accept: application/json\r\n\r\n",
    }
    body = "".join(
        f"--b\r\nContent-Type: application/http\r\nMIME-Version: 1.0\r\nContent-ID: {name}\r\n\r\n"
        f"{text}\r\n"
        for name, text in parts.items()
    )
    process = subprocess.run(
        [
            *emulator.curl,
            "-i",
            "-XPOST",
            "-H",
            'Content-Type: multipart/mixed; boundary="b"',
            "--data-binary",
            "@-",
            f"{emulator.url}/batch/compute/v1",
        ],
        input=(body + "--b--\r\n").encode(),
        capture_output=True,
        check=True,
    )
    reply = message_from_bytes(process.stdout.partition(b"\r\n")[2])
    answers = {}
    for part in reply.get_payload():
        head, _, content = str(part.get_payload()).replace("\r\n", "\n").partition("\n\n")
        answers[part["Content-ID"]] = (head.split()[1], json.loads(content))
    assert answers["<response-a+1>"][0] == "404"
    assert answers["<response-a+2>"][0] == "200"
    assert answers["<response-a+2>"][1]["name"] == ZONE


def test_there_is_one_emulator_per_home(emulator: Emulator) -> None:
    second = subprocess.run(
        emulator.command(), capture_output=True, text=True, timeout=30, check=False
    )
    assert second.returncode == 4
    assert f"(pid {emulator.about['pid']})" in second.stderr
    assert "Traceback" not in second.stderr
    mode = emulator.home.stat().st_mode & 0o7777
    assert mode == (0o710 if os.geteuid() == 0 else 0o700), "machines still get to their disks"


def test_a_clean_stop_removes_its_record_and_ends_with_0(
    own_emulator: Callable[..., Emulator],
) -> None:
    emulator = own_emulator()
    port = emulator.about["port"]
    Cloud(emulator, "p1").create()

    def is_gone() -> None:
        assert emulator.about == {}
        eventually(lambda: commands_of(emulator.home) == [])

    assert emulator.stop(signal.SIGTERM) == 0
    is_gone()

    for words, message in (
        (["--clock", "sundial"], "unknown clock 'sundial'"),
        (["--clock", "scaled:-1"], "cannot run"),
    ):
        assert message in refused(emulator, *words)

    # a taken port is an error only when it was asked for
    with socket.create_server(("127.0.0.1", port)):
        refused(emulator, "--port", str(port))
        assert emulator.start().about["port"] != port
    assert emulator.stop(signal.SIGINT) == 0
    is_gone()

    emulator.start()
    assert emulator.admin("POST", "stop")["stopping"] is True
    assert emulator.process is not None
    assert emulator.process.wait(30) == 0
    is_gone()


def refused(emulator: Emulator, *words: str) -> str:
    """What an emulator says that does not start with these options."""
    done = subprocess.run(
        emulator.command(*words), capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    return done.stderr
