"""The table of what vmctl believes of Compute Engine."""

from __future__ import annotations

import pytest

from vmctl.domain.google.assumptions import (
    ASSUMPTIONS,
    Assumption,
    Basis,
    Outcome,
    completed,
    finding,
)

LOOKED_AT = [one.id for one in ASSUMPTIONS if one.how]


def test_every_name_stands_for_one_assumption() -> None:
    names = [one.id for one in ASSUMPTIONS]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("one", ASSUMPTIONS, ids=lambda one: one.id)
def test_a_sentence_is_a_sentence(one: Assumption) -> None:
    assert one.sentence[0].isupper()
    assert one.sentence.endswith(".")


def test_one_is_looked_at_or_out_of_sight_never_both() -> None:
    with pytest.raises(ValueError, match="odd"):
        Assumption("odd", "It is odd.", Basis.KNOWLEDGE, "looks", "cannot look")
    with pytest.raises(ValueError, match="odd"):
        Assumption("odd", "It is odd.", Basis.KNOWLEDGE)


def test_what_nobody_looked_at_says_why() -> None:
    seen = [finding("ssh-rule", Outcome.DIFFERS, "it is not open")]
    every = {one.id: one for one in completed(seen, "it ended early")}
    assert list(every) == [one.id for one in ASSUMPTIONS]
    assert every["ssh-rule"].outcome is Outcome.DIFFERS
    assert every["login"].evidence == "it ended early"
    assert every["per-second"].evidence == "only the bill tells"
    assert {one.outcome for name, one in every.items() if name != "ssh-rule"} == {Outcome.UNSEEN}
