"""What each command really prints under --json is what its schema says, and nothing else."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.harness.cloud import LocalCloud
from tests.harness.laptop import BASE, Laptop, project
from vmctl.cli.json_results import RESULTS, schema_of

TOML = (
    BASE.replace("[vm]\n", '[vm]\ngpu = "none"\n')
    + '[jobs.train]\ncommand = "echo hello > out.txt; echo done"\noutputs = ["out.txt"]\n'
    + '[jobs.long]\ncommand = "sleep 600"\n'
    + '[services.page]\nport = 8123\ncommand = "python3 -m http.server {port} --bind 127.0.0.1"\n'
)


def strict(schema: Any) -> Any:
    """The same schema, refusing fields that it does not name."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items()}
    if "properties" in schema and isinstance(schema.get("required"), list):
        made.setdefault("additionalProperties", False)
    return made


@pytest.fixture(scope="module")
def cloud() -> Iterator[LocalCloud]:
    with LocalCloud.opened("json") as made:
        project(made.folder, TOML, {"a.txt": "a"})
        yield made
        made("tunnel", "stop", "all", code=None)
        made("down", "--delete", "--yes", code=None)


@pytest.fixture(scope="module")
def up(cloud: LocalCloud) -> Any:
    return document(cloud, "up")


@pytest.fixture(scope="module")
def pushed(cloud: LocalCloud, up: Any) -> Any:
    return document(cloud, "push")


@pytest.fixture(scope="module")
def ran(cloud: LocalCloud, pushed: Any) -> Any:
    return document(cloud, "run", words=("run", "--json", "train"))


SEEN: set[str] = set()


def document(
    cloud: LocalCloud, name: str, *more: str, words: tuple[str, ...] = (), code: int = 0
) -> Any:
    """A command's document, which fits its schema."""
    told = cloud(*(words or (*name.split(), *more, "--json")), code=code)
    return fitting(name, told.stdout)


def fitting(name: str, text: str) -> Any:
    found = json.loads(text)
    jsonschema.Draft202012Validator(strict(schema_of(name))).validate(found)
    SEEN.add(name)
    return found


def test_init(cloud: LocalCloud, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    fitting("init", cloud.laptop("init", "--json", cwd=tmp_path / "new").stdout)


def test_doctor(cloud: LocalCloud) -> None:
    assert document(cloud, "doctor")["ready"]


def test_before_there_is_a_machine(cloud: LocalCloud) -> None:
    assert document(cloud, "status")["machine"] is None
    assert document(cloud, "ls")["machines"] == []
    assert document(cloud, "ls --orphans")["orphans"] == []
    assert document(cloud, "gpus", "--gpu", "t4")
    assert document(cloud, "gc", "--yes")
    assert document(cloud, "down", "--name", "nothing")["action"] == "already deleted"


def test_up(up: Any) -> None:
    assert up["action"] == "created"


def test_status_and_ls_of_a_machine(cloud: LocalCloud, up: Any) -> None:
    assert document(cloud, "status")["machine"]["status"] == "RUNNING"
    assert len(document(cloud, "ls")["machines"]) == 1
    assert document(cloud, "up")["action"] == "running"


def test_keep_and_cost(cloud: LocalCloud, ran: Any) -> None:
    document(cloud, "keep", "1h")
    document(cloud, "cost")


def test_adopt(cloud: LocalCloud, up: Any) -> None:
    assert document(cloud, "adopt", up["name"])["changed"] == []


def test_push_and_pull(cloud: LocalCloud, pushed: Any) -> None:
    assert pushed["moved"]
    document(cloud, "pull")
    document(cloud, "push", "--dry-run")


def test_runs(cloud: LocalCloud, ran: Any) -> None:
    assert ran["code"] == 0
    assert document(cloud, "logs")["run_id"] == ran["run_id"]
    assert document(cloud, "ps")[0]["id"] == ran["run_id"]
    document(cloud, "run", words=("run", "--json", "--detach", "long"))
    assert document(cloud, "cancel", "long")["state"] == "cancelled"


def test_fetch(cloud: LocalCloud, ran: Any, tmp_path: Path) -> None:
    assert document(cloud, "fetch", "out.txt", "--to", str(tmp_path))


def test_tunnels(cloud: LocalCloud, pushed: Any) -> None:
    opened = document(cloud, "tunnel --background", words=(
        "tunnel", "page", "--port", "auto", "--background", "--json"))  # fmt: skip
    assert [one["url"] for one in document(cloud, "tunnels")] == [opened["url"]]
    assert len(document(cloud, "tunnel stop", "all")) == 1
    here = cloud.laptop.start("tunnel", "page", "--port", "auto", "--json", cwd=cloud.folder)
    try:
        assert here.stdout is not None
        fitting("tunnel", here.stdout.readline().decode())
    finally:
        here.send_signal(signal.SIGINT)
        here.communicate(timeout=30)


def test_ssh_config(cloud: LocalCloud, up: Any, tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path)}
    file = ("ssh-config", "--json")
    fitting("ssh-config", cloud.laptop(*file, cwd=cloud.folder, environ=home).stdout)
    fitting("ssh-config", cloud.laptop(*file, "--remove", cwd=cloud.folder, environ=home).stdout)


@pytest.mark.parametrize("command", ["up", "down", "push", "tunnel", "fetch", "ssh"])
def test_print_gcloud(cloud: LocalCloud, up: Any, command: str) -> None:
    words = (command, *(["page"] if command == "tunnel" else []))
    document(cloud, "--print-gcloud", words=(*words, "--print-gcloud", "--json"))


def test_the_emulator(cloud: LocalCloud) -> None:
    assert document(cloud, "emulator start")["running"]
    document(cloud, "emulator status")
    document(cloud, "emulator env")
    document(cloud, "emulator clock")
    document(cloud, "emulator forward", "65001")
    document(cloud, "emulator forward", "65001", "--end")
    document(cloud, "emulator fault", "latency", "seconds=0", "calls=1")
    document(cloud, "emulator fault", "--clear")


def test_an_error(cloud: LocalCloud) -> None:
    told = cloud("--name", "nothing", "push", "--json", code=3)
    fitting("error", told.stderr.splitlines()[-1])
    cloud.fault(kind="stockout")
    told = cloud("--name", "nothing", "up", "--json", code=6)
    assert fitting("error", told.stderr.splitlines()[-1])["attempts"]
    cloud.ask("DELETE", "/emulator/v1/faults")


def test_selftest(cloud: LocalCloud, tmp_path: Path) -> None:
    trace = str(tmp_path / "trace")
    cloud.fault(kind="stockout", plain=True)  # what was not seen is told like what was
    findings = document(cloud, "selftest", "--trace", trace, code=6)["findings"]
    assert {one["outcome"] for one in findings} >= {"holds", "could not be seen"}
    cloud.no_faults()


def test_down(cloud: LocalCloud, up: Any) -> None:
    assert document(cloud, "down", "--delete", "--yes")["action"] == "deleted"


def test_that_was_all(request: pytest.FixtureRequest) -> None:
    """The tests above leave no command out, whenever all of them were run."""
    ran = {item.name for item in request.session.items if item.path == request.path}
    if {"test_up", "test_selftest", "test_tunnels", "test_an_error"} <= ran:
        # what servers answer is looked at by contract/test_ssh_servers.py
        elsewhere = {"emulator stop", "login", *(name for name in RESULTS if "--on" in name)}
        assert {*RESULTS, "error"} - SEEN - elsewhere == set()


def test_stopping_the_emulator(laptop: Laptop, tmp_path: Path) -> None:
    own = Laptop(tmp_path / "laptop", tmp_path / "nothing")
    with contextlib.suppress(FileNotFoundError):
        fitting("emulator stop", own("emulator", "stop", "--json", cwd=tmp_path).stdout)
