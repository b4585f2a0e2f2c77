"""What nvidia-smi's answers mean."""

from __future__ import annotations

import pytest

from vmctl.domain.machine.image import Image, brings_driver
from vmctl.domain.readiness.nvidia import Driver


@pytest.mark.parametrize(
    ("answer", "expected", "simulated"),
    [
        ("Tesla T4, 580.95.05\n", Driver(("Tesla T4",), "580.95.05"), False),
        (
            "NVIDIA L4, 570.1\nNVIDIA L4, 570.1\n",
            Driver(("NVIDIA L4", "NVIDIA L4"), "570.1"),
            False,
        ),
        (
            "Tesla T4 (simulated), 580.00-simulated\n",
            Driver(("Tesla T4 (simulated)",), "580.00-simulated"),
            True,
        ),
    ],
)
def test_a_line_per_gpu(answer: str, expected: Driver, simulated: bool) -> None:
    driver = Driver.parse(answer)
    assert driver == expected
    assert driver.is_simulated is simulated


@pytest.mark.parametrize(
    "answer", ["", "No devices were found\n", "NVIDIA-SMI has failed because it couldn't…\n"]
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
