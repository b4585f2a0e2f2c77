"""What is written about a VM names the server or the cluster, and commands that lead there."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vmctl.domain.settings.target_settings import SLURM, SSH, TargetSettings
from vmctl.domain.settings.target_words import reword

LAB = TargetSettings("lab", SSH, "gpu1")


@pytest.mark.parametrize(
    ("text", "on_lab"),
    [
        ("Looking for it on the VM", "Looking for it on the server"),
        ("Check the VM: vmctl ssh", "Check the server: vmctl ssh --on lab"),
        ("The VM's disk is full.", "The server's disk is full."),
        ("vmctl push && vmctl run fit", "vmctl push --on lab && vmctl run --on lab fit"),
        ("vmctl login --on lab", "vmctl login --on lab"),
        ("vmctl run --on TARGET JOB", "vmctl run --on TARGET JOB"),
        ("vmctl ssh-config; vmctl ls", "vmctl ssh-config; vmctl ls"),  # about VMs only
        ("theVM, the VMs", "theVM, the VMs"),
    ],
)
def test_sentences_about_a_vm_read_for_a_server(text: str, on_lab: str) -> None:
    assert reword(text, LAB) == on_lab


def test_a_target_of_the_file_needs_no_option() -> None:
    cluster = replace(LAB, kind=SLURM, from_file=True)
    assert reword("The VM has none: vmctl push", cluster) == "The cluster has none: vmctl push"
