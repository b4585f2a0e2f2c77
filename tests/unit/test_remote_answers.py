"""What comes from the VM is not trusted: paths, text, errors."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.harness.saved_outputs import saved_output
from vmctl.domain.errors import (
    AccessDenied,
    Conflict,
    HostKeyChanged,
    IntegrityError,
    InvalidInput,
    NotFound,
    Unreachable,
    VmctlError,
)
from vmctl.domain.login.ssh_target import Target, rsync_word
from vmctl.domain.runs.heartbeat import backoff_s
from vmctl.domain.runs.tunnel import Forwarding, parse_forwarding, url
from vmctl.domain.sync.remote_listing import parse_item, safe_link, safe_name, safe_relative
from vmctl.domain.sync.rsync_output import group_left_out, rsync_progress, rsync_stats
from vmctl.domain.text import guest_error, last_lines, printable

TARGET = Target("123", "10.0.0.1", 22, "ann", "/k y/id", "/k y/pins")


@pytest.mark.parametrize(
    "path",
    ["", "/etc/passwd", "..", "../x", "a/../b", "a/..", "./a", "a//b", "a/", "a/./b", "a\0b"],
)
def test_path_that_leads_outside_is_refused(path: str) -> None:
    with pytest.raises(IntegrityError):
        safe_relative(path)


@given(st.lists(st.text(min_size=1), min_size=1, max_size=5))
def test_an_accepted_path_never_leads_up(parts: list[str]) -> None:
    path = "/".join(parts)
    try:
        accepted = safe_relative(path)
    except IntegrityError:
        return
    assert not accepted.startswith("/")
    assert ".." not in accepted.split("/")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/", "a\0"])
def test_name_that_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(IntegrityError):
        safe_name(name)


def test_dots_and_dashes_in_names_are_fine() -> None:
    assert safe_relative("...a/-b/~c/.d") == "...a/-b/~c/.d"


@pytest.mark.parametrize(
    ("place", "target", "inside"),
    [
        ("a", "b", True),
        ("d/a", "../b", True),
        ("d/a", "../../b", False),
        ("a", "..", False),
        ("a", "/etc", False),
        ("a", "d/../../x", False),
        ("a", "d/../x", False),
        ("a", "", False),
    ],
)
def test_links_stay_inside_or_are_left_out(place: str, target: str, inside: bool) -> None:
    assert safe_link(place, target) is inside


def entry(kind: str, relative: str, link: str = "") -> list[object]:
    return [kind, relative, 1, 5, 0o4755, link]


def test_listing_keeps_no_special_mode_bits() -> None:
    answer = {
        "wanted": "d",
        "base": "d",
        "path": "/d",
        "kind": "dir",
        "files": [entry("file", "a")],
    }
    assert parse_item(answer).entries[0].mode == 0o755


@pytest.mark.parametrize(
    "files",
    [
        [entry("file", "../a")],
        [entry("file", "a"), entry("file", "a")],
        [entry("link", "a", "/etc"), entry("file", "a/passwd")],
        [entry("file", "a"), entry("file", "a/b")],
        [entry("device", "a")],
        [["file", "a", -1, 0, 0, ""]],
    ],
)
def test_listing_with_tricks_is_refused(files: list[list[object]]) -> None:
    with pytest.raises(IntegrityError):
        parse_item({"wanted": "d", "base": "d", "path": "/d", "kind": "dir", "files": files})


def test_single_file_is_one_entry_without_a_path() -> None:
    answer = {"wanted": "f", "base": "f", "path": "/f", "kind": "file"}
    assert parse_item({**answer, "files": [entry("file", "")]}).size == 1
    with pytest.raises(IntegrityError):
        parse_item({**answer, "files": [entry("file", "x")]})
    with pytest.raises(IntegrityError):
        parse_item({**answer, "base": "../f", "files": [entry("file", "")]})


# -- text ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ü 日本", "plain ü 日本"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07after", "after"),
        ("\x1b]8;;http://x\x1b\\link", "link"),
        ("10%\r20%", "10%\n20%"),
        ("a\x00\x07\x7f\x9bb", "ab"),
        ("abc\u202egnp.exe", "abcgnp.exe"),
        ("tab\tstays", "tab\tstays"),
    ],
)
def test_escapes_are_taken_out(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text())
def test_nothing_printable_can_drive_a_terminal(text: str) -> None:
    shown = printable(text)
    assert not any(ord(sign) < 32 and sign not in "\t\n" for sign in shown)
    assert "\x7f" not in shown
    assert isinstance(shown.encode("utf-8"), bytes)  # no lone surrogate is left


def test_last_lines_skip_the_empty_ones() -> None:
    assert last_lines("a\n\nb\n  \nc\n\n", 2) == "b\nc"


# -- errors ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("not_found", NotFound),
        ("conflict", Conflict),
        ("invalid", InvalidInput),
        ("disk_full", Conflict),
        ("failed", VmctlError),
        ("made up", VmctlError),
    ],
)
def test_refusal_on_the_vm_is_the_error_it_names(kind: str, expected: type[VmctlError]) -> None:
    error = guest_error({"kind": kind, "message": "no", "hint": "do"})
    assert type(error) is expected


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (saved_output("ssh-host-key-changed"), HostKeyChanged),
        (saved_output("ssh-unknown-host-key"), HostKeyChanged),
        (saved_output("ssh-permission-denied"), AccessDenied),
        (saved_output("ssh-connection-refused"), Unreachable),
        (saved_output("ssh-timed-out"), Unreachable),
        (saved_output("ssh-closed-at-once"), Unreachable),
        ("ssh: connect to host 10.0.0.1 port 22: Connection timed out", Unreachable),
        ("", Unreachable),
    ],
)
def test_ssh_says_why_and_we_translate(said: str, expected: type[VmctlError]) -> None:
    error = TARGET.failure(said)
    assert type(error) is expected
    assert "vmctl" in error.hint


# -- OpenSSH's and rsync's words ---------------------------------------------------------------


def test_configuration_holds_every_safety() -> None:
    lines = TARGET.ssh_config("/run/a b%/x.s").splitlines()
    settings = dict(line.split(maxsplit=1) for line in lines)
    assert settings["Host"] == "compute.123"
    assert settings["HostKeyAlias"] == "compute.123"
    assert settings["StrictHostKeyChecking"] == "yes"
    assert settings["UserKnownHostsFile"] == '"/k y/pins"'
    assert settings["ControlPath"] == '"/run/a b%%/x.s"'
    for name in ("ForwardAgent", "ForwardX11", "UpdateHostKeys", "CheckHostIP"):
        assert settings[name] == "no"
    for name in ("IdentitiesOnly", "BatchMode"):
        assert settings[name] == "yes"


@pytest.mark.parametrize("path", ["/run/${HOME}/x.s", "/run/a\nb/x.s"])
def test_a_path_that_openssh_would_read_otherwise_is_refused(path: str) -> None:
    with pytest.raises(InvalidInput):
        TARGET.ssh_config(path)


@pytest.mark.parametrize(
    "changed",
    [
        {"address": "-oProxyCommand=x"},
        {"address": "a b"},
        {"address": "1.2.3.4\nProxyCommand x"},
        {"user": "a b"},
        {"user": "-l"},
        {"instance_id": "1/../2"},
        {"port": 0},
    ],
)
def test_target_takes_no_words_for_the_configuration(changed: dict[str, object]) -> None:
    given = {
        "instance_id": "1",
        "address": "10.0.0.1",
        "port": 22,
        "user": "ann",
        "key_file": "k",
        "known_hosts": "h",
    }
    with pytest.raises(ValueError, match=r"not an? "):
        Target(**{**given, **changed})  # type: ignore[arg-type]


def test_another_address_is_another_connection() -> None:
    moved = Target("123", "10.0.0.2", 22, "ann", "/k y/id", "/k y/pins")
    assert moved.digest != TARGET.digest
    assert moved.alias == TARGET.alias


def test_rsync_words_are_quoted_its_way() -> None:
    assert rsync_word('a "b" c') == '"a ""b"" c"'


@pytest.mark.parametrize(
    ("line", "done"),
    [
        ("     32768  45%  10.00MB/s    0:00:01", 32768),
        ("  1,234,567 100%    1.2MB/s    0:00:00 (xfr#3, to-chk=0/9)", 1234567),
        ("sending incremental file list", None),
        ("", None),
    ],
)
def test_progress_is_read_from_rsync(line: str, done: int | None) -> None:
    assert rsync_progress(line) == done


@pytest.mark.parametrize("saved", ["rsync-push", "rsync-push-thousands"])
def test_stats_and_progress_are_read_from_a_saved_push(saved: str) -> None:
    text = saved_output(saved)
    stats = rsync_stats(text)
    assert (stats.files, stats.bytes, stats.sent) == (1200, 5_185_200, 5_255_194)
    done = [count for line in re.split(r"[\r\n]", text) if (count := rsync_progress(line))]
    assert done == [4321, 4321, 2_592_600, 2_596_921, 5_185_200, 5_185_200]


def test_stats_are_read_whatever_separates_thousands() -> None:
    text = """Number of regular files transferred: 1,234
Total transferred file size: 5.678.901 bytes
Total bytes sent: 99"""
    stats = rsync_stats(text)
    assert (stats.files, stats.bytes, stats.sent) == (1234, 5678901, 99)
    assert rsync_stats("nothing known").files == 0


def test_left_out_is_counted_by_rule() -> None:
    grouped = group_left_out([("r", "b"), ("r", "a"), ("s", "c")])
    assert [(group.rule, group.count, group.examples) for group in grouped] == [
        ("r", 2, ("a", "b")),
        ("s", 1, ("c",)),
    ]


# -- tunnels -----------------------------------------------------------------------------------

SERVICES = [("tensorboard", 8898), ("jupyter", 8888)]


@pytest.mark.parametrize(
    ("what", "port", "expected"),
    [
        ("tensorboard", None, Forwarding(8898, 8898, "tensorboard")),
        ("jupyter", 9000, Forwarding(9000, 8888, "jupyter")),
        ("8000", None, Forwarding(8000, 8000)),
        ("8000:80", None, Forwarding(8000, 80)),
        ("8000:80", 9, Forwarding(9, 80)),
    ],
)
def test_word_for_a_tunnel(what: str, port: int | None, expected: Forwarding) -> None:
    assert parse_forwarding(what, SERVICES, port) == expected


@pytest.mark.parametrize("what", ["0", "65536", "80:0", "99999999"])
def test_port_out_of_range_is_refused(what: str) -> None:
    with pytest.raises(InvalidInput):
        parse_forwarding(what, SERVICES, None)


def test_unknown_service_names_the_nearest() -> None:
    with pytest.raises(NotFound) as caught:
        parse_forwarding("tensorbord", SERVICES, None)
    assert caught.value.hint == "vmctl tunnel tensorboard"


def test_token_is_quoted_in_the_url() -> None:
    assert url(Forwarding(80, 80), "a&b") == "http://127.0.0.1:80/?token=a%26b"
    assert url(Forwarding(80, 80)) == "http://127.0.0.1:80/"


def test_backoff_is_quick_then_steady() -> None:
    waits = [backoff_s(attempt) for attempt in range(40)]
    assert waits[0] == 0.2
    assert waits == sorted(waits)
    assert max(waits) == 0.5


GUEST = Path(__file__).resolve().parents[2] / "vmctl" / "guest"


def hints() -> list[str]:
    """The hints of the helpers' own errors; X for what is filled in."""
    calls = [
        node
        for path in sorted(GUEST.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "GuestError"
    ]
    texts = [call.args[2] for call in calls if len(call.args) > 2]
    return [re.sub(r"\{[^}]*\}", "X", ast.unparse(text).lstrip("f")[1:-1]) for text in texts]


@pytest.mark.parametrize("hint", hints())
def test_every_hint_of_our_own_helpers_is_shown(hint: str) -> None:
    """`guest_error` drops a hint that a shell could take for more than words about vmctl."""
    assert guest_error({"kind": "conflict", "message": "No.", "hint": hint}).hint == hint
