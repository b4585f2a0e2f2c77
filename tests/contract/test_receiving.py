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
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from vmctl.ssh import guest

FRAME = struct.Struct(">cI")
CHUNK = struct.Struct(">32sQQI")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The helpers as they lie on a VM."""
    folder = tmp_path_factory.mktemp("library")
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(guest.library()[1]))) as archive:
        archive.extractall(folder, filter="data")
    return folder


def frame(kind: bytes, data: bytes = b"") -> bytes:
    return FRAME.pack(kind, len(data)) + data


def said(
    files: Mapping[str, bytes], *, base: str = "", stamp: int = 1, send: bool = True, **more: Any
) -> bytes:
    """A whole first turn: the request, the tree and all its contents."""
    tree = {
        path: ["f", hashlib.sha256(data).hexdigest(), len(data), 10**18, 0o644]
        for path, data in files.items()
    }
    request = {
        "project": "demo", "origin": "me", "place": "here", "force": False, "dry_run": False,
        "base": base, "tree": "", "stamp": stamp, **more,
    }  # fmt: skip
    told = json.dumps(request).encode() + b"\n" + frame(b"M", zlib.compress(dumped(tree)))
    for data in files.values():
        if send and data:
            head = CHUNK.pack(hashlib.sha256(data).digest(), len(data), 0, len(data))
            told += frame(b"R", head + data)
    return told + frame(b".")


def dumped(tree: object) -> bytes:
    return json.dumps(tree).encode()


def verb(
    library: Path, home: Path, told: bytes
) -> tuple[int, list[dict[str, Any]], dict[str, Any]]:
    """Exit code, answers, and the error that was told."""
    done = subprocess.run(
        [sys.executable, "-I", str(library), "push"],
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
    assert (code, answers, error["kind"]) == (guest.REFUSED, [], "invalid")
    assert not (tmp_path / "Workspace").exists()


def test_wrong_bytes_are_asked_for_again_and_never_put_in_place(
    library: Path, tmp_path: Path
) -> None:
    told = said({"a": b"right"}).replace(b"right", b"wrong")
    code, answers, _ = verb(library, tmp_path, told)
    assert code == 1, "the other side left without sending it again"
    assert answers[0]["want"]["files"] == [[0, 0]]
    assert not (tmp_path / "Workspace").exists()


def test_an_older_push_never_replaces_a_newer_one(library: Path, tmp_path: Path) -> None:
    assert verb(library, tmp_path, said({"a": b"new"}, stamp=5))[0] == 0
    code, _, error = verb(library, tmp_path, said({"a": b"old"}, stamp=4))
    assert (code, error["kind"]) == (guest.REFUSED, "conflict")
    assert (tmp_path / "Workspace/demo/a").read_bytes() == b"new"


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
cat "$HOME/Workspace/demo/a"; find "$HOME" -type f -size +9 -not -name filler >&2
exit $code
"""


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs a disk of its own")
@pytest.mark.parametrize(
    ("sent", "filler"), [(True, 1_400_000), (False, 1_000_000)], ids=["unasked", "asked"]
)
def test_a_full_disk_is_one_error_changes_nothing_and_is_not_kept_full(
    library: Path, tmp_path: Path, sent: bool, filler: int
) -> None:
    big = random.Random(1).randbytes(900_000 if sent else 1_500_000)
    (tmp_path / "one").write_bytes(said({"a": b"old"}))
    (tmp_path / "two").write_bytes(said({"a": b"new", "big": big}, stamp=2, send=sent))
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
    assert done.returncode == guest.REFUSED, done.stderr
    error, *large = done.stderr.splitlines()
    assert json.loads(error)["error"]["kind"] == "disk_full"
    assert done.stdout == b"old"
    assert not large, "what had arrived still fills the disk"
