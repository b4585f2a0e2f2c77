"""What a user reads is plain English: no word of the dialect that this project once spoke."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = ("README.md", "SECURITY.md", "workload/README.md")

BANNED = {
    r"mend(s|ed|ing)?": "fix",
    r"anew": "again, new",
    r"told": "reported, shown",
    r"said": "printed, reported",
    r"who(m)?ever": "the user who",
    r"of (ours|mine|yours)": "our, my, your",
    r"so many": "N, this many",
    r"(?<!here )is no(?! (longer|more))": "is not a",
    r"(?<!here )are no(?! (longer|more))": "are not",
    r"doors?": "endpoint",
    r"knocks?": "probe",
    r"strangers?": "another user",
    r"errands?": "task",
    r"beside": "next to",
    r"climb(s|ed|ing)?": "bring-up",
    r"rungs?": "stage",
    r"ladders?": "stages",
    r"landings?": "destination",
    r"belongings?": "resources",
    r"wish(es|ed)?": "request",
    r"sky|skies": "cloud",
    r"(?<!free )trials?": "test",
    r"storms?": "many errors",
    r"begun": "started",
    r"gone": "deleted, missing",
    r"went": "stopped, disappeared",
    r"(under|on its) way": "in progress",
    r"culprits?": "cause",
}
# what may stay, and why
ALLOWED = {
    "sky, snow and woods": "what photos show",
    'result["said"]': "a script that runs on the VM, not a text",
    "beside=os.path": "the same",
}


def texts_of(path: Path) -> Iterator[tuple[int, str]]:
    """A file's string literals of two words and more; of docstrings those that --help shows."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    hidden = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            shown = "commands" in path.parts and getattr(node, "decorator_list", None)
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and not shown:
                hidden.add(id(first.value))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = " ".join(node.value.split())
            if id(node) not in hidden and " " in text:
                yield node.lineno, text


def paragraphs_of(path: Path) -> Iterator[tuple[int, str]]:
    """A document's lines, without its blocks of code."""
    code = False
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        code ^= line.startswith("```")
        if not code:
            yield number, line


def banned_in(text: str) -> Iterator[str]:
    for allowed in ALLOWED:
        text = text.replace(allowed, "")
    for pattern, better in BANNED.items():
        found = re.search(rf"\b({pattern})\b", text, re.IGNORECASE)
        if found:
            yield f"'{found.group()}' (better: {better})"


def test_messages_and_help_are_plain_english() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {word} in {text[:80]!r}"
        for path in sorted((ROOT / "vmctl").rglob("*.py"))
        for line, text in texts_of(path)
        for word in banned_in(text)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents_are_plain_english(name: str) -> None:
    found = [
        f"{name}:{line}: {word} in {text[:80]!r}"
        for line, text in paragraphs_of(ROOT / name)
        for word in banned_in(text)
    ]
    assert not found, "\n".join(found)
