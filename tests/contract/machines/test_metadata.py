"""The metadata server, accounts, host keys and scripts."""

from __future__ import annotations

import json
import shlex
import threading
from datetime import UTC, datetime, timedelta

from tests.contract.machines.host import Bench, needs_sandbox
from tests.harness.eventually import eventually

ASK = """\
import sys, urllib.error, urllib.request as u
path, method, body, *header = sys.argv[1:]
request = u.Request("http://metadata.google.internal/computeMetadata/v1/" + path,
                    data=body.encode() or None, method=method,
                    headers=dict(h.split("=") for h in header))
try:
    with u.urlopen(request, timeout=30) as answer:
        print(answer.status, answer.headers["Metadata-Flavor"], answer.read().decode())
except u.HTTPError as error:
    print(error.code, error.read().decode())
"""


def ask(
    bench: Bench, path: str, method: str = "GET", body: str = "", flavour: str = "Google"
) -> str:
    header = [f"Metadata-Flavor={flavour}"] if flavour else []
    return bench.ssh("1", shlex.join(["python3", "-c", ASK, path, method, body, *header]))


@needs_sandbox
def test_the_metadata_server_answers_as_on_compute_engine(shared: Bench) -> None:
    shared.answers.attributes["1"]["some-key"] = "some value"
    assert ask(shared, "instance/attributes/some-key") == "200 Google some value"
    assert ask(shared, "instance/id") == "200 Google 1"
    assert ask(shared, "instance/id", flavour="").startswith("403")
    assert ask(shared, "instance/nothing").startswith("404")
    assert ask(shared, "instance/").splitlines() == [
        "200 Google attributes/", "id", "machine-type",
    ]  # fmt: skip
    tree = json.loads(ask(shared, "?recursive=true").removeprefix("200 Google "))
    assert tree["instance"]["machineType"].endswith("n1-standard-4")
    assert tree["instance"]["attributes"]["some-key"] == "some value"
    assert tree["project"]["projectId"] == "p"
    text = ask(shared, "instance/?recursive=true&alt=text")
    assert "attributes/some-key some value" in text


@needs_sandbox
def test_guest_attributes_arrive_outside(shared: Bench) -> None:
    assert ask(shared, "instance/guest-attributes/mine/key", "PUT", "value").startswith("200")
    assert shared.answers.guest_attributes["1"]["mine/key"] == "value"


@needs_sandbox
def test_a_guest_attribute_has_a_size_and_a_plain_name(shared: Bench) -> None:
    big = "python3 -c 'print(\"x\" * 300_000)' >/tmp/big; curl -sS -o /dev/null -w '%{http_code}'"
    url = "http://metadata.google.internal/computeMetadata/v1/instance/guest-attributes/mine/"
    put = "-H Metadata-Flavor:Google -X PUT --data-binary"
    assert shared.ssh("1", f"{big} {put} @/tmp/big {url}big") == "413"
    assert shared.ssh("1", f"{big} {put} x {url}%2e%2e%2fx") == "403"
    assert set(shared.answers.guest_attributes["1"]).isdisjoint({"mine/big", "mine/../x"})
    assert shared.ssh("1", "hostname") == "vm-1"


@needs_sandbox
def test_wait_for_change_returns_when_the_metadata_changes(shared: Bench) -> None:
    shared.answers.attributes["1"]["wait-key"] = "old"
    answers: list[str] = []
    query = "instance/attributes/wait-key?wait_for_change=true&timeout_sec=20"
    thread = threading.Thread(target=lambda: answers.append(ask(shared, query)))
    thread.start()
    waiting = "ss -Htn state established '( sport = :80 )'"
    eventually(lambda: shared.ssh("1", waiting))
    shared.answers.attributes["1"]["wait-key"] = "new"
    shared.host.metadata_changed("1")
    thread.join(15)
    assert answers == ["200 Google new"]
    expired = "instance/attributes/wait-key?wait_for_change=true&timeout_sec=1"
    assert ask(shared, expired) == "200 Google new"


@needs_sandbox
def test_users_come_and_go_with_the_metadata(bench: Bench) -> None:
    bench.boot("2")
    attributes = bench.answers.attributes["2"]
    attributes["ssh-keys"] = f"alice:{bench.public}\nbob.b:{bench.public}\nroot:{bench.public}"
    bench.host.metadata_changed("2")
    eventually(lambda: bench.try_ssh("2", "true", user="bob.b").returncode == 0)
    assert bench.ssh("2", "echo $HOME $USER", user="bob.b") == "/home/bob.b bob.b"
    assert bench.try_ssh("2", "true", user="root").returncode == 255
    assert bench.try_ssh("2", "test -e /usr/local/bin/nvidia-smi").returncode == 1, "it has no GPU"
    attributes["ssh-keys"] = f"bob.b:{bench.public}"
    bench.host.metadata_changed("2")
    eventually(lambda: bench.try_ssh("2", "true", user="alice").returncode == 255)
    assert bench.ssh("2", "id -un", user="bob.b") == "bob.b"


@needs_sandbox
def test_an_expiring_key_stops_working_when_it_expires(bench: Bench) -> None:
    ends = datetime.now(UTC) + timedelta(seconds=4)
    stamp = ends.strftime("%Y-%m-%dT%H:%M:%S+0000")
    kind, blob = bench.public.split()[:2]
    comment = '{"userName":"alice","expireOn":"' + stamp + '"}'
    bench.answers.attributes["2"] = {"ssh-keys": f"alice:{kind} {blob} google-ssh {comment}"}
    bench.boot("2")
    assert bench.ssh("2", "id -un") == "alice"
    eventually(lambda: bench.try_ssh("2", "true").returncode == 255, gap_s=0.5)
    assert datetime.now(UTC) >= ends.replace(microsecond=0)


@needs_sandbox
def test_host_keys_are_published_and_printed(bench: Bench) -> None:
    bench.boot("2")
    serial = eventually(
        lambda: text if "END SSH HOST KEY KEYS" in (text := bench.serial("2")) else ""
    )
    published = bench.answers.guest_attributes["2"]
    assert set(published) == {"hostkeys/ssh-ed25519", "hostkeys/ecdsa-sha2-nistp256"}
    for path, value in published.items():
        assert f"{path.removeprefix('hostkeys/')} {value} root@vm-2" in serial
    bench.host.shutdown("2", 10)
    published.clear()
    bench.boot("2")
    eventually(lambda: bench.serial("2").count("END SSH HOST KEY KEYS") == 2)
    assert published == {}  # once per instance id
    bench.host.shutdown("2", 10)
    bench.boot("3", disk=bench.spec("2").disk)
    assert bench.options("3")
    assert published == {}
    assert bench.answers.guest_attributes["3"]["hostkeys/ssh-ed25519"] not in serial


@needs_sandbox
def test_scripts_run_as_root_with_output_on_the_serial_port(bench: Bench) -> None:
    bench.answers.attributes["2"] = {
        "startup-script": "#!/bin/bash\necho up $(id -u)\nsleep 1000 &\nexit 3",
        "shutdown-script": "echo down $(hostname)",
    }
    bench.boot("2")
    eventually(lambda: "startup-script exit status 3" in bench.serial("2"))
    assert "startup-script: up 0" in bench.serial("2")
    bench.host.shutdown("2", 20)
    assert "shutdown-script: down vm-2" in bench.serial("2")
    assert "shutdown-script exit status 0" in bench.serial("2")
    assert bench.answers.exits == []
