"""A script with Windows' line ends is named: what the shell says of it, nobody understands."""

from __future__ import annotations

from pathlib import Path

import pytest

from vmctl.guest.runs.failure import explain_line_ends

CRLF = "echo a\r\necho b\r\n"


@pytest.mark.parametrize(
    ("line", "file", "text"),
    [
        ("bash train.sh", "train.sh", CRLF),
        ("./train.sh --fast", "train.sh", CRLF),
        ("cd . && (./go)", "go", f"#!/bin/bash\r\n{CRLF}"),
        ("source 'env.bash'; python train.py", "env.bash", CRLF),
    ],
)
def test_a_script_with_windows_line_ends_is_named(
    tmp_path: Path, line: str, file: str, text: str
) -> None:
    (tmp_path / file).write_bytes(text.encode())
    assert f"{file} has Windows line ends" in explain_line_ends(line, tmp_path)
    (tmp_path / file).write_bytes(text.replace("\r\n", "\n").encode())
    assert explain_line_ends(line, tmp_path) == ""


def test_a_program_that_reads_both_line_ends_is_not_named(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_bytes(b"print(1)\r\n")
    assert explain_line_ends("python train.py 'x' nosuch.sh", tmp_path) == ""
