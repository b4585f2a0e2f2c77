"""The table of promises, and the list of the longest files, name tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

from tests.conftest import LONGEST

TESTS = Path(__file__).resolve().parents[1]
NAMED = re.compile(r"`((?:[a-z_0-9]+/)*test_[a-z_0-9]+\.py)(?:::(test_\w+))?`")


def test_every_test_in_the_table_of_promises_exists() -> None:
    text = (TESTS / "PROMISES.md").read_text(encoding="utf-8")
    missing = []
    for file, function in NAMED.findall(text.partition("\n## ")[2]):
        path = TESTS / file
        if not path.is_file() or (function and f"def {function}(" not in path.read_text("utf-8")):
            missing.append(f"{file}::{function}")
    assert not missing


def test_the_longest_files_exist() -> None:
    files = {f"{path.parent.name}/{path.stem}" for path in TESTS.rglob("test_*.py")}
    assert [name for name in LONGEST if name not in files] == []
