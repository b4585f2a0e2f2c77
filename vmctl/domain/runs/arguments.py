"""Whether arguments that are added to a job's command reach the program that they are meant for."""

from __future__ import annotations

import re
from collections.abc import Iterator

from vmctl.domain.errors import InvalidInput

TAKES_ARGUMENTS = r"\$(?:[@*1-9]|\{[@*1-9])"  # as guest/protocol.py has it
CLOSING = {"fi", "done", "esac", "}", ")", "]]"}
PIPES = {"|", "|&", "||"}


def check_arguments(command: str, job: str) -> None:
    """Raise InvalidInput for a command whose end is not the program that the arguments are for.

    After a pipe they would go to `tee`, after a remark nowhere.
    """
    if re.search(TAKES_ARGUMENTS, command):
        return
    tokens = list(_tokens(command))
    operators = [token for token in tokens if token[0] in "|&;\n<("]
    last = next((token for token in reversed(tokens) if token != "\n"), "")
    why = ""
    if "#" in tokens:
        why = "ends with a remark"
    elif "<<" in operators:
        why = "holds a here-document"
    elif PIPES & set(operators):
        why = "is a pipe"
    elif last in {"&", ";", ";;"} or last in CLOSING:
        why = f"ends with '{last}'"
    if why:
        raise InvalidInput(
            f"The command of the job '{job}' {why}, so the arguments would not reach its program.",
            hint='Write where they belong, as "$@": '
            "command = 'python train.py \"$@\" 2>&1 | tee log'",
        )


def _tokens(command: str) -> Iterator[str]:
    """Operators and words of a shell line; a remark is "#", a quoted part belongs to its word."""
    pattern = re.compile(
        r"""(?P<space>(?:[ \t]|\\\n)+)|(?P<remark>\#[^\n]*)
        |(?P<operator>\|&|\|\||&&|;;|<<|>>|&>|>&|<&|[|&;()<>\n])|(?P<word>(?:\\.|'[^']*'|"(?:\\.|[^"\\])*"|[^\s\\'"|&;()<>]|\\|['"])+)""",
        re.VERBOSE | re.DOTALL,
    )
    at_word = True  # a "#" inside of a word is no remark
    for found in pattern.finditer(command):
        kind, text = str(found.lastgroup), found[0]
        if kind == "remark" and at_word:
            yield "#"
        elif kind in ("operator", "word"):
            yield text
        at_word = kind != "word"
