"""The push verb by itself, spoken to over pipes as ssh would: full disks and odd requests."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.harness.eventually import eventually
from tests.harness.folders import public_folder
from vmctl.ssh import rpc

FRAME = struct.Struct(">cI")
CHUNK = struct.Struct(">32sQQI")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The helpers as they lie on a VM."""
    folder = tmp_path_factory.mktemp("library")
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(rpc.library()[1]))) as archive:
        archive.extractall(folder, filter="data")
    return folder


def frame(kind: bytes, data: bytes = b"") -> bytes:
    return FRAME.pack(kind, len(data)) + data


def said(files: Mapping[str, bytes], *, base: str = "", send: bool = True, **more: Any) -> bytes:
    """A whole first turn: the request, the tree and all its contents."""
    tree = {
        path: ["f", hashlib.sha256(data).hexdigest(), len(data), 10**18, 0o644]
        for path, data in files.items()
    }
    request = {
        "project": "demo", "origin": "me", "place": "here", "force": False, "dry_run": False,
        "base": base, "tree": "", **more,
    }  # fmt: skip
    told = json.dumps(request).encode() + b"\n" + frame(b"M", zlib.compress(dumped(tree)))
    for data in dict.fromkeys(files.values()):
        if send and data:
            head = CHUNK.pack(hashlib.sha256(data).digest(), len(data), 0, len(data))
            told += frame(b"R", head + data)
    return told + frame(b".")


def dumped(tree: object) -> bytes:
    return json.dumps(tree).encode()


def verb(
    library: Path, home: Path, told: bytes, via: Sequence[str] = ()
) -> tuple[int, list[dict[str, Any]], dict[str, Any]]:
    """Exit code, answers, and the error that was told."""
    done = subprocess.run(
        [*via, sys.executable, "-IB", str(library), "push"],
        input=told,
        env={"HOME": str(home), "PATH": os.environ["PATH"]},
        capture_output=True,
        check=False,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    error = json.loads(done.stderr)["error"] if done.stderr else {}
    return done.returncode, answers, error


def test_contents_that_came_unasked_are_put_in_place_at_once(library: Path, tmp_path: Path) -> None:
    code, answers, _ = verb(library, tmp_path, said({"a": b"1", "b/c": b"22", "empty": b""}))
    assert (code, [list(answer) for answer in answers]) == (0, [["done"]])
    assert (tmp_path / "Workspace/demo/b/c").read_bytes() == b"22"
    assert not list((tmp_path / ".vmctl/tmp").iterdir())


@pytest.mark.parametrize("path", ["/etc/x", "../x", "a/../../x", "a//b", "", ".", "a/"])
def test_a_path_that_leads_outside_is_refused(library: Path, tmp_path: Path, path: str) -> None:
    code, answers, error = verb(library, tmp_path, said({"ok": b"1", path: b"2"}))
    assert (code, answers, error["kind"]) == (rpc.REFUSED, [], "invalid")
    assert not (tmp_path / "Workspace").exists()


def test_wrong_bytes_are_asked_for_again_and_never_put_in_place(
    library: Path, tmp_path: Path
) -> None:
    told = said({"a": b"right"}).replace(b"right", b"wrong")
    code, answers, _ = verb(library, tmp_path, told)
    assert code == 1, "the other side left without sending it again"
    assert answers[0]["want"]["files"] == [[0, 0]]
    assert not (tmp_path / "Workspace").exists()


def begun(library: Path, home: Path) -> subprocess.Popen[bytes]:
    """A push that has started and has heard nothing yet, as over a link that hangs."""
    process = subprocess.Popen(
        [sys.executable, "-IB", str(library), "push"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"HOME": str(home), "PATH": os.environ["PATH"]},
    )
    turns = home / ".vmctl/push/.turns"
    eventually(lambda: turns.exists() and turns.stat().st_size > 0, "it has drawn its number")
    return process


def test_a_push_that_a_dead_link_brings_late_never_replaces_a_newer_one(
    library: Path, tmp_path: Path
) -> None:
    with begun(library, tmp_path) as older:
        assert verb(library, tmp_path, said({"a": b"new"}))[0] == 0
        _, told = older.communicate(said({"a": b"old"}))
    assert older.returncode == rpc.REFUSED
    assert json.loads(told)["error"]["kind"] == "conflict"
    assert (tmp_path / "Workspace/demo/a").read_bytes() == b"new"


@pytest.mark.parametrize(
    "record", ['["me", 99999999999999999999]', '{"origin": "me", "turn": "x"}', "", "junk"]
)
def test_no_clock_keeps_a_push_out_and_no_older_record(
    library: Path, tmp_path: Path, record: str
) -> None:
    lock = tmp_path / ".vmctl/push/demo.lock"
    lock.parent.mkdir(parents=True)
    lock.write_text(record)  # as an earlier vmctl wrote it, by a clock that was ahead
    assert verb(library, tmp_path, said({"a": b"1"}))[0] == 0
    (lock.parent / ".turns").unlink()  # tidied up: the number goes on from what the lock says
    assert verb(library, tmp_path, said({"a": b"2"}))[0] == 0
    assert verb(library, tmp_path, said({"a": b"3"}))[0] == 0
    assert (tmp_path / "Workspace/demo/a").read_bytes() == b"3"


def test_who_is_still_sending_when_a_conflict_is_found_can_send_to_the_end(
    library: Path, tmp_path: Path
) -> None:
    assert verb(library, tmp_path, said({"a": b"pushed"}))[0] == 0
    (tmp_path / "Workspace/demo/a").write_bytes(b"changed there")
    big = random.Random(1).randbytes(2_000_000)  # more than pipes hold: somebody must read it
    turn = said({"a": b"newer", "big": big})
    contents = turn.index(CHUNK.pack(hashlib.sha256(b"newer").digest(), 5, 0, 5)) - FRAME.size
    asking = turn[:contents] + frame(b"?")
    with subprocess.Popen(
        [sys.executable, "-IB", str(library), "push"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"HOME": str(tmp_path), "PATH": os.environ["PATH"]},
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(asking)
        process.stdin.flush()
        assert list(json.loads(process.stdout.readline())) == ["conflicts"]
        process.stdin.write(turn[contents:])  # a broken pipe where nobody reads any more
        process.stdin.close()
        assert process.wait() == 0
    assert (tmp_path / "Workspace/demo/a").read_bytes() == b"changed there"


def test_half_a_turn_changes_nothing(library: Path, tmp_path: Path) -> None:
    told = said({"a": b"1" * 1000})
    for cut in (1, 40, len(told) // 2, len(told) - 6, len(told) - 1):
        code, answers, _ = verb(library, tmp_path, told[:cut])
        assert (code, answers) != (0, [])
    assert not (tmp_path / "Workspace").exists()


UNSHARE = ["unshare", "--user", "--map-root-user", "--mount"]
SMALL_DISK = """
mount -t tmpfs -o size=2m tmpfs "$HOME" || exit 77
"$1" -I "$2" push <"$3" >/dev/null || exit 76
head -c "$5" /dev/zero >"$HOME/filler"
"$1" -I "$2" push <"$4" >/dev/null; code=$?
cat "$HOME/Workspace/demo/a"; ls "$HOME/Workspace/demo"
find "$HOME/.vmctl" -type f -size +9 >&2
exit $code
"""
LARGE = random.Random(1).randbytes(1_500_000)
TWINS = {f"twin{number}": LARGE[:700_000] for number in range(3)}
PUSHED = {"data": LARGE[:400_000], "other": LARGE[400_000:800_000]}
COPIED = {**PUSHED, "data2": PUSHED["data"], "other2": PUSHED["other"]}


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs a disk of its own")
@pytest.mark.parametrize(
    ("before", "after", "sent", "filler"),
    [
        ({}, {"big": LARGE[:900_000]}, True, 1_400_000),
        ({}, {"big": LARGE}, False, 1_000_000),
        ({}, TWINS, True, 0),
        (PUSHED, COPIED, False, 600_000),
    ],
    ids=["unasked", "asked", "the same many times", "copied here"],
)
def test_a_full_disk_is_one_error_changes_nothing_and_is_not_kept_full(
    library: Path,
    tmp_path: Path,
    before: dict[str, bytes],
    after: dict[str, bytes],
    sent: bool,
    filler: int,
) -> None:
    (tmp_path / "one").write_bytes(said({"a": b"old", **before}))
    (tmp_path / "two").write_bytes(said({"a": b"new", **after}, send=sent))
    home = tmp_path / "home"
    home.mkdir()
    words = [sys.executable, library, tmp_path / "one", tmp_path / "two", str(filler)]
    done = subprocess.run(
        [*UNSHARE, "sh", "-c", SMALL_DISK, "sh", *map(str, words)],
        env={"HOME": str(home), "PATH": os.environ["PATH"]},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    if done.returncode == 77:
        pytest.skip("no mount namespaces for this user here")
    assert done.returncode == rpc.REFUSED, done.stderr
    error, *large = done.stderr.splitlines()
    assert json.loads(error)["error"]["kind"] == "disk_full"
    assert done.stdout.split() == [b"olda", *(name.encode() for name in before)]
    assert not large, "what had arrived still fills the disk"


# -- as nobody in particular -----------------------------------------------------------------

NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
only_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")


@pytest.fixture
def nobodys(library: Path) -> Iterator[Path]:
    """A folder of uid 65534's, with the helpers in it."""
    folder = public_folder("contract")
    shutil.copytree(library, folder / "library")
    (folder / "home").mkdir()
    for path in (folder, *folder.rglob("*")):
        os.chown(path, 65534, 65534)
    yield folder
    shutil.rmtree(folder)


@only_root
def test_a_file_of_another_owner_is_replaced_by_a_copy(nobodys: Path) -> None:
    home = nobodys / "home"

    def push(files: dict[str, bytes]) -> tuple[int, dict[str, Any]]:
        told = said(files)
        code, _, error = verb(nobodys / "library", home, told, NOBODY)
        return code, error

    assert push({"a": b"1", "b": b"1"}) == (0, {})
    theirs = home / "Workspace/demo/a"
    os.chown(theirs, 0, 0)  # as a container rewrites it
    os.utime(theirs)
    assert push({"a": b"1", "b": b"22"}) == (0, {})
    assert (theirs.read_bytes(), theirs.stat().st_mtime_ns) == (b"1", 10**18)
    assert theirs.stat().st_uid == 65534
    assert (home / "Workspace/demo/b").read_bytes() == b"22"


COMPLETE = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from vmctl_guest.sync.staging import _complete
_complete(*map(Path, sys.argv[2:]))
"""


@only_root
def test_half_a_read_only_file_is_completed(nobodys: Path) -> None:
    half, old, whole = (nobodys / name for name in ("half", "old", "whole"))
    half.write_bytes(b"new")
    half.chmod(0o444)  # rsync gives it the mode of its original
    old.write_bytes(b"old and the rest")
    os.chown(half, 65534, 65534)
    words = [*NOBODY, sys.executable, "-B", "-c", COMPLETE, nobodys / "library", half, old, whole]
    bare = {"PATH": os.environ["PATH"]}  # nobody may not write where coverage is kept
    done = subprocess.run(
        list(map(str, words)), env=bare, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert whole.read_bytes() == b"new and the rest"
