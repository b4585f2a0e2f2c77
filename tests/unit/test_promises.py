"""The table of promises names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

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
