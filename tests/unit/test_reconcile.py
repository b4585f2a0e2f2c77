"""What a pull does with a path, from its three versions."""

from __future__ import annotations

import pytest

from vmctl.domain.sync.reconcile import NOTHING, Content, Verdict, decide, judge

ONE, TWO, THREE = (Content("file", letter) for letter in "123")
LINK = Content("link", "1")


@pytest.mark.parametrize(
    ("before", "here", "there", "verdict"),
    [
        (ONE, ONE, TWO, Verdict.TAKE),
        (ONE, ONE, LINK, Verdict.TAKE),
        (ONE, TWO, TWO, Verdict.SAME),
        (ONE, THREE, TWO, Verdict.BOTH),
        (ONE, Content("other"), TWO, Verdict.BOTH),
        (ONE, NOTHING, TWO, Verdict.GONE_HERE),
        (ONE, ONE, NOTHING, Verdict.GONE_THERE),
        (ONE, TWO, NOTHING, Verdict.GONE_THERE_BOTH),
        (ONE, NOTHING, NOTHING, Verdict.SAME),
        (None, NOTHING, TWO, Verdict.TAKE),
        (None, ONE, TWO, Verdict.MADE),
        (None, TWO, TWO, Verdict.SAME),
        (LINK, ONE, TWO, Verdict.BOTH),  # a link to "1" is no file with the sum "1"
    ],
)
def test_only_what_is_as_pushed_is_replaced_unasked(
    before: Content | None, here: Content, there: Content, verdict: Verdict
) -> None:
    assert decide(before, here, there) is verdict


def test_what_is_left_alone_says_why() -> None:
    assert {v for v in Verdict if not v.is_conflict} == {Verdict.SAME, Verdict.TAKE}


def test_our_record_of_a_push_is_read() -> None:
    assert Content.of(None) is None
    assert Content.of(["d"]) is None
    assert Content.of(["l", "x"]) == Content("link", "x")
    assert Content.of(["f", "s", 1, 2, 0o644]) == Content("file", "s")


@pytest.mark.parametrize(
    ("path", "pushed", "here", "named", "verdict"),
    [
        # what was pushed and is as pushed
        ("train.py", ONE, ONE, [], Verdict.TAKE),
        ("train.py", ONE, THREE, [], Verdict.BOTH),
        # what nobody pushed comes only by name, or by its folder's
        ("new.ipynb", None, NOTHING, [], Verdict.NEW),
        ("new.ipynb", None, NOTHING, [""], Verdict.NEW),
        ("new.ipynb", None, NOTHING, ["new.ipynb"], Verdict.TAKE),
        ("notes/new.ipynb", None, NOTHING, ["notes"], Verdict.TAKE),
        ("notes/new.ipynb", None, NOTHING, ["note"], Verdict.NEW),
        ("train.py", None, THREE, [], Verdict.NEW),
        ("train.py", None, THREE, ["train.py"], Verdict.MADE),
        # what is obeyed here comes only by its own name, pushed or not
        (".envrc", ONE, ONE, [], Verdict.OBEYED),
        (".envrc", None, NOTHING, [""], Verdict.OBEYED),
        ("a/.vscode/tasks.json", ONE, ONE, ["a"], Verdict.OBEYED),
        (".vscode/tasks.json", ONE, ONE, [".vscode"], Verdict.TAKE),
        ("lib/x.pth", ONE, ONE, ["lib"], Verdict.OBEYED),
        ("lib/x.pth", ONE, ONE, ["lib/x.pth"], Verdict.TAKE),
        (".envrc", None, NOTHING, [".envrc"], Verdict.TAKE),
        (".envrc", ONE, TWO, [], Verdict.SAME),
    ],
)
def test_the_vm_chooses_no_names(
    path: str, pushed: Content | None, here: Content, named: list[str], verdict: Verdict
) -> None:
    assert judge(path, pushed, here, TWO, named, has_record=True) is verdict
    assert verdict in (Verdict.SAME, Verdict.TAKE) or verdict.is_conflict


def test_without_a_record_nothing_that_differs_is_replaced_even_by_force() -> None:
    verdict = judge("train.py", None, ONE, TWO, [], has_record=False)
    assert verdict is Verdict.UNKNOWN
    assert verdict.needs_name
    assert judge("train.py", None, ONE, TWO, ["train.py"], has_record=False) is Verdict.MADE
    assert judge("train.py", None, TWO, TWO, [], has_record=False) is Verdict.SAME
