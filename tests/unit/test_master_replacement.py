"""What goes wrong while a new master is opened is told in its own words."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from vmctl.ssh.session.reconnect import MasterReplacement


class FullDisk:
    """A control master whose lock cannot be written."""

    inode = 1

    class lock:  # noqa: N801
        @staticmethod
        def acquire() -> bool:
            raise OSError(errno.ENOSPC, "No space left on device", "/run/x.lock")

        @staticmethod
        def release() -> None:
            pass


def test_an_error_of_this_computer_stays_what_it_is() -> None:
    master: Any = FullDisk()
    replacement = MasterReplacement(master, 1, None)
    with pytest.raises(OSError, match="No space left") as caught:
        replacement.result()
    assert caught.value.errno == errno.ENOSPC
    replacement.end()
