"""What a pull does with a path, from its three versions."""

from __future__ import annotations

import pytest

from vmctl.domain.merging import NOTHING, Content, Verdict, decide

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


def test_records_of_a_push_are_read() -> None:
    assert Content.parse(None) is None
    told = {"kind": "link", "link": "x", "sha256": ""}
    assert Content.parse(told) == Content("link", "x")
    assert Content.parse({"kind": "file", "link": "", "sha256": "s"}) == Content("file", "s")
