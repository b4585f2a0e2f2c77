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
def sky() -> Iterator[LocalCloud]:
    with LocalCloud.opened("json") as made:
        project(made.folder, TOML, {"a.txt": "a"})
        yield made
        made("tunnel", "stop", "all", code=None)
        made("down", "--delete", "--yes", code=None)


@pytest.fixture(scope="module")
def up(sky: LocalCloud) -> Any:
    return document(sky, "up")


@pytest.fixture(scope="module")
def pushed(sky: LocalCloud, up: Any) -> Any:
    return document(sky, "push")


@pytest.fixture(scope="module")
def ran(sky: LocalCloud, pushed: Any) -> Any:
    return document(sky, "run", words=("run", "--json", "train"))


SEEN: set[str] = set()


def document(
    sky: LocalCloud, name: str, *more: str, words: tuple[str, ...] = (), code: int = 0
) -> Any:
    """A command's document, which fits its schema."""
    told = sky(*(words or (*name.split(), *more, "--json")), code=code)
    return fitting(name, told.stdout)


def fitting(name: str, text: str) -> Any:
    found = json.loads(text)
    jsonschema.Draft202012Validator(strict(schema_of(name))).validate(found)
    SEEN.add(name)
    return found


def test_init(sky: LocalCloud, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    fitting("init", sky.laptop("init", "--json", cwd=tmp_path / "new").stdout)


def test_doctor(sky: LocalCloud) -> None:
    assert document(sky, "doctor")["ready"]


def test_before_there_is_a_machine(sky: LocalCloud) -> None:
    assert document(sky, "status")["machine"] is None
    assert document(sky, "ls")["machines"] == []
    assert document(sky, "ls --orphans")["orphans"] == []
    assert document(sky, "gpus", "--gpu", "t4")
    assert document(sky, "gc", "--yes")
    assert document(sky, "down", "--name", "nothing")["action"] == "already gone"


def test_up(up: Any) -> None:
    assert up["action"] == "created"


def test_status_and_ls_of_a_machine(sky: LocalCloud, up: Any) -> None:
    assert document(sky, "status")["machine"]["status"] == "RUNNING"
    assert len(document(sky, "ls")["machines"]) == 1
    assert document(sky, "up")["action"] == "running"


def test_keep_and_cost(sky: LocalCloud, ran: Any) -> None:
    document(sky, "keep", "1h")
    document(sky, "cost")


def test_adopt(sky: LocalCloud, up: Any) -> None:
    assert document(sky, "adopt", up["name"])["changed"] == []


def test_push_and_pull(sky: LocalCloud, pushed: Any) -> None:
    assert pushed["moved"]
    document(sky, "pull")
    document(sky, "push", "--dry-run")


def test_runs(sky: LocalCloud, ran: Any) -> None:
    assert ran["code"] == 0
    assert document(sky, "logs")["run_id"] == ran["run_id"]
    assert document(sky, "ps")[0]["id"] == ran["run_id"]
    document(sky, "run", words=("run", "--json", "--detach", "long"))
    assert document(sky, "cancel", "long")["state"] == "cancelled"


def test_fetch(sky: LocalCloud, ran: Any, tmp_path: Path) -> None:
    assert document(sky, "fetch", "out.txt", "--to", str(tmp_path))


def test_tunnels(sky: LocalCloud, pushed: Any) -> None:
    opened = document(sky, "tunnel --background", words=(
        "tunnel", "page", "--port", "auto", "--background", "--json"))  # fmt: skip
    assert [one["url"] for one in document(sky, "tunnels")] == [opened["url"]]
    assert len(document(sky, "tunnel stop", "all")) == 1
    here = sky.laptop.start("tunnel", "page", "--port", "auto", "--json", cwd=sky.folder)
    try:
        assert here.stdout is not None
        fitting("tunnel", here.stdout.readline().decode())
    finally:
        here.send_signal(signal.SIGINT)
        here.communicate(timeout=30)


def test_ssh_config(sky: LocalCloud, up: Any, tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path)}
    file = ("ssh-config", "--json")
    fitting("ssh-config", sky.laptop(*file, cwd=sky.folder, environ=home).stdout)
    fitting("ssh-config", sky.laptop(*file, "--remove", cwd=sky.folder, environ=home).stdout)


@pytest.mark.parametrize("command", ["up", "down", "push", "tunnel", "fetch", "ssh"])
def test_print_gcloud(sky: LocalCloud, up: Any, command: str) -> None:
    words = (command, *(["page"] if command == "tunnel" else []))
    document(sky, "--print-gcloud", words=(*words, "--print-gcloud", "--json"))


def test_the_emulator(sky: LocalCloud) -> None:
    assert document(sky, "emulator start")["running"]
    document(sky, "emulator status")
    document(sky, "emulator env")
    document(sky, "emulator clock")
    document(sky, "emulator forward", "65001")
    document(sky, "emulator forward", "65001", "--end")
    document(sky, "emulator fault", "latency", "seconds=0", "calls=1")
    document(sky, "emulator fault", "--clear")


def test_an_error(sky: LocalCloud) -> None:
    told = sky("--name", "nothing", "push", "--json", code=3)
    fitting("error", told.stderr.splitlines()[-1])
    sky.fault(kind="stockout")
    told = sky("--name", "nothing", "up", "--json", code=6)
    assert fitting("error", told.stderr.splitlines()[-1])["attempts"]
    sky.ask("DELETE", "/emulator/v1/faults")


def test_selftest(sky: LocalCloud, tmp_path: Path) -> None:
    trace = str(tmp_path / "trace")
    sky.fault(kind="stockout", plain=True)  # what was not seen is told like what was
    findings = document(sky, "selftest", "--trace", trace, code=6)["findings"]
    assert {one["outcome"] for one in findings} >= {"holds", "could not be seen"}
    sky.no_faults()


def test_down(sky: LocalCloud, up: Any) -> None:
    assert document(sky, "down", "--delete", "--yes")["action"] == "deleted"


def test_that_was_all(request: pytest.FixtureRequest) -> None:
    """The tests above leave no command out, whenever all of them were run."""
    ran = {item.name for item in request.session.items if item.path == request.path}
    if {"test_up", "test_selftest", "test_tunnels", "test_an_error"} <= ran:
        assert {*RESULTS, "error"} - SEEN - {"emulator stop"} == set()


def test_stopping_the_emulator(laptop: Laptop, tmp_path: Path) -> None:
    own = Laptop(tmp_path / "laptop", tmp_path / "nothing")
    with contextlib.suppress(FileNotFoundError):
        fitting("emulator stop", own("emulator", "stop", "--json", cwd=tmp_path).stdout)
