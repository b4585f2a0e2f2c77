"""The network that machines may get their addresses from, as the environment names it."""

from __future__ import annotations

import pytest

from vmctl.emulator.machines.interface import MachineError
from vmctl.emulator.machines.socket_relay import NETWORK_VARIABLE, machine_network


def test_without_the_variable_machines_are_in_the_loopback_network(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(NETWORK_VARIABLE, raising=False)
    assert machine_network() is None


def test_a_network_is_taken_as_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NETWORK_VARIABLE, "10.77.0.0/16")
    assert str(machine_network()) == "10.77.0.0/16"


@pytest.mark.parametrize("text", ["10.77.0.1/16", "10.77.0.0/29", "everywhere", "fd00::/64"])
def test_what_is_no_network_for_machines_is_refused(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv(NETWORK_VARIABLE, text)
    with pytest.raises(MachineError, match=NETWORK_VARIABLE):
        machine_network()
