"""Much at once: many commands on one machine, many files in one folder."""

from __future__ import annotations

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.harness.laptop import BASE, Laptop, project


@pytest.mark.parametrize(
    ("commands", "pushes"),
    [(10, 5), pytest.param(50, 20, marks=pytest.mark.exhaustive)],
)
def test_commands_and_pushes_at_once_are_each_answered(
    laptop: Laptop, shared_machine: Path, commands: int, pushes: int
) -> None:
    code_file = shared_machine / "many.py"
    code_file.write_text("same = True\n" * 1000)

    def ask(words: tuple[str, ...]) -> tuple[int, str]:
        done = laptop(*words, cwd=shared_machine, code=None)
        return done.returncode, done.stdout + done.stderr

    asked = [("exec", "echo", f"<{n}>") for n in range(commands)]
    asked += [("status", "--json")] * commands
    asked += [("push",)] * pushes
    with ThreadPoolExecutor(len(asked)) as pool:
        told = list(pool.map(ask, asked))
    for number, (code, text) in enumerate(told[:commands]):
        assert (code, text) == (0, f"<{number}>\n")
    for code, text in told[commands : 2 * commands]:
        assert code == 0 and '"RUNNING"' in text, text
    # one may be told that a later one has taken its place, never that all is well
    assert {code for code, _ in told[2 * commands :]} <= {0, 4}, told
    assert any(code == 0 for code, _ in told[2 * commands :]), told[2 * commands :]
    held = laptop("exec", "cat", "many.py", cwd=shared_machine).stdout
    code_file.unlink()
    laptop("push", cwd=shared_machine)
    assert held == "same = True\n" * 1000


def memory_of_a_look(laptop: Laptop, folder: Path) -> int:
    """The most kB of memory that `vmctl push --dry-run` needs."""
    process = laptop.start("push", "--dry-run", cwd=folder, stderr=subprocess.STDOUT)
    assert process.stdout is not None
    told = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stdout.close()
    assert process.returncode in (0, 4), told[-2000:]  # what others pushed may lie there
    return usage.ru_maxrss


@pytest.mark.parametrize("count", [10_000, pytest.param(100_000, marks=pytest.mark.exhaustive)])
def test_a_folder_of_many_files_needs_a_bounded_memory(
    laptop: Laptop, shared_machine: Path, tmp_path: Path, count: int
) -> None:
    few = project(tmp_path / "few", BASE)
    many = project(tmp_path / "many", BASE)
    for number in range(count):
        folder = many / f"folder-{number // 1000}"
        if number % 1000 == 0:
            folder.mkdir()
        (folder / f"a photo of some length {number}.jpg").touch()
    laptop.extra["VMCTL_NAME"] = shared_machine.name
    try:
        more = memory_of_a_look(laptop, many) - memory_of_a_look(laptop, few)
    finally:
        del laptop.extra["VMCTL_NAME"]
    assert more * 1024 / count < 3000, f"{more} kB for {count} files"
