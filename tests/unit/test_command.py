"""Commands become one shell line, and a shell reads back the very words."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmctl.domain.command import Command, command, quote_path

WORDS = st.lists(st.text(st.characters(exclude_characters="\0")), min_size=1)


@given(WORDS)
def test_a_shell_reads_back_the_very_words(words: list[str]) -> None:
    assert shlex.split(str(command(*words))) == words


@pytest.mark.parametrize("argv", [(), ("echo", "a\0b")])
def test_what_no_shell_can_be_given_is_refused(argv: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="a command"):
        Command(argv)


@pytest.mark.parametrize(
    ("path", "word"),
    [
        ("~", "~"),
        ("~/", "~/"),
        ("~/Workspace/a b", "~/'Workspace/a b'"),
        ("/srv/it's", """'/srv/it'"'"'s'"""),
        ("~else", "'~else'"),
    ],
)
def test_only_a_leading_home_is_left_to_the_shell(path: str, word: str) -> None:
    assert quote_path(path) == word
