"""A tree has one name on both sides, and the difference of two leads from one to the other."""

from __future__ import annotations

import json
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from vmctl.domain.limits import LISTED
from vmctl.domain.sync import remote_listing
from vmctl.domain.sync.tree import TreeEntry, difference, named
from vmctl.guest import installer, protocol
from vmctl.guest.protocol import tree_id
from vmctl.guest.sync import receiver

ENTRY = st.one_of(
    st.tuples(st.just("f"), st.sampled_from(["aa", "bb"]), st.integers(0, 9), st.just(7)).map(list),
    st.tuples(st.just("l"), st.text()).map(list),
    st.just(["d"]),
)
TREE = st.dictionaries(st.text(min_size=1) | st.just("caf\udce9"), ENTRY, max_size=6)


@given(TREE)
def test_both_sides_name_a_tree_alike(tree: dict[str, TreeEntry]) -> None:
    over_the_wire = json.loads(json.dumps(tree))
    assert tree_id(tree) == tree_id(over_the_wire)


@given(TREE, TREE)
def test_the_difference_leads_from_one_tree_to_the_other(
    base: dict[str, TreeEntry], tree: dict[str, TreeEntry]
) -> None:
    put, gone = difference(base, tree)
    made = {path: entry for path, entry in {**base, **put}.items() if path not in gone}
    assert made == tree
    assert difference(tree, tree) == ({}, [])


@given(st.sets(st.integers(0, 40)))
def test_numbers_travel_as_ranges(numbers: set[int]) -> None:
    names = [str(number) for number in range(41)]
    ranges = receiver._ranges(numbers)
    assert named(ranges, names) == [str(number) for number in sorted(numbers)]
    assert all(after[0] > before[1] + 1 for before, after in pairwise(ranges))


def test_what_cannot_import_the_protocol_agrees_with_it() -> None:
    """The domain imports no helper, and the installer runs before there is anything to import."""
    assert LISTED == protocol.LISTED
    assert remote_listing.PART_SUFFIX == protocol.PART_SUFFIX
    assert installer.NOT_INSTALLED == protocol.NOT_INSTALLED
