"""Whether this computer is Google's is read from its firmware: a network may be silent for long."""

from __future__ import annotations

import sys

import pytest

from vmctl.cloud.errors import is_google_machine

asked: list[str] = []


def test_no_address_is_asked_whether_this_is_a_machine_of_googles(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("NO_GCE_CHECK", "GCE_METADATA_HOST", "GCE_METADATA_ROOT"):
        monkeypatch.delenv(name, raising=False)
    sys.addaudithook(lambda event, _: asked.append(event))
    asked.clear()
    is_google_machine()
    assert "open" in asked
    assert not [event for event in asked if event.startswith("socket.")]
