"""Recorded self-tests are said again to the emulator: it answers as the recorded service did.

A trace that `vmctl selftest --real` has written is put into tests/data/traces, or named by
VMCTL_TRACE, and is from then on what the emulator has to live up to.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.harness.emulator import Emulator

from .conftest import Key
from .replay import Exchange, Replay, load, shut_down

FOLDER = Path(__file__).parents[1] / "data" / "traces"
NAMED = os.environ.get("VMCTL_TRACE")
TRACES = [*sorted(FOLDER.glob("*.jsonl")), *([Path(NAMED)] if NAMED else [])]
OWN = FOLDER / "embedded.jsonl"

Emulators = Callable[..., Emulator]


def replayed(emulator: Emulator, key: Key, exchanges: list[Exchange]) -> Replay:
    replay = Replay(emulator, f"p-{uuid.uuid4().hex[:10]}", key)
    remarks = []

    def otherwise(remark: str) -> None:
        remarks.append(remark)
        shut_down(emulator, replay.project, key)

    replay.run(exchanges, otherwise)
    assert set(remarks) <= {"shut down from inside"}
    return replay


@pytest.mark.parametrize("file", TRACES, ids=lambda file: file.stem)
def test_the_emulator_answers_as_recorded(own_emulator: Emulators, key: Key, file: Path) -> None:
    replay = replayed(own_emulator(), key, load(file))
    assert replay.wrong == []
    print("told by the recorded service only:", *sorted(replay.absent), sep="\n  ")


def changed(exchanges: list[Exchange], path: str, change: Callable[[Any], None]) -> list[Exchange]:
    """The first exchange about this path with another answer, and nothing after it."""
    for one in exchanges:
        if one.path.endswith(path):
            answer = json.loads(json.dumps(one.response))
            change(answer)
            other = Exchange(one.method, one.path, one.query, one.request, one.status, answer)
            return [other]
    raise AssertionError(f"the trace has no call of {path}")


@pytest.mark.parametrize(
    ("path", "change", "says"),
    [
        ("firewalls/default-allow-ssh", lambda a: a.pop("priority"), "recorded answer has none"),
        ("firewalls/default-allow-ssh", lambda a: a.update(priority="1"), "is a number, recorded"),
        ("firewalls/default-allow-ssh", lambda a: a.update(direction="EGRESS"), "is 'INGRESS'"),
        ("zones/europe-west1-b/instances", lambda a: a["error"].update(code=404), "is 403"),
    ],
)
def test_an_answer_of_another_form_is_noticed(
    emulator: Emulator,
    key: Key,
    path: str,
    change: Callable[[Any], None],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tests.contract.replay.ANSWER_LIMIT_S", 0)
    replay = replayed(emulator, key, changed(load(OWN), path, change))
    (wrong,) = replay.wrong
    assert says in wrong


def test_another_status_is_noticed(emulator: Emulator, key: Key) -> None:
    one = Exchange("POST", "projects/a-project/zones/europe-west1-b/disks", {}, {}, 200, {})
    (wrong,) = replayed(emulator, key, [one]).wrong
    assert "HTTP 400, recorded was 200" in wrong
