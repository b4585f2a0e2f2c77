"""Every command's JSON document has a schema, and what was promised once stays."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import jsonschema
import pytest
import typer

from vmctl.__main__ import main
from vmctl.cli.app import app
from vmctl.cli.json_results import ERROR, RESULTS, schema_of, schema_of_type, to_plain
from vmctl.domain.events import UrlReady
from vmctl.domain.machine.instance import Status

# these hand the terminal, or their output, to another program; schema prints a schema itself
WITHOUT = {"ssh", "exec", "scp", "attach", "schema"}
PROMISED = json.loads((Path(__file__).parents[1] / "data" / "json_fields.json").read_text())


def commands() -> Iterator[str]:
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        parts = getattr(command, "commands", None)
        yield from (f"{name} {part}" for part in parts) if parts else [name]


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_command_has_a_schema(name: str) -> None:
    assert (name in RESULTS) != (name in WITHOUT)


@pytest.mark.parametrize("name", [*RESULTS, "error"])
def test_a_schema_is_valid_and_says_what_it_is(name: str) -> None:
    schema = schema_of(name)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert name in schema["title"]
    if not name.startswith("emulator"):  # which tells whatever its admin route told
        assert "{}" not in json.dumps(schema), "a field of no known type"


def fields_of(schema: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Each field's path with its type, such as "machine.disk_gb: integer"."""
    for name, field in schema.get("properties", {}).items():
        here = f"{path}{name}"
        choices = field.get("anyOf", [field])
        yield f"{here}: {'|'.join(sorted(_word(one) for one in choices))}"
        for one in choices:
            yield from fields_of(one, f"{here}.")
            yield from fields_of(one.get("items", {}), f"{here}[].")
    yield from fields_of(schema["items"], f"{path}[].") if "items" in schema and not path else ()


def _word(schema: Mapping[str, Any]) -> str:
    return str(schema.get("type", "enum"))


@pytest.mark.parametrize("name", sorted(PROMISED))
def test_a_field_that_was_promised_stays(name: str) -> None:
    gone = set(PROMISED[name]) - set(fields_of(schema_of(name)))
    assert not gone, "who reads --json relies on these"


@dataclass(frozen=True)
class Inner:
    """Inside."""

    status: Status
    when: dt.datetime | None


@dataclass(frozen=True)
class Sample:
    """A result with one field of each type
    over two lines."""

    text: str
    count: int
    share: float
    sure: bool
    path: PurePosixPath
    inner: tuple[Inner, ...]
    pairs: Mapping[str, float | None]
    place: tuple[int, str]


SAMPLE = Sample(
    "x", 1, 0.5, True, PurePosixPath("a/b"),
    (Inner(Status.RUNNING, dt.datetime(2026, 1, 2, tzinfo=dt.UTC)), Inner(Status.UNKNOWN, None)),
    {"a": 1.0, "b": None}, (3, "y"),
)  # fmt: skip


def test_a_schema_fits_what_is_printed() -> None:
    schema = schema_of_type(Sample)
    assert schema["description"] == "A result with one field of each type over two lines."
    jsonschema.validate(to_plain(SAMPLE), schema)


@pytest.mark.parametrize(
    "change",
    [{"count": "1"}, {"inner": {}}, {"inner": [{"status": "WALKING", "when": None}]},
     {"pairs": {"a": "1"}}, {"place": ["y", 3]}],
)  # fmt: skip
def test_a_schema_refuses_what_is_not(change: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(to_plain(SAMPLE) | change, schema_of_type(Sample))


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "emulator", "status"]) == 0
    assert json.loads(capsys.readouterr().out) == schema_of("emulator status")
    assert main(["schema"]) == 0
    assert capsys.readouterr().out.split("\n")[:-1] == [*RESULTS, "error"]
    assert main(["schema", "statsu"]) == 3
    assert "vmctl schema status" in capsys.readouterr().err


def test_an_error_fits_its_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "statsu", "--json"]) == 3
    jsonschema.validate(json.loads(capsys.readouterr().err), ERROR)


def test_a_url_is_a_document_too() -> None:
    jsonschema.validate(to_plain(UrlReady("http://localhost:8898")), schema_of("tunnel"))
