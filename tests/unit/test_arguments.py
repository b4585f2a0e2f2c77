"""Arguments after a job's name reach its program, or are refused."""

from __future__ import annotations

import re

import pytest

from vmctl.domain.errors import InvalidInput
from vmctl.domain.runs.arguments import TAKES_ARGUMENTS, check_arguments
from vmctl.guest import protocol


@pytest.mark.parametrize(
    "command",
    ["python train.py", "cd src && python train.py", "python x.py > log 2>&1", "export A=1; ./x",
     "python -c 'print(\"a | b # c\")'", 'python x.py "a;b"', "python a#b.py",
     "set -e\npython x.py",
     'python x.py "$@" | tee log', "for f in $1; do echo $f; done", "python x.py \\\n  --fast",
     "python x.py --url http://h/#top", "echo \\# hi", "python x.py ${@:2} # rest"],
)  # fmt: skip
def test_arguments_that_arrive(command: str) -> None:
    check_arguments(command, "train")


@pytest.mark.parametrize(
    ("command", "why"),
    [("python train.py 2>&1 | tee log", "a pipe"), ("python a.py || python b.py", "a pipe"),
     ("python train.py # the best", "a remark"), ("python train.py &", "'&'"),
     ("python train.py;", "';'"), ("if true; then ./x; fi", "'fi'"), ("(cd src; ./x)", "')'"),
     ("cat <<E\nx\nE", "here-document"), ("./x |& cat", "a pipe")],
)  # fmt: skip
def test_arguments_that_would_be_lost_are_refused(command: str, why: str) -> None:
    with pytest.raises(InvalidInput, match=re.escape(why)) as refused:
        check_arguments(command, "train")
    assert '"$@"' in refused.value.hint


def test_both_ends_know_which_commands_take_arguments_themselves() -> None:
    assert TAKES_ARGUMENTS == protocol.TAKES_ARGUMENTS
