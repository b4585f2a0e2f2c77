"""A machine that exists is compared with all that was asked for, not only its GPU."""

from __future__ import annotations

import pytest

from vmctl.domain.machine.drift import DesiredMachine, differences
from vmctl.domain.machine.gpu import Gpu
from vmctl.domain.machine.instance import Instance, Status

T4, L4 = Gpu("nvidia-tesla-t4"), Gpu("nvidia-l4")
HAVE = Instance("vm", "1", "europe-west1-b", Status.RUNNING, "n1-standard-4", gpu=T4, disk_gb=100)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (DesiredMachine(T4), []),
        (DesiredMachine(T4, "n1-standard-4", "europe-west1-b", "europe-west1", 100), []),
        (DesiredMachine(L4), [("T4", "L4")]),
        (DesiredMachine(None), [("T4", "no GPU")]),
        (DesiredMachine(T4, machine="n1-standard-8"), [("n1-standard-4", "n1-standard-8")]),
        (DesiredMachine(T4, zone="europe-west1-c"), [("europe-west1-b", "europe-west1-c")]),
        (DesiredMachine(T4, region="europe-west4"), [("europe-west1-b", "europe-west4")]),
        (
            DesiredMachine(T4, zone="us-central1-a", region="us-central1"),
            [("europe-west1-b", "us-central1-a")],
        ),
        (DesiredMachine(T4, spot=True), [("on demand", "Spot")]),
        (DesiredMachine(T4, disk_gb=200), [("a 100 GB disk", "200 GB")]),
        (
            DesiredMachine(L4, machine="g2-standard-8"),
            [("T4", "L4"), ("n1-standard-4", "g2-standard-8")],
        ),
    ],
)
def test_what_differs_is_named(asked: DesiredMachine, expected: list[tuple[str, str]]) -> None:
    assert differences(HAVE, asked) == expected
