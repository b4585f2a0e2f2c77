"""What a pull does with a path, from its three versions."""

from __future__ import annotations

import pytest

from vmctl.domain.sync.reconcile import NOTHING, FileState, Resolution, decide, resolve
from vmctl.guest.protocol import GuestError
from vmctl.guest.sync.reconcile import refuse_other_origin
from vmctl.guest.sync.record import PushRecord

ONE, TWO, THREE = (FileState("file", letter) for letter in "123")
LINK = FileState("link", "1")


@pytest.mark.parametrize(
    ("before", "here", "there", "resolution"),
    [
        (ONE, ONE, TWO, Resolution.TAKE),
        (ONE, ONE, LINK, Resolution.TAKE),
        (ONE, TWO, TWO, Resolution.SAME),
        (ONE, THREE, TWO, Resolution.BOTH),
        (ONE, FileState("other"), TWO, Resolution.BOTH),
        (ONE, NOTHING, TWO, Resolution.GONE_HERE),
        (ONE, ONE, NOTHING, Resolution.GONE_THERE),
        (ONE, TWO, NOTHING, Resolution.GONE_THERE_BOTH),
        (ONE, NOTHING, NOTHING, Resolution.SAME),
        (None, NOTHING, TWO, Resolution.TAKE),
        (None, ONE, TWO, Resolution.MADE),
        (None, TWO, TWO, Resolution.SAME),
        (LINK, ONE, TWO, Resolution.BOTH),  # a link to "1" is no file with the sum "1"
    ],
)
def test_only_what_is_as_pushed_is_replaced_unasked(
    before: FileState | None, here: FileState, there: FileState, resolution: Resolution
) -> None:
    assert decide(before, here, there) is resolution


def test_what_is_left_alone_says_why() -> None:
    assert {v for v in Resolution if not v.is_conflict} == {Resolution.SAME, Resolution.TAKE}


def test_our_record_of_a_push_is_read() -> None:
    assert FileState.of(None) is None
    assert FileState.of(["d"]) is None
    assert FileState.of(["l", "x"]) == FileState("link", "x")
    assert FileState.of(["f", "s", 1, 2, 0o644]) == FileState("file", "s")


@pytest.mark.parametrize(
    ("path", "pushed", "here", "named", "resolution"),
    [
        # what was pushed and is as pushed
        ("train.py", ONE, ONE, [], Resolution.TAKE),
        ("train.py", ONE, THREE, [], Resolution.BOTH),
        # what nobody pushed comes only by name, or by its folder's
        ("new.ipynb", None, NOTHING, [], Resolution.NEW),
        ("new.ipynb", None, NOTHING, [""], Resolution.NEW),
        ("new.ipynb", None, NOTHING, ["new.ipynb"], Resolution.TAKE),
        ("notes/new.ipynb", None, NOTHING, ["notes"], Resolution.TAKE),
        ("notes/new.ipynb", None, NOTHING, ["note"], Resolution.NEW),
        ("train.py", None, THREE, [], Resolution.NEW),
        ("train.py", None, THREE, ["train.py"], Resolution.MADE),
        # what is obeyed here comes only by its own name, pushed or not
        (".envrc", ONE, ONE, [], Resolution.OBEYED),
        (".envrc", None, NOTHING, [""], Resolution.OBEYED),
        ("a/.vscode/tasks.json", ONE, ONE, ["a"], Resolution.OBEYED),
        (".vscode/tasks.json", ONE, ONE, [".vscode"], Resolution.TAKE),
        ("lib/x.pth", ONE, ONE, ["lib"], Resolution.OBEYED),
        ("lib/x.pth", ONE, ONE, ["lib/x.pth"], Resolution.TAKE),
        (".envrc", None, NOTHING, [".envrc"], Resolution.TAKE),
        (".envrc", ONE, TWO, [], Resolution.SAME),
    ],
)
def test_the_vm_chooses_no_names(
    path: str, pushed: FileState | None, here: FileState, named: list[str], resolution: Resolution
) -> None:
    assert resolve(path, pushed, here, TWO, named, has_record=True) is resolution
    assert resolution in (Resolution.SAME, Resolution.TAKE) or resolution.is_conflict


def test_without_a_record_nothing_that_differs_is_replaced_even_by_force() -> None:
    resolution = resolve("train.py", None, ONE, TWO, [], has_record=False)
    assert resolution is Resolution.UNKNOWN
    assert resolution.needs_name
    assert resolve("train.py", None, ONE, TWO, ["train.py"], has_record=False) is Resolution.MADE
    assert resolve("train.py", None, TWO, TWO, [], has_record=False) is Resolution.SAME


def test_a_push_with_another_key_from_the_same_folder_says_what_differs() -> None:
    known = object.__new__(PushRecord)
    known.files, known.pending = {"a": ["dir"]}, {}
    known.origin, known.place = "old-key:/p", "here:/p"
    refuse_other_origin(known, "old-key:/p", "here:/p")
    with pytest.raises(GuestError, match="from this folder with another vmctl key: VMCTL_HOME"):
        refuse_other_origin(known, "new-key:/p", "here:/p")
    with pytest.raises(GuestError, match="already holds a push from here:/p"):
        refuse_other_origin(known, "new-key:/q", "here:/q")
