"""A connection that is late, told from one that is dead, by what Linux shows of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from vmctl.ssh.session.liveness import SocketActivity, sends

HEAD = (
    "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt"
    "   uid  timeout inode\n"
)
ROW = (
    "   0: 02004E0A:D3A2 0A004D0A:0016 01 {tx}:00000000 {timer}:00000014 {again}"
    "     0        0 {ino} 2 0\n"
)


def process(folder: Path, *, tx: str, timer: str, again: str, ino: str = "4711") -> Path:
    """What /proc shows of a process with one TCP connection."""
    (folder / "fd").mkdir(parents=True)
    (folder / "fd" / "3").symlink_to("socket:[4711]")
    (folder / "fd" / "4").symlink_to("pipe:[99]")
    (folder / "net").mkdir()
    row = ROW.format(tx=tx, timer=timer, again=again, ino=ino)
    (folder / "net" / "tcp").write_text(HEAD + row)
    (folder / "net" / "tcp6").write_text(HEAD)
    return folder


@pytest.mark.parametrize(
    ("seen", "alive"),
    [
        ({"tx": "0001F400", "timer": "01", "again": "00000000"}, True),
        ({"tx": "0001F400", "timer": "01", "again": "00000003"}, False),  # sent again, unanswered
        ({"tx": "00000000", "timer": "02", "again": "00000000"}, False),  # nothing under way
        ({"tx": "0001F400", "timer": "04", "again": "00000000"}, False),  # nobody takes it there
        ({"tx": "0001F400", "timer": "01", "again": "00000000", "ino": "1"}, False),  # another's
    ],
)
def test_bytes_under_way_that_are_taken_are_a_sign_of_life(
    tmp_path: Path, seen: dict[str, str], alive: bool
) -> None:
    assert sends(process(tmp_path / "p", **seen)) is alive


def test_a_process_that_is_gone_shows_none(tmp_path: Path) -> None:
    assert not sends(tmp_path / "nobody")
    assert not SocketActivity(0).is_recent()
