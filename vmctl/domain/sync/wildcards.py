"""Git's wildcards (its wildmatch.c) as regular expressions that end in a bounded time.

A path is one letter for each of its bytes, as git matches bytes. The results are those of git,
with its oddities: a set that is not closed and a class that nobody knows match nothing at all, and
where case does not count, letters in sets and after a backslash still have theirs.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator

HIGH = 0xDC00  # a byte that is not ASCII, as the error handler "surrogateescape" writes it
GLOB_SPECIAL = re.compile(r"[*?\[\\]")
NEVER = "(?!)"
LETTER = "[^/]"
_CLASSES = {
    "alnum": string.ascii_letters + string.digits,
    "alpha": string.ascii_letters,
    "blank": " \t",
    "cntrl": "".join(map(chr, [*range(32), 127])),
    "digit": string.digits,
    "graph": string.ascii_letters + string.digits + string.punctuation,
    "lower": string.ascii_lowercase,
    "print": string.ascii_letters + string.digits + string.punctuation + " ",
    "punct": string.punctuation,
    "space": " \t\n\v\f\r",
    "upper": string.ascii_uppercase,
    "xdigit": string.hexdigits,
}
_BYTES = [chr(byte) if byte < 128 else chr(HIGH + byte) for byte in range(1, 256)]


class _Unmatchable(Exception):
    """The pattern matches nothing."""


def compile_name(pattern: str, *, any_case: bool = False) -> re.Pattern[str] | None:
    """About one name, which holds no slash; None where it matches nothing."""
    return _compiled(pattern, any_case)


def compile_path(pattern: str, *, any_case: bool = False) -> re.Pattern[str] | None:
    """About a whole path below the pattern's folder; None where it matches nothing."""
    found = GLOB_SPECIAL.search(pattern)
    # git compares what stands before the first wildcard, and has wildmatch begin behind it
    end = found.start() if found else len(pattern)
    return _compiled(pattern[end:], any_case, before=pattern[:end])


def _compiled(pattern: str, any_case: bool, before: str = "") -> re.Pattern[str] | None:
    try:
        literal = "".join(_letter(letter, any_case) for letter in before)
        return re.compile(f"{literal}{_translated(pattern, any_case)}\\Z", re.DOTALL)
    except _Unmatchable:
        return None


def _translated(pattern: str, any_case: bool) -> str:
    """A star keeps to the first place where what follows up to the next one fits.

    That decides as well, for the next star takes any rest. Trying all places takes for ever with
    a handful of stars, and a pattern may come from anywhere.
    """
    # between two folders' stars: pieces that begin with a star of letters, but for the first
    groups: list[tuple[str, list[str]]] = [("", [""])]
    for kind, text in _tokens(pattern, any_case):
        if kind == "text":
            groups[-1][1][-1] += text
        elif kind == "star":
            groups[-1][1].append("")
        else:
            groups.append((kind, [""]))
    last = len(groups) - 1
    source = ""
    for number, (kind, pieces) in enumerate(groups):
        is_last = number == last
        first, *more = pieces
        body = first
        for place, piece in enumerate(more):
            if place == len(more) - 1:
                # the last star before the end, or before a star of folders, reaches the end of
                # a name: it is the one that may have to go on trying
                body += f"{LETTER}*{piece}" if is_last else f"{LETTER}*?{piece}"
            else:
                body += f"(?>{LETTER}*?{piece})"
        gap = {"": "", "folders": "(?:.*?/)??", "any": ".*?"}[kind]
        if is_last:
            gap = {"": "", "folders": "(?:.*/)?", "any": ".*"}[kind]
            source += gap + body
        else:
            source += f"(?>{gap}{body})"
    return source


def _tokens(pattern: str, any_case: bool) -> Iterator[tuple[str, str]]:
    """("text", regex), ("star", ""), ("folders", "") for `**/`, ("any", "") for another `**`."""
    at, size = 0, len(pattern)
    while at < size:
        letter = pattern[at]
        if letter == "*":
            begin = at
            while at < size and pattern[at] == "*":
                at += 1
            bound = begin == 0 or pattern[begin - 1] == "/"
            if at - begin > 1 and bound and pattern.startswith("/", at):
                at += 1
                yield "folders", ""
            elif at - begin > 1 and bound and (at == size or pattern.startswith("\\/", at)):
                yield "any", ""
            else:
                yield "star", ""
            continue
        if letter == "[":
            at, text = _set(pattern, at + 1, any_case)
        elif letter == "?":
            text = LETTER
        elif letter == "\\":
            at += 1
            if at == size or (any_case and pattern[at] in string.ascii_uppercase):
                raise _Unmatchable
            text = _letter(pattern[at], any_case)
        else:
            text = _letter(letter, any_case)
        yield "text", text
        at += 1


def _letter(letter: str, any_case: bool) -> str:
    if any_case and letter in string.ascii_letters:
        return f"[{letter.lower()}{letter.upper()}]"
    return re.escape(letter)


def _set(pattern: str, at: int, any_case: bool) -> tuple[int, str]:
    """Where the set ends that begins before `at`, and the same set as a regular expression."""
    negated = pattern[at : at + 1] in ("!", "^") and at < len(pattern)
    at += negated
    matched: set[str] = set()
    before = ""  # the letter from which a range may reach on
    first = True
    while first or pattern[at : at + 1] != "]":
        first = False
        letter = pattern[at : at + 1]
        if not letter:
            raise _Unmatchable
        if letter == "\\":
            at += 1
            letter = pattern[at : at + 1]
            if not letter:
                raise _Unmatchable
            matched.add(letter)
        elif letter == "-" and before and pattern[at + 1 : at + 2] not in ("", "]"):
            at += 1
            if pattern[at] == "\\":
                at += 1
                if at == len(pattern):
                    raise _Unmatchable
            matched |= {one for one in _BYTES if before <= one <= pattern[at]}
            if any_case:
                matched |= {
                    one for one in string.ascii_lowercase if before <= one.upper() <= pattern[at]
                }
            letter = ""
        elif letter == "[" and pattern[at + 1 : at + 2] == ":":
            end = pattern.find("]", at + 2)
            if end < 0:
                raise _Unmatchable
            if end > at + 2 and pattern[end - 1] == ":":
                name = pattern[at + 2 : end - 1]
                if name not in _CLASSES:
                    raise _Unmatchable
                matched |= set(_CLASSES[name])
                if name == "upper" and any_case:
                    matched |= set(string.ascii_lowercase)
                at, letter = end, ""
            else:
                matched.add("[")
        else:
            matched.add(letter)
        before = letter
        at += 1
    if any_case:  # the path's letters are all small then
        matched -= set(string.ascii_uppercase)
        matched |= {one.upper() for one in matched if one in string.ascii_lowercase}
    allowed = [one for one in _BYTES if (one in matched) != negated and one != "/"]
    return at, f"[{''.join(map(re.escape, allowed))}]" if allowed else NEVER
