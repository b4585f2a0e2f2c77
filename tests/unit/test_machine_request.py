"""What the settings ask for, before anything is sent."""

from __future__ import annotations

import pytest

from vmctl.domain.errors import InvalidInput
from vmctl.domain.machine.image import brings_torch
from vmctl.domain.settings.vm_settings import VmSettings
from vmctl.workflows.machine.request import parse_request

CLUSTER = VmSettings(gpu="none", image="slurm")


def test_a_rehearsed_cluster_is_the_emulators() -> None:
    assert brings_torch(parse_request(CLUSTER, local=True).image)
    with pytest.raises(InvalidInput, match="Google has no image 'slurm'") as refused:
        parse_request(CLUSTER, local=False)
    assert "vmctl --local up --image slurm" in refused.value.hint
