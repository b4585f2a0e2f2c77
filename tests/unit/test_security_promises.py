"""What SECURITY.md and the list of attacks promise is held by tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
ROOT = TESTS.parent
SECURITY = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
ATTACKS = (TESTS / "attacks" / "README.md").read_text(encoding="utf-8")
NAMED = re.compile(r"`((?:[a-z_0-9]+/)+test_[a-z_0-9]+\.py)(?:::(test_\w+))?`")
# Sentences of the README that are about who is trusted, and with what.
ABOUT_SECURITY = re.compile(
    r"no credentials|host keys?\b(?! changed)|looks? like a secret|never trusted|of another user"
    r"|other users|is verified by|never overwritten|SHA-256 is verified|send its secret"
    r"|somebody else answers",
    re.IGNORECASE,
)


@pytest.mark.parametrize("text", [SECURITY, ATTACKS], ids=["SECURITY.md", "attacks/README.md"])
def test_every_test_that_is_named_exists(text: str) -> None:
    found = NAMED.findall(text.partition("\n## ")[2])
    assert len(found) > 30
    missing = []
    for file, function in found:
        path = TESTS / file
        if not path.is_file() or (function and f"def {function}(" not in path.read_text("utf-8")):
            missing.append(f"{file}::{function}")
    assert not missing


@pytest.mark.parametrize("text", [SECURITY, ATTACKS], ids=["SECURITY.md", "attacks/README.md"])
def test_every_promise_names_a_test(text: str) -> None:
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        is_row = line.startswith("| ") and not set(line) <= set("| -")
        if is_row and len(cells) == 2 and cells[1] != "tests":
            assert NAMED.search(cells[1]), line


def test_every_file_of_attacks_is_in_the_list() -> None:
    listed = {Path(file).name for file, _ in NAMED.findall(ATTACKS) if "attacks/" in file}
    assert listed == {path.name for path in (TESTS / "attacks").glob("test_*.py")}


def sentences(text: str) -> list[str]:
    """The sentences of a page, and the cells of its tables, each on one line."""
    text = re.sub(r"```.*?```", "\n\n", text, flags=re.DOTALL)
    blocks = re.split(r"\n\s*\n|\n(?=\||- |#)", text)
    cells = [
        cell for block in blocks for cell in (block.split(" | ") if block[:1] == "|" else [block])
    ]
    words = (" ".join(cell.split()) for cell in cells)
    return [each for cell in words for each in re.split(r"(?<=[.:;])\s+", cell) if each]


def test_every_sentence_of_the_readme_on_security_is_held_by_a_test() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    quoted = re.findall(r'^\| "([^"]+)" \|', SECURITY, re.MULTILINE)
    whole = " ".join(readme.split())
    assert [words for words in quoted if words not in whole] == []
    about = [each for each in sentences(readme) if ABOUT_SECURITY.search(each)]
    assert len(about) >= 10
    assert [each for each in about if not any(words in each for words in quoted)] == []
