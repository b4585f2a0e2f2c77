"""What people see: at a terminal of any width, without colours, in a pipe, and under --quiet."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.harness.laptop import BASE, Laptop, project
from tests.harness.terminal import at_terminal

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def test_a_terminal_gets_colours_and_a_pipe_gets_none(laptop: Laptop, shared_machine: Path) -> None:
    assert COLOURS.search(at_terminal(laptop, shared_machine, "doctor"))
    piped = laptop("doctor", cwd=shared_machine)
    assert "\x1b" not in piped.stdout + piped.stderr
    assert "\x1b" not in laptop("ls", cwd=shared_machine).stdout


@pytest.mark.parametrize(
    ("words", "environ"),
    [
        (("doctor",), {"NO_COLOR": "1"}),
        (("status",), {"NO_COLOR": "1"}),
        (("ls",), {"TERM": "dumb"}),
        (("exec",), {"TERM": "dumb"}),
    ],
)
def test_who_wants_no_colours_gets_none(
    laptop: Laptop, shared_machine: Path, words: tuple[str, ...], environ: dict[str, str]
) -> None:
    assert not COLOURS.search(at_terminal(laptop, shared_machine, *words, **environ))


@pytest.mark.parametrize("words", [("ls",), ("gpus", "--gpu", "t4"), ("ps",)])
def test_a_narrow_terminal_breaks_no_name(
    laptop: Laptop, shared_machine: Path, words: tuple[str, ...]
) -> None:
    wide = ESCAPES.sub("", at_terminal(laptop, shared_machine, *words))
    narrow = ESCAPES.sub("", at_terminal(laptop, shared_machine, *words, columns=50))
    if words == ("ls",):
        assert re.search(r"^NAME +STATUS +ZONE", wide, re.MULTILINE)
        assert re.search(r"^NAME +tester-shared$", narrow, re.MULTILINE)
        assert re.search(r"^ZONE +europe-west1-[bcd]$", narrow, re.MULTILINE)
    names = set(re.findall(r"[a-z]+-[a-z]+\d-[a-z]", wide))
    assert names <= set(re.findall(r"[a-z]+-[a-z]+\d-[a-z]", narrow))


def test_progress_on_a_narrow_terminal_stays_on_its_line(
    laptop: Laptop, shared_machine: Path
) -> None:
    seen = at_terminal(laptop, shared_machine, "up", columns=30)
    frames = re.findall(r"[⠁-⣿][^\r\n]*", ESCAPES.sub("", seen))
    assert frames, "there was progress"
    assert max(map(len, frames)) <= 30, "it would wrap, and leave its beginning behind"
    assert "Next:" in seen


def test_progress_in_a_pipe_is_plain_lines(laptop: Laptop, shared_machine: Path) -> None:
    told = laptop("up", cwd=shared_machine)
    assert "\r" not in told.stderr
    assert told.stdout == "", "results only; the way there is standard error's"
    assert "Next:" in told.stderr


@pytest.mark.parametrize("before", [True, False])
def test_quiet_leaves_results_and_warnings(
    laptop: Laptop, shared_machine: Path, before: bool
) -> None:
    def quietly(*words: str) -> subprocess.CompletedProcess[str]:
        line = ("-q", *words) if before else (words[0], "--quiet", *words[1:])
        return laptop(*line, cwd=shared_machine)

    for words in (("up",), ("push",)):
        told = quietly(*words)
        assert told.stdout == ""
        assert [line for line in told.stderr.splitlines() if not line.startswith("warning: ")] == []
    told = quietly("status")
    assert "RUNNING" in told.stdout
    assert told.stderr == ""
    assert "tester-shared" in quietly("ls").stdout


def test_after_a_run_five_lines_say_what_next(laptop: Laptop, shared_machine: Path) -> None:
    job = '[jobs.hello]\ncommand = "echo hello"\noutputs = ["a.txt"]\n'
    project(shared_machine, BASE + job)
    try:
        laptop("push", cwd=shared_machine)
        told = laptop("run", "hello", cwd=shared_machine)
        (at,) = [n for n, line in enumerate(told.stderr.splitlines()) if line == "Next:"]
        steps = told.stderr.splitlines()[at:]
        assert len(steps) == 5
        assert "bring a.txt" in steps[1]
        assert "vmctl down" in steps[-1]
        assert told.stdout.splitlines()[-1] == "hello"
        assert "Next:" not in laptop("-q", "run", "hello", cwd=shared_machine).stderr
        assert "Next:" not in laptop("run", "--json", "hello", cwd=shared_machine).stderr
    finally:
        project(shared_machine, BASE)
