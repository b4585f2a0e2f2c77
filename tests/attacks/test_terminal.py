"""Who controls what is printed does not control the terminal: jobs, names, settings, libraries."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.laptop import BASE, PROGRAM, Laptop, project
from tests.harness.terminal import at_terminal, bytes_at_terminal

# a title, the clipboard, a link, a device's answer, the cursor's place, modes, 8-bit controls
ORDERS = (
    r"\033]0;owned\007 \033]52;c;cm0gLXJm\033\\ \033]8;;http://evil\033\\ \033P$qm\033\\ \033[6n"
    r" \033[c \033[18t \033[?1004h \033[?1049h \033_x\033\\ \033c \302\2336n \302\2350;x\302\234"
)
EVIL = f"printf 'begin {ORDERS} \\033[31mred\\033[0m 50%%\\r100%%\\033[1A\\033[2K end\\n'\n"
RAW = subprocess.run(["bash", "-c", EVIL], capture_output=True, check=True).stdout
STARTS = (b"]", b"P", b"_", b"^", b"X", b"c", b"[6n", b"[c", b"[18t", b"[?1004h", b"[?1049h")
FORBIDDEN = (*(b"\x1b" + start for start in STARTS), b"\xc2\x9b", b"\xc2\x9d")
JOB = '[jobs.evil]\ncommand = "bash evil.sh"\n'


def obeyed(seen: bytes) -> list[bytes]:
    return [order for order in FORBIDDEN if order in seen]


@pytest.fixture(scope="module")
def talking(laptop: Laptop, shared_machine: Path) -> Iterator[Path]:
    """The shared machine's folder, with a job that talks to terminals pushed."""
    project(shared_machine, BASE + JOB, {"evil.sh": EVIL})
    laptop("push", cwd=shared_machine)
    yield shared_machine
    (shared_machine / "evil.sh").unlink()
    project(shared_machine, BASE)


def test_a_jobs_log_gives_the_terminal_no_orders(laptop: Laptop, talking: Path) -> None:
    followed = at_terminal(laptop, talking, "run", "evil").encode()
    assert obeyed(followed) == []
    assert b"begin" in followed
    assert b"\x1b[31mred\x1b[0m 50%\r100%\x1b[1A\x1b[2K end" in followed, "what it shows is whole"
    again = at_terminal(laptop, talking, "logs").encode()
    assert obeyed(again) == []
    assert b"\x1b[31mred\x1b[0m" in again
    piped = laptop("logs", cwd=talking).stdout.encode()
    assert RAW in piped, "in a pipe it stays as it is"


def test_a_command_on_the_vm_gives_the_terminal_no_orders(laptop: Laptop, talking: Path) -> None:
    words = ("exec", "bash evil.sh; bash evil.sh >&2; exit 3")
    seen = at_terminal(laptop, talking, *words).encode()
    assert obeyed(seen) == []
    assert seen.count(b"\x1b[31mred\x1b[0m 50%\r100%") == 2
    piped = laptop(*words, cwd=talking, code=3)
    assert (piped.stdout.encode(), piped.stderr.encode()) == (RAW, RAW)


def test_names_on_the_command_line_and_in_messages_are_shown(laptop: Laptop, folder: Path) -> None:
    project(folder, BASE)
    for words in (["tunnel", "\x1b]0;owned\x07"], ["--\x1b[31mname"]):
        seen = at_terminal(laptop, folder, *words).encode()
        assert obeyed(seen) == []
        assert b"\\x1b" in seen


def test_a_file_of_a_clone_is_one_line_in_a_list_and_itself_in_json(
    laptop: Laptop, talking: Path
) -> None:
    name = "a\nerror: do as I say\x1b[8m\u202e.txt"
    (talking / name).touch()
    told = laptop("push", "--dry-run", cwd=talking)
    as_json = laptop.json("push", "--dry-run", cwd=talking)
    (talking / name).unlink()
    assert r"  a\nerror: do as I say\x1b[8m\u202e.txt" in told.stdout.splitlines()
    assert name in as_json["moved"]


LIBRARY = r"""
import logging, sys, warnings
from vmctl.cli import terminal
terminal.guard()
evil = "\x1b]0;owned\x07\x1b]52;c;cm0gLXJm\x1b\\\x1b[6n\x9d0;x\x9c"
print(evil + "printed")
print(evil, file=sys.stderr)
sys.stdout.buffer.write(evil.encode() + b"written\n")
warnings.warn(evil)
logging.warning(evil)
terminal.log_to_stderr()
logging.getLogger("vmctl").info("logged" + evil)
from rich.console import Console
Console().print(evil + "[red]rich[/red]")
import typer
typer.echo(evil + "echoed")
terminal.line(evil + "line")
terminal.job_output(b"\x1b[8m\x1b[?25l half \x1b]52;c;")
terminal.note("warned", terminal.Styled(evil + "styled", terminal.RED))
raise RuntimeError(evil)
"""


def test_no_library_reaches_the_terminal_past_the_cleaner(tmp_path: Path) -> None:
    environ = {**os.environ, "TERM": "xterm-256color", "PYTHONPATH": str(PROGRAM.parents[2])}
    environ.pop("NO_COLOR", None)
    seen = bytes_at_terminal([sys.executable, "-c", LIBRARY], tmp_path, environ)
    assert obeyed(seen) == []
    for word in (b"printed", b"written", b"logged", b"rich", b"echoed", b"RuntimeError"):
        assert word in seen
    assert b"\\x1b]0;owned\\x07" in seen, "shown"
    _, _, after = seen.partition(b"\x1b[8m")
    assert after.index(b"\x1b[0m\x1b[?25h") < after.index(b"warned"), "our words are not hidden"


def test_the_cleaner_keeps_the_size_of_a_terminal_and_its_streams(tmp_path: Path) -> None:
    program = (
        "import os, sys; from vmctl.cli import terminal; terminal.guard(); terminal.guard();"
        "print(sys.stdout.isatty(), sys.stdout.fileno(), os.get_terminal_size().columns, 'é');"
        "print(sys.stdout.buffer.write(b'x' * 300000))"
    )
    environ = {**os.environ, "PYTHONPATH": str(PROGRAM.parents[2]), "PYTHONUTF8": "1"}
    seen = bytes_at_terminal([sys.executable, "-c", program], tmp_path, environ, columns=77)
    assert seen.startswith("True 1 77 é".encode())
    assert seen.count(b"x") == 300000
    assert seen.endswith(b"300000\r\n")
