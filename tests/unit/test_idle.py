"""When an idle VM stops and who is warned: whole histories of samples, replayed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from vmctl.guest.watchdog import activity
from vmctl.guest.watchdog.idle_policy import (
    GAP_S,
    HOUR_S,
    IdleDecision,
    Limits,
    Sample,
    decide,
    initial_state,
)

START = 1_700_000_000.0
STEP = 30.0
IDLE = Limits(idle_s=3600)


def history(minutes: float, *changes: tuple[float, float, Sample]) -> list[Sample]:
    """A sample each half minute; in `changes` what is seen from one minute to another."""
    samples = []
    for number in range(int(minutes * 60 / STEP) + 1):
        at = START + number * STEP
        seen = Sample(at)
        for begin, end, like in changes:
            if begin * 60 <= number * STEP < end * 60:
                seen = replace(like, at=at)
        samples.append(seen)
    return samples


def replay(samples: Iterable[Sample], limits: Limits) -> list[IdleDecision]:
    """The decisions on a whole history, the first sample of which is the VM's start."""
    decisions, state = [], None
    for sample in samples:
        state, decision = decide(state or initial_state(sample.at), sample, limits)
        decisions.append(decision)
    return decisions


def minute_of(decisions: list[IdleDecision], name: str) -> float | None:
    """When a field was set first, in minutes from the start."""
    for number, decision in enumerate(decisions):
        if getattr(decision, name):
            return number * STEP / 60
    return None


def test_an_unused_vm_is_warned_of_and_stops_after_its_idle_time() -> None:
    decisions = replay(history(70), IDLE)
    assert minute_of(decisions, "tell_logins") == 50
    assert minute_of(decisions, "power_off") == 60
    assert "idle since" in next(v.power_off for v in decisions if v.power_off)
    assert decisions[0].stops_at == START + 3600
    assert "vmctl keep 1h" in decisions[110].notice
    assert sum(bool(v.tell_logins) for v in decisions) == 1


@pytest.mark.parametrize(
    "busy",
    [
        Sample(0, busy=("GPU 0 at 97 %",)),
        Sample(0, runs=("train-1",)),
        Sample(0, busy=("login of ann on pts/0",)),
        Sample(0, busy=("rsync of ann",)),
        Sample(0, busy=("1 Jupyter kernel",)),
        Sample(0, busy=("a GPU that does not report its use",)),
    ],
    ids=lambda sample: "".join((*sample.busy, *sample.runs)),
)
def test_work_restarts_the_idle_time(busy: Sample) -> None:
    assert minute_of(replay(history(300, (0, 300, busy)), IDLE), "power_off") is None
    decisions = replay(history(150, (40, 45, busy)), IDLE)
    assert minute_of(decisions, "power_off") == 44.5 + 60


def test_work_after_the_warning_takes_it_back() -> None:
    login = Sample(0, busy=("login of ann on pts/0",))
    decisions = replay(history(140, (55, 58, login)), IDLE)
    assert not decisions[112].notice
    assert minute_of(decisions, "power_off") == 57.5 + 60


def test_what_was_done_between_two_looks_counts_from_when_it_was_done() -> None:
    samples = [replace(s, active_at=START + 20 * 60) for s in history(100)]
    assert minute_of(replay(samples, IDLE), "power_off") == 80


def test_keep_postpones_and_no_more() -> None:
    kept = replace(IDLE, keep_until=START + 100 * 60)
    decisions = replay(history(130), kept)
    assert minute_of(decisions, "power_off") == 100
    assert minute_of(decisions, "tell_logins") == 90


def test_keep_after_the_warning_takes_it_back() -> None:
    early = replay(history(55), IDLE)
    assert early[-1].notice

    state = initial_state(START)
    for sample in history(55):
        state, _ = decide(state, sample, IDLE)
    later = Sample(START + 55.5 * 60)
    state, decision = decide(state, later, replace(IDLE, keep_until=START + 120 * 60))
    assert not decision.notice
    assert decision.stops_at == START + 120 * 60


def test_time_in_which_nobody_looked_is_no_idle_time() -> None:
    samples = history(50)
    samples += [replace(s, at=s.at + 50 * 60 + GAP_S + 60) for s in history(70)]
    decisions = replay(samples, IDLE)
    stopped = next(s.at for s, v in zip(samples, decisions, strict=True) if v.power_off)
    assert stopped == START + 50 * 60 + GAP_S + 60 + 3600


def test_a_clock_that_runs_back_stops_nothing() -> None:
    samples = history(59)
    samples += [Sample(START - 86400 + number * STEP) for number in range(100)]
    assert minute_of(replay(samples, IDLE), "power_off") is None


def test_without_an_idle_limit_nothing_stops_it() -> None:
    decisions = replay(history(600), Limits())
    assert not any(v.power_off or v.notice or v.stops_at for v in decisions)


@pytest.mark.parametrize("idle_s", [60, 300, 1800, 7200])
def test_the_warning_always_comes_before_the_end(idle_s: float) -> None:
    decisions = replay(history(200), Limits(idle_s=idle_s))
    warned, stopped = minute_of(decisions, "tell_logins"), minute_of(decisions, "power_off")
    assert warned is not None
    assert stopped is not None
    assert warned < stopped
    assert stopped * 60 >= idle_s


RUN = Sample(0, runs=("train-1",))


def test_a_run_is_warned_an_hour_before_googles_limit_and_gets_its_sigterm_in_time() -> None:
    limits = Limits(idle_s=3600, max_run_s=12 * 3600)
    decisions = replay(history(12 * 60, (5, 12 * 60, RUN)), limits)
    assert minute_of(decisions, "tell_runs") == 11 * 60
    assert minute_of(decisions, "end_runs") == 12 * 60 - 5
    lines = [line for v in decisions for _, line in v.tell_runs]
    assert len(lines) == 2
    assert "SIGTERM will be sent at" in lines[0]
    assert minute_of(decisions, "power_off") is None  # Google does that
    assert sum(map(len, (v.end_runs for v in decisions))) == 1


def test_a_run_that_begins_in_the_last_hour_is_warned_with_its_first_look() -> None:
    decisions = replay(history(120, (90, 120, RUN)), Limits(max_run_s=2 * 3600))
    assert minute_of(decisions, "tell_runs") == 90


def test_googles_limit_as_the_run_knows_it_beats_our_estimate() -> None:
    told = replace(RUN, google_stops_at=START + 90 * 60)
    decisions = replay(history(90, (5, 90, told)), Limits(max_run_s=12 * 3600))
    assert minute_of(decisions, "tell_runs") == 30


def test_a_budget_waits_for_a_run_that_was_warned_late() -> None:
    limits = Limits(stop_at=START + 60 * 60)
    decisions = replay(history(140, (50, 140, RUN)), limits)
    assert minute_of(decisions, "tell_runs") == 50
    assert minute_of(decisions, "end_runs") == 105
    assert minute_of(decisions, "power_off") == 110


def test_who_looks_late_leaves_a_run_time_to_save_all_the_same() -> None:
    samples = history(55, (0, 56, RUN))
    samples += [replace(RUN, at=START + 100 * 60 + number * STEP) for number in range(40)]
    decisions = replay(samples, Limits(stop_at=START + 30 * 60))
    ended = next(s.at for s, v in zip(samples, decisions, strict=True) if v.end_runs)
    stopped = next(s.at for s, v in zip(samples, decisions, strict=True) if v.power_off)
    assert ended == START + 100 * 60
    assert stopped - ended >= 60


def test_a_budget_stops_an_idle_vm_after_telling_who_is_logged_in() -> None:
    decisions = replay(history(80), Limits(stop_at=START + 70 * 60))
    assert minute_of(decisions, "tell_logins") == 10
    assert minute_of(decisions, "power_off") == 70


def test_a_budget_that_is_over_already_still_warns() -> None:
    decisions = replay(history(80, (0, 80, RUN)), Limits(stop_at=START + 1))
    assert minute_of(decisions, "tell_runs") == 0
    assert minute_of(decisions, "power_off") == 60


def test_the_budget_of_an_earlier_start_ends_nothing() -> None:
    decisions = replay(history(80), Limits(stop_at=START - 3600))
    assert not any(v.power_off or v.notice for v in decisions)


@pytest.mark.parametrize("stop_min", [10, 59, 60, 61, 200, 700])
@pytest.mark.parametrize("begin_min", [0, 7, 55, 130])
def test_no_limit_of_ours_ends_a_run_without_an_hours_warning(
    stop_min: int, begin_min: int
) -> None:
    samples = history(900, (begin_min, 900, RUN))
    decisions = replay(samples, Limits(idle_s=600, stop_at=START + stop_min * 60))
    warned = ended = off = None
    for sample, decision in zip(samples, decisions, strict=True):
        if decision.tell_runs and warned is None:
            warned = sample.at
        if decision.end_runs and ended is None:
            ended = sample.at
        if decision.power_off and sample.runs:
            off = sample.at
            break
    if off is not None:
        assert warned is not None
        assert ended is not None
        assert warned + HOUR_S <= off
        assert ended < off


# -- signals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "busy"),
    [
        ("0, 0\n", []),
        ("0, 0\n1, 88\n", ["GPU 1 at 88 %"]),
        ("0, [N/A]\n", ["GPU 0, which does not report its use"]),
        (None, ["a GPU that does not report its use"]),
        ("", ["a GPU that does not report its use"]),
    ],
)
def test_gpus_at_work(told: str | None, busy: list[str]) -> None:
    assert activity.busy_gpus(told) == busy


def kernel(state: str, last: str = "2026-11-21T10:00:00.000000Z") -> dict[str, object]:
    return {"id": "k", "name": "python3", "execution_state": state, "last_activity": last}


@pytest.mark.parametrize(
    ("status", "kernels", "busy"),
    [
        ({"kernels": 0, "connections": 0}, [], False),
        ({"kernels": 1, "connections": 1}, [kernel("idle")], False),
        ({"kernels": 2, "connections": 0}, [kernel("idle"), kernel("busy")], True),
        (None, None, True),
        ({"kernels": 1}, None, True),
        ("<html>", [], True),
    ],
)
def test_jupyter_at_work(status: object, kernels: object, busy: bool) -> None:
    told, _ = activity.kernels_at_work(status, kernels)
    assert bool(told) is busy


def test_a_kernels_last_activity_is_reported() -> None:
    _, at = activity.kernels_at_work({"kernels": 1}, [kernel("idle")])
    assert at == 1795255200.0


def processes(*lines: Iterable[str]) -> list[activity.Process]:
    """A process per line of words, each the child of the one before."""
    return [
        activity.Process(100 + number, 99 + number, tuple(words), 60.0)
        for number, words in enumerate(lines)
    ]


HELPER = ("python3", "-I", "/home/ann/.vmctl/lib/0123456789abcdef")


@pytest.mark.parametrize(
    ("command", "counts"),
    [
        ((*HELPER, "push"), True),
        ((*HELPER, "follow"), False),
        (("cat", "-"), False),
        (("cat",), True),
        (("rsync", "--server", "-logDtpre.iLsfxC"), True),
        (("scp", "-t", "x"), True),
        (("python", "train.py"), True),
    ],
)
def test_commands_over_ssh(command: tuple[str, ...], counts: bool) -> None:
    found = processes(("sshd: ann@notty",), command)
    assert bool(activity.transfers(found)) is counts
    assert activity.logins(found) == ([], ())


def test_a_run_is_found_once_and_not_in_its_tmux_server(tmp_path: Path) -> None:
    directory = tmp_path / ".vmctl/runs/train-1"
    directory.mkdir(parents=True)
    (directory / "spec.json").write_text('{"stops_at": 1700000000.5}')
    runner = ("/usr/bin/python3", "-I", f"{tmp_path}/.vmctl/lib/0123456789abcdef", "job", "train-1")
    found = processes(("tmux", "-u", "-L", "vmctl", "new-session", "-d", *runner), runner)
    (run,) = activity.runs_among(found)
    assert (run.id, run.pid, run.google_stops_at) == ("train-1", 101, 1700000000.5)
    (directory / "exit").write_text("{}")
    assert activity.runs_among(found) == ()


def test_an_idle_connection_is_no_work_and_a_terminal_is_a_login() -> None:
    found = processes(("sshd: ann [priv]",), ("sshd: ann@notty",))
    assert activity.logins(found) == ([], ())
    assert activity.transfers(found) == []
    found = processes(("sshd-session: ann@pts/0,pts/2",), ("-bash",))
    told, terminals = activity.logins(found)
    assert len(told) == 1
    assert terminals == ("pts/0", "pts/2")
    assert activity.transfers(found) == []
    assert activity.transfers(processes(("sshd: ann@internal-sftp",)))
