"""Ignore patterns whose stars do not try every place: the same answers, in a bounded time."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pathspec import GitIgnoreSpec

from vmctl.workflows.sync.gitignore import decisive, slashless
from vmctl.workflows.sync.selection import select

NAME = st.lists(
    st.sampled_from(["*", "*", "a", "b", "?", "[ab]", "[!a]", ".", "\\*"]), min_size=1, max_size=7
).map("".join)
PATTERN = st.tuples(
    st.sampled_from(["", "/", "**/"]),
    st.lists(st.one_of(NAME, st.just("**")), min_size=1, max_size=6).map("/".join),
).map("".join)
PATH = st.lists(st.text("ab.*", min_size=1, max_size=6), min_size=1, max_size=7).map("/".join)


@settings(max_examples=400, deadline=None)
@given(PATTERN, st.lists(PATH, min_size=1, max_size=12))
def test_it_matches_what_the_pattern_matches(pattern: str, paths: list[str]) -> None:
    try:
        found = list(GitIgnoreSpec.from_lines([pattern]).patterns)
    except ValueError:
        return
    for one in found:
        if one.regex is not None:
            source = slashless(one.regex.pattern)
            mended = re.compile(decisive(source), re.DOTALL)
            for path in paths:
                before = re.match(source, path, re.DOTALL)
                after = mended.match(path)
                assert (before is None) == (after is None), (pattern, path, source)
                if before is not None and after is not None:
                    assert before.groupdict() == after.groupdict()


@pytest.mark.parametrize(
    "pattern",
    ["*a" * 30 + "*b", "*" * 60 + "b", "x/" + "*a" * 20 + "*b/y", "**/a/" * 40 + "b",
     "?*" * 30 + "b", "[a]*" * 30 + "b", "**/*a*a*a*a/" * 12 + "b", "*[!b]" * 30 + "*b"],
    ids=lambda text: text[:12],
)  # fmt: skip
def test_a_pattern_that_fits_nowhere_is_done_at_once(tmp_path: Path, pattern: str) -> None:
    """Told by its work, not by the clock: any of these took longer than the sun has left."""
    (tmp_path / ".gitignore").write_text(pattern)
    deep = tmp_path / "x" / "/".join(["a"] * 60)
    deep.mkdir(parents=True)
    (deep / ("a" * 200)).write_text("")
    (tmp_path / ("a" * 250)).write_text("")
    assert len(select(tmp_path).entries) == 3
