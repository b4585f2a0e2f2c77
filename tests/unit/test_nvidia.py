"""What nvidia-smi's answers mean."""

from __future__ import annotations

import pytest

from tests.harness.saved_outputs import saved_output
from vmctl.domain.machine.image import Image, brings_driver
from vmctl.domain.readiness.nvidia import Driver


@pytest.mark.parametrize(
    ("saved", "expected", "simulated"),
    [
        ("t4", Driver(("Tesla T4",), "580.95.05"), False),
        ("two-l4", Driver(("NVIDIA L4", "NVIDIA L4"), "570.124.06"), False),
        ("simulated", Driver(("Tesla T4 (simulated)",), "580.00-simulated"), True),
    ],
)
def test_a_line_per_gpu(saved: str, expected: Driver, simulated: bool) -> None:
    driver = Driver.parse(saved_output(f"nvidia-smi-{saved}"))
    assert driver == expected
    assert driver.is_simulated is simulated


@pytest.mark.parametrize(
    "answer", ["", saved_output("nvidia-smi-none"), "NVIDIA-SMI has failed because it couldn't…\n"]
)
def test_no_gpu_is_no_driver(answer: str) -> None:
    assert Driver.parse(answer) is None


@pytest.mark.parametrize(
    ("image", "brings"),
    [
        ("pytorch", True),
        ("ubuntu-os-accelerator-images/ubuntu-accelerator-2404-amd64-with-nvidia-580", True),
        ("ubuntu", False),
        ("debian", False),
    ],
)
def test_which_images_bring_a_driver(image: str, brings: bool) -> None:
    assert brings_driver(Image.parse(image)) is brings
