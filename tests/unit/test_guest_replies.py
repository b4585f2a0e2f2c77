"""Whatever a VM answers is what a helper writes, or one sentence: thousands of tries."""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmctl.domain.errors import IntegrityError
from vmctl.domain.guest_replies import (
    BOOT_REPORT,
    END,
    HEADER,
    REPLIES,
    TRAILER,
    WATCH_REPORT,
    listing_length,
    push_reply,
    reply,
)
from vmctl.domain.machine.server import check_server, parse_status
from vmctl.domain.machine.watchdog import WatchReport, WatchSettings, what_stops
from vmctl.domain.readiness.readiness import Observation
from vmctl.domain.reply_shapes import Shape, checked, decoded
from vmctl.domain.runs.run import RunFacts, observe, view
from vmctl.domain.sync.file_names import fits, has_git, is_git, is_obeyed
from vmctl.domain.sync.remote_listing import Listing, RequestedPaths
from vmctl.domain.text import SetupReport
from vmctl.ssh import rpc

MANY = 400
RUN = {
    "id": "train-20260101-101010-ab12",
    "spec": {
        "project": "demo", "job": "train", "directory": "src", "command": "python train.py",
        "args": ["--lr", "1e-3"], "outputs": ["model.bin"], "created_at": 1.7e9,
    },
    "phase": {"phase": "running"},
    "exit": {"code": 0, "ended_at": 1.7e9, "cancelled": False},
    "cancel_asked": False, "session": True, "log_bytes": 12, "now": 1.7e9,
}  # fmt: skip
GOOD: dict[str, dict[str, Any]] = {
    "prepare": {"python": "/usr/bin/python3", "version": "3.12", "missing": ["torch"]},
    "start": {"id": RUN["id"], "existing": False},
    "runs": {"runs": [RUN, {"id": "older"}]},
    "follow": {"run": RUN},
    "cancel": {"run": RUN, "already": True},
    "push-accept": {"accepted": ["a", "b/c"], "tree": "0" * 64},
    "service": {"started": True, "token": "ab12"},
    "server": {
        "host": "gpu1",
        "python": "/usr/bin/python3",
        "version": "3.12",
        "tmux": True,
        "rsync": True,
        "cores": 8,
        "load": 0.5,
        "driver_trouble": "",
        "torch": {"version": "2.4"},
        "gpus": [{"name": "T4", "percent": 9, "used_mb": 1, "total_mb": 2, "users": ["ann"]}],
        "room": {"free": 1, "total": 2},
        "quota": None,
        "partitions": {"gpu": {"time": "1:00:00", "gres": ["gpu:t4:2"], "nodes": 2, "idle": 1}},
    },
    "service-state": {"running": True, "tail": "listening"},
}
NUMBERS = {"put": [[0, 1]], "deleted": ["old"], "kept": [], "conflicts": [["a", "made"]]}
PUSH = [
    {"ask": "tree"},
    {"want": {"files": [[0, 0], [2, 3]], "held": {"2": 7}, "older": {"3": "x"},
              "placed": {"folder": ".vmctl/x", "older": ["../a", "../b"]}}},
    {"plan": NUMBERS},
    {"done": {**NUMBERS, "tree": "a" * 64}},
    {"conflicts": [["a", "changed"]]},
]  # fmt: skip
LISTING = {
    "found": [
        {
            "wanted": "out", "base": "out", "inside": "src/out", "path": "/home/a/out",
            "kind": "dir",
            "files": [
                ["dir", "deep", 0, 1, 0o755, ""],
                ["file", "deep/a", 7, 2, 0o644, ""],
                ["link", "deep/b", 0, 3, 0o777, "a"],
            ],
        }
    ],
    "missing": [], "left_out": [], "run": "train-1", "going": True, "ended_at": None,
}  # fmt: skip
BOOT = {
    "starting": True, "startup": "activating", "lock": "apt (process 1)", "cards": 1,
    "log": ["a line"], "driver": {"code": 0, "said": "Tesla T4, 580.95"},
    "torch": {"python": "/x", "version": "2.9", "count": 1, "available": True},
}  # fmt: skip
WATCH = {"at": 1.7e9, "busy": ["a run"], "idle_from": None, "stops_at": 1.7e9, "stops_why": "idle"}

ODD: list[Any] = [
    None, True, False, 0, -1, 1.5, 10**30, -(10**30), math.inf, -math.inf, math.nan, "", "x",
    "\0", "\n", "\x1b[2J", "\ud800", "\udcff", "../../etc/passwd", "/etc/passwd", ".git/config",
    "x" * 70_000, "9" * 400, [], {}, [[]], [{}], {"": {}}, ["x"] * 20_000, [None] * 7,
]  # fmt: skip


def damaged(value: Any, chance: random.Random) -> Any:
    """The same with one thing in it replaced, left out, doubled or renamed."""
    found = copy.deepcopy(value)
    holder, places = found, []
    while isinstance(holder, (dict, list)) and holder:
        key = chance.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        places.append((holder, key))
        if chance.random() < 0.4:
            break
        holder = holder[key]
    if not places:
        return chance.choice(ODD)
    place, key = places[-1]
    match chance.randrange(5):
        case 0 if isinstance(place, dict):
            del place[key]
        case 1 if isinstance(place, list):
            place.append(copy.deepcopy(place[key]))
        case 2 if isinstance(place, dict):
            place[chance.choice(["", "x", "error", "\0"])] = place.pop(key)
        case _:
            place[key] = copy.deepcopy(chance.choice(ODD))
    return found


def is_text(text: str) -> bool:
    """Whether nothing in it moves a terminal's cursor."""
    return not any(ord(sign) < 0x20 or 0x7F <= ord(sign) <= 0x9F for sign in text)


def sentence(error: IntegrityError) -> None:
    assert error.exit_code == 9
    assert is_text(error.message)
    assert len(error.message) < 1000


def tries(value: Any, seed: int) -> Iterator[Any]:
    chance = random.Random(seed)
    for _ in range(MANY):
        found = value
        for _ in range(chance.choice([1, 1, 1, 2, 5])):
            found = damaged(found, chance)
        yield found


@pytest.mark.parametrize("verb", sorted(REPLIES))
def test_every_good_answer_is_taken_and_every_damaged_one_is_whole_or_refused(verb: str) -> None:
    reply(verb, GOOD[verb])
    for value in tries(GOOD[verb], 1):
        text = json.dumps(value).encode()
        try:
            told = rpc.parse_reply(verb, 0, text, b"")
        except IntegrityError as error:
            sentence(error)
            continue
        runs = [told["run"]] if "run" in told else told.get("runs", [])
        for run in runs:
            facts = RunFacts.parse(run)
            shown = view(facts)
            assert is_text(shown.command.replace("\n", "").replace("\t", ""))
            assert -255 <= (facts.exit_code or 0) <= 255
            observe(facts)
        if verb == "server":
            assert is_text(parse_status("lab", "gpu1", told).text.replace("\n", ""))
            assert all(
                is_text(one.message)
                for one in check_server(parse_status("lab", "gpu1", told), told)
            )
        if verb == "prepare":
            assert is_text(SetupReport.parse(told).python)


@pytest.mark.parametrize("good", PUSH, ids=lambda value: next(iter(value)))
def test_every_damaged_turn_of_a_push_names_files_of_the_tree_or_is_refused(good: Any) -> None:
    checked(push_reply(4), good, "push")
    for value in tries(good, 2):
        try:
            told = checked(push_reply(4), value, "push")
        except IntegrityError as error:
            sentence(error)
            continue
        (what,) = told.values()
        if isinstance(what, dict):
            ranges = what.get("files", what.get("put"))
            named = [number for first, last in ranges for number in range(first, last + 1)]
            assert named == sorted(set(named))
            assert all(0 <= number < 4 for number in named)


def test_every_damaged_listing_stays_below_the_target_or_is_refused() -> None:
    asked = RequestedPaths(("out",), "demo", folders=("src",), outputs=("src/out",))
    taken = 0
    for value in tries(LISTING, 3):
        try:
            found = Listing.parse(value)
            places = [asked.place_of(item, parents=True) for item in found.items]
        except IntegrityError as error:
            sentence(error)
            continue
        taken += 1
        for item, place in zip(found.items, places, strict=True):
            for entry in item.entries:
                parts = f"{place}/{entry.relative}".split("/")
                assert not {"", ".", ".."} & set(parts)
                assert not any(map(is_git, parts))
                "/".join(parts).encode("utf-8", "surrogateescape")
    assert taken > MANY / 20, "harmless damage is taken"


@pytest.mark.parametrize(
    ("shape", "good"),
    [
        (listing_length(10), {"listing": 10}),
        (listing_length(10), {"waiting": "why"}),
        (HEADER, {"number": 0, "offset": 0, "bytes": 4}),
        (TRAILER, {"sha256": "0" * 64, "changed": False, "mtime_ns": 1, "mode": 0o644}),
        (END, {"end": True}),
        (WATCH_REPORT, WATCH),
    ],
)
def test_every_damaged_record_is_whole_or_refused(shape: Shape, good: Any) -> None:
    checked(shape, good, "x")
    for value in tries(good, 4):
        try:
            checked(shape, value, "x")
        except IntegrityError as error:
            sentence(error)


def test_every_damaged_report_is_shown_or_left_out() -> None:
    from datetime import UTC, datetime

    now = datetime.fromtimestamp(1.7e9, UTC)
    seen = Observation("vm", "z", gpus=1)
    for value in tries(BOOT, 5):
        try:
            seen.seen(checked(BOOT_REPORT, value, "report"))
        except IntegrityError as error:
            sentence(error)
    for value in tries(WATCH, 6):
        report = WatchReport.parse(json.dumps(value))
        line = what_stops(WatchSettings(idle_s=60), report, now, 12.0, now, now)
        assert is_text(line)
    for value in tries(json.loads(WatchSettings(60, 60, 60, 60).text()), 7):
        WatchSettings.parse(json.dumps(value))


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=10,
)


@settings(max_examples=500)
@given(st.sampled_from(sorted(REPLIES)), anything)
def test_whatever_is_said_is_whole_or_refused(verb: str, value: object) -> None:
    try:
        reply(verb, value)
    except IntegrityError as error:
        sentence(error)


@settings(max_examples=500)
@given(st.binary(max_size=200))
def test_whatever_bytes_come_are_json_or_none(data: bytes) -> None:
    try:
        decoded(data)
    except ValueError:
        pass
    for code in (0, 1, 7, rpc.REFUSED):
        failed = rpc.explain_failure(code, data)
        assert is_text(failed.message.replace("\n", "").replace("\t", ""))


def test_what_would_take_too_much_memory_is_counted_first() -> None:
    for text in (b"[" + b"[]," * 2_000_000 + b"[]]", b"[" * 2_000_000, b'{"":' * 2_000_000):
        with pytest.raises(ValueError, match="too much"):
            decoded(text)
    for text in (b"NaN", b'{"a": Infinity}', b"[" * 10_000, b"1" * 5000):
        with pytest.raises(ValueError):
            decoded(text)


# -- names -------------------------------------------------------------------------------------

PIECES = st.sampled_from(
    [".", "..", "g", "git", ".git", "GIT", "~1", " ", ":", "::$DATA", "\\", "/", "\u200c", "a",
     "\ufeff", "*", "?", "\n", "hooks", ".pth", "\udcff", "\ud800", "\0", "x" * 300]
)  # fmt: skip


@settings(max_examples=1000)
@given(st.lists(PIECES, max_size=8).map("".join), st.lists(PIECES, max_size=4).map("".join))
def test_whatever_a_name_is_it_is_read_or_refused(name: str, inside: str) -> None:
    found = {**LISTING["found"][0], "files": [["file", name, 1, 1, 420, ""]], "inside": inside}
    try:
        listing = Listing.parse({**LISTING, "found": [found]})
    except IntegrityError as error:
        sentence(error)
        return
    for entry in listing.items[0].entries:
        assert not has_git(entry.relative)
    is_obeyed(name)
    fits(name, inside)


@pytest.mark.parametrize(
    "path",
    [".envrc", "a/.vscode/tasks.json", ".ssh/x", ".gitattributes", "x.pth", "sitecustomize.py",
     "hooks/pre-commit", "src/hooks/post-checkout", "Desktop.ini", "\u200c.envrc", "a.desktop"],
)  # fmt: skip
def test_some_names_are_obeyed_without_being_asked(path: str) -> None:
    assert is_obeyed(path)


@pytest.mark.parametrize(
    "path", ["train.py", "notes/a.ipynb", "src/hooks/useTheme.ts", "Makefile", "x.pt", "hooks"]
)
def test_most_names_are_not(path: str) -> None:
    assert not is_obeyed(path)
