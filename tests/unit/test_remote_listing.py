"""A listing from the VM is checked before anything is written; its names are shown on one line."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmctl.domain.errors import IntegrityError
from vmctl.domain.sync.remote_listing import Listing, RequestedPaths, names, safe_link, sane_time
from vmctl.domain.text import one_line

GOOD: dict[str, Any] = {
    "found": [
        {
            "wanted": "out",
            "base": "out",
            "inside": "src/out",
            "path": "/home/ann/Workspace/p/src/out",
            "kind": "dir",
            "files": [
                ["dir", "deep", 0, 1, 0o755, ""],
                ["file", "deep/a", 7, 2, 0o644, ""],
                ["link", "deep/b", 0, 3, 0o777, "a"],
            ],
        }
    ],
    "missing": [],
    "run": "train-1",
    "going": True,
}

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=7) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=12,
)


def places(listing: Listing) -> list[str]:
    found = []
    for item in listing.items:
        for top in (item.base, item.inside):
            found += [
                f"{top}/{entry.relative}" if entry.relative else top for entry in item.entries
            ]
    return found


def test_a_good_listing_is_read() -> None:
    listing = Listing.parse(json.loads(json.dumps(GOOD)))
    assert places(listing)[:3] == ["out/deep", "out/deep/a", "out/deep/b"]
    assert (listing.items[0].size, listing.run, listing.going) == (7, "train-1", True)


def put(listing: dict[str, Any], keys: list[str | int], value: object) -> dict[str, Any]:
    copy: Any = json.loads(json.dumps(listing))  # every level anew
    place = copy
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    return copy


HOSTILE = [
    "../x", "/etc/x", "..", ".", "", "a/../../x", "a//b", "a/", "x\0y", "./x",
    "../../.ssh/authorized_keys", "deep/b/x", ".a.vmctl-part", "deep/.a.vmctl-part",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_no_entry_leads_outside(name: str) -> None:
    with pytest.raises(IntegrityError) as caught:
        Listing.parse(put(GOOD, ["found", 0, "files", 1, 1], name))
    assert caught.value.exit_code == 9


@pytest.mark.parametrize("name", ["../x", "/x", "..", ".", "", "a/b", "x\0", ".x.vmctl-part"])
def test_no_base_leads_outside(name: str) -> None:
    with pytest.raises(IntegrityError):
        Listing.parse(put(GOOD, ["found", 0, "base"], name))


@pytest.mark.parametrize("name", ["../x", "/x", "..", "a/../../b", "a//b"])
def test_no_path_to_keep_leads_outside(name: str) -> None:
    with pytest.raises(IntegrityError):
        Listing.parse(put(GOOD, ["found", 0, "inside"], name))


@given(
    st.sampled_from(["wanted", "base", "inside", "path", "kind", "files"]),
    anything,
)
def test_whatever_stands_in_an_item_is_read_or_refused(key: str, value: object) -> None:
    try:
        listing = Listing.parse({**GOOD, "found": [{**GOOD["found"][0], key: value}]})
    except IntegrityError:
        return
    for place in places(listing):
        assert not place.startswith("/")
        assert not {"..", ".", ""} & set(place.split("/"))


@given(st.integers(0, 5), anything)
def test_whatever_stands_in_an_entry_is_read_or_refused(field: int, value: object) -> None:
    entry = list(GOOD["found"][0]["files"][1])
    entry[field] = value
    item = {**GOOD["found"][0], "files": [GOOD["found"][0]["files"][0], entry]}
    try:
        listing = Listing.parse({**GOOD, "found": [item]})
    except IntegrityError:
        return
    for place in places(listing):
        assert not {"..", ".", ""} & set(place.split("/"))
    for found in listing.items[0].entries:
        assert found.mode & ~0o777 == 0
        assert found.size >= 0
        assert 0 <= found.mtime_ns <= 1 << 62


@given(anything)
def test_whatever_comes_is_read_or_refused(value: object) -> None:
    try:
        Listing.parse(value)  # type: ignore[arg-type]
    except IntegrityError:
        pass


@pytest.mark.parametrize("size", [float("inf"), float("nan"), "x", None, [], -1])
def test_a_size_that_is_none_is_refused(size: object) -> None:
    with pytest.raises(IntegrityError):
        Listing.parse(put(GOOD, ["found", 0, "files", 1, 2], size))


# -- what was asked for ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "inside", "kind", "meant"),
    [
        ("model.pt", "model.pt", "file", True),
        ("src/model.pt", "src/model.pt", "file", True),
        ("~/Workspace/p/model.pt", "model.pt", "file", True),
        ("out/", "out", "dir", True),
        ("*.pt", "a.pt", "file", True),
        ("runs/**", "runs", "dir", True),
        ("runs/**", "runs/1", "dir", True),
        ("**/x.pt", "a/b/x.pt", "file", True),
        (".", "p", "dir", True),
        ("~", "ann", "dir", True),
        (".env", ".env", "file", True),
        (".cache/x", ".cache/x", "file", True),
        ("x", "x.y", "file", False),
        ("model.pt", "vmctl.toml", "file", False),
        ("*.pt", "a.py", "file", False),
        ("*", ".git", "dir", False),
        (".", ".git", "dir", True),  # saved under the project's name, whatever the VM says
        (".", "file", "file", False),
        ("x", ".git/hooks/x", "file", False),
    ],
)
def test_only_what_the_paths_mean_was_asked_for(
    path: str, inside: str, kind: str, meant: bool
) -> None:
    assert (saved_as(path, inside, kind) is not None) is meant


def saved_as(
    path: str, inside: str, kind: str = "file", *, parents: bool = False, **more: Any
) -> str | None:
    """Under which name an answer to a path is saved; None where it is refused."""
    changed = {"base": inside.rpartition("/")[2], "inside": inside, "kind": kind, "wanted": path}
    found = {**GOOD["found"][0], **changed, **more}
    if kind == "file":
        found["files"] = [["file", "", 4, 1, 0o644, ""]]
    (item,) = Listing.parse({**GOOD, "found": [found]}).items
    asked = RequestedPaths((path,), "p", folders=("work", ".work"), outputs=("work/deep/best.pt",))
    try:
        return asked.place_of(item, parents=parents)
    except IntegrityError:
        return None


def test_the_name_to_save_is_the_name_that_was_asked_for() -> None:
    assert saved_as("model.pt", "vmctl.toml", base="model.pt") is None
    assert saved_as("model.pt", "model.pt", wanted="vmctl.toml") is None


@pytest.mark.parametrize("base", ["src", "p", ".git", "x"])
def test_where_no_name_was_typed_the_name_is_ours(base: str) -> None:
    assert saved_as(".", base, "dir") == "p"
    assert saved_as("./", base, "dir", parents=True) == "p"
    assert saved_as("~", base, "dir") == "home"


@pytest.mark.parametrize(
    ("path", "inside", "meant"),
    [
        ("x.pt", "x.pt", True),
        ("x.pt", "work/x.pt", True),
        ("x.pt", "elsewhere/x.pt", False),
        ("best.pt", "work/deep/best.pt", True),
        ("a/x.pt", "work/a/x.pt", True),
        ("a/x.pt", "b/a/x.pt", False),
        ("~/Workspace/p/src/x.pt", "src/x.pt", True),
        ("~/Workspace/p/src/x.pt", "Workspace/p/src/x.pt", True),
        ("/data/x.pt", "data/x.pt", True),
        ("/data/x.pt", "src/x.pt", False),
        ("**/x.pt", "a/b/x.pt", True),
        ("**/x.pt", "x.pt", True),
        ("a/*/x.pt", "a/b/x.pt", True),
        ("a/*/x.pt", "a/b/c/x.pt", False),
        ("a/*/x.pt", "b/a/x.pt", False),
    ],
)
def test_the_vm_chooses_no_folder_to_keep_either(path: str, inside: str, meant: bool) -> None:
    assert (saved_as(path, inside, parents=True) == inside) is meant


def test_the_hidden_folder_of_a_job_may_come_with_its_outputs() -> None:
    assert saved_as("out", ".other/out", "dir") is None
    assert saved_as("out", ".work/out", "dir") == "out"


# -- what git would use ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [".git", ".GIT", ".Git", ".g\u200cit", "\ufeff.git", ".git.", ".git ", ".git::$INDEX", "git~1",
     ".git:x:$DATA", "GIT~1", "a\\.git", ".git\\config"],
)  # fmt: skip
def test_what_git_would_obey_is_left_out_of_a_folder(name: str) -> None:
    files = [
        ["file", "a", 1, 1, 420, ""],
        ["dir", name, 0, 1, 0o755, ""],
        ["file", f"{name}/config", 1, 1, 420, ""],
        ["dir", f"deep/{name}", 0, 1, 0o755, ""],
        ["file", f"deep/{name}/config", 1, 1, 420, ""],
        ["file", "z", 1, 1, 420, ""],
    ]
    listing = Listing.parse({**GOOD, "found": [{**GOOD["found"][0], "files": files}]})
    kept = [(entry.relative, entry.number) for entry in listing.items[0].entries]
    assert kept == [("a", 0), ("z", 3)], "files keep the numbers that the VM sends them under"
    assert listing.obeyed == (f"out/{name}", f"out/deep/{name}")
    assert listing.files == 4


def test_a_folder_that_git_takes_for_a_repository_comes_without_its_head() -> None:
    names = ["HEAD", "config", "objects/x", "refs/x", "sub/head", "sub/commondir", "ok/HEAD"]
    files = [["file", name, 1, 1, 420, ""] for name in names]
    listing = Listing.parse({**GOOD, "found": [{**GOOD["found"][0], "files": files}]})
    assert listing.obeyed == ("out/HEAD", "out/sub/head")


@pytest.mark.parametrize(
    "name", ["git", "digit", ".gitignore", ".github", "git~2", ".git2", "x.git", ".gi t"]
)
def test_other_names_are_none_that_git_obeys(name: str) -> None:
    files = [["file", name, 1, 1, 420, ""]]
    assert not Listing.parse({**GOOD, "found": [{**GOOD["found"][0], "files": files}]}).obeyed


# -- names for people ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("plain ü.txt", "plain ü.txt"),
        ("two\nlines", "two\\nlines"),
        ("a\x1b[31mred", "a\\x1b[31mred"),
        ("bad\udcff", "bad\\xff"),
        ("\x9b0m", "\\x9b0m"),
        ("tab\tcr\r", "tab\\tcr\\r"),
        ("gpj\u202eexe", r"gpj\u202eexe"),
    ],
)
def test_a_name_is_shown_on_one_line(name: str, seen: str) -> None:
    assert one_line(name) == seen


@given(st.text())
def test_no_name_drives_a_terminal(name: str) -> None:
    seen = one_line(name)
    assert not any(ord(sign) < 32 or 0x7F <= ord(sign) <= 0x9F for sign in seen)
    seen.encode("utf-8")


def test_many_names_are_cut() -> None:
    assert names(["a", "b"]) == "a, b"
    assert names(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"


def test_times_no_file_system_keeps_are_drawn_in() -> None:
    assert sane_time(-5) == 0
    assert sane_time(10**30) == 1 << 62


# -- links -----------------------------------------------------------------------------------

parts = st.sampled_from(["a", "b", "..", ".", "", "c"])


@given(
    st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=4),
    st.lists(parts, min_size=1, max_size=7),
)
def test_a_link_that_is_kept_never_leads_out(place: list[str], target: list[str]) -> None:
    text = "/".join(target)
    if not safe_link("/".join(place), text):
        return
    depth = len(place) - 1
    below = False
    for part in target:
        if part == "..":
            # behind a name, which may be a link itself, ".." would lead anywhere
            assert not below
            depth -= 1
        elif part not in ("", "."):
            below = True
    assert depth >= 0
