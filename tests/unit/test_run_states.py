"""A run's state follows from what its directory holds."""

from __future__ import annotations

import dataclasses

import pytest

from vmctl.domain.errors import IntegrityError, NotFound
from vmctl.domain.guest_replies import RUN
from vmctl.domain.reply_shapes import checked
from vmctl.domain.runs.run import (
    RunFacts,
    RunState,
    choose,
    newest_first,
    observe,
    running_first,
    view,
)

YOUNG = RunFacts("job-1", job="job", created_at=1000.0, now=1001.0)
OLD = dataclasses.replace(YOUNG, now=2000.0)


@pytest.mark.parametrize(
    ("facts", "state"),
    [
        (dataclasses.replace(OLD, exit_code=0), RunState.SUCCEEDED),
        (dataclasses.replace(OLD, exit_code=3), RunState.FAILED),
        (dataclasses.replace(OLD, exit_code=0, session=True, phase="running"), RunState.SUCCEEDED),
        (dataclasses.replace(OLD, exit_code=143, exit_cancelled=True), RunState.CANCELLED),
        (dataclasses.replace(OLD, exit_code=0, exit_cancelled=True), RunState.CANCELLED),
        (dataclasses.replace(OLD, exit_code=143, exit_interrupted=True), RunState.LOST),
        (dataclasses.replace(OLD, session=True), RunState.PREPARING),
        (dataclasses.replace(OLD, session=True, phase="preparing"), RunState.PREPARING),
        (dataclasses.replace(OLD, session=True, phase="running"), RunState.RUNNING),
        (
            dataclasses.replace(OLD, session=True, phase="running", cancel_asked=True),
            RunState.RUNNING,
        ),
        (dataclasses.replace(OLD, cancel_asked=True), RunState.CANCELLED),
        (dataclasses.replace(OLD, phase="running"), RunState.LOST),
        (OLD, RunState.LOST),
        (YOUNG, RunState.PREPARING),
        (dataclasses.replace(YOUNG, phase="running"), RunState.LOST),
        (dataclasses.replace(YOUNG, phase="preparing"), RunState.LOST),
        (dataclasses.replace(YOUNG, now=999.0), RunState.LOST),
        (RunFacts("gone"), RunState.LOST),
    ],
)
def test_state_follows_from_the_facts(facts: RunFacts, state: RunState) -> None:
    assert observe(facts) is state


def parsed(answer: object) -> RunFacts:
    """What a helper tells of a run, checked as on its way here."""
    return RunFacts.parse(checked(RUN, answer, "a run"))


def test_an_empty_directory_is_a_lost_run_not_a_failure() -> None:
    facts = parsed({"id": "x", "spec": {}, "phase": None, "exit": None, "now": 5000.0})
    assert observe(facts) is RunState.LOST
    assert view(facts).started_at is None


def test_remote_text_in_facts_is_cleaned() -> None:
    assert parsed({"id": "x", "spec": {"job": "\x1b]0;title\x07j\x00"}}).job == "j"
    with pytest.raises(IntegrityError):
        parsed({"id": "x\x1b[2J"})


def test_seconds_stop_at_the_end_and_go_on_until_then() -> None:
    going = dataclasses.replace(OLD, session=True, phase="running")
    assert view(going).seconds == 1000.0
    over = dataclasses.replace(OLD, exit_code=0, ended_at=1500.0)
    assert view(over).seconds == 500.0
    assert view(over).started_at == "1970-01-01T00:16:40+00:00"
    assert view(dataclasses.replace(over, exit_code=None)).exit_code is None


RUNS = [
    RunFacts("b-1", job="b", created_at=1.0, session=True, phase="running"),
    RunFacts("a-2", job="a", created_at=2.0, exit_code=0),
    RunFacts("b-3", job="b", created_at=3.0, exit_code=1),
]


def test_newest_is_meant_when_nothing_is_said() -> None:
    assert [run.id for run in newest_first(RUNS)] == ["b-3", "a-2", "b-1"]
    assert choose(RUNS, None).id == "b-3"
    assert choose(RUNS, "b").id == "b-3"
    assert choose(RUNS, "b-1").id == "b-1"


def test_what_runs_is_preferred_for_attach_and_cancel() -> None:
    assert running_first(RUNS, "b").id == "b-1"
    assert running_first(RUNS, None).id == "b-1"
    assert running_first(RUNS, "a").id == "a-2"


def test_unknown_run_points_at_ps() -> None:
    with pytest.raises(NotFound, match="'nope'") as caught:
        choose(RUNS, "nope")
    assert "vmctl ps" in caught.value.hint
    with pytest.raises(NotFound, match="No runs"):
        choose([], None)
