"""The flags that say what machine `up` makes."""

from __future__ import annotations

from typing import Annotated, TypedDict

from vmctl.cli.completion import IMAGES, REGIONS, ZONES
from vmctl.cli.options import GpuOption
from vmctl.cli.parameters import option


class VmOptions(TypedDict):
    """Flags for the [vm] table of vmctl.toml, with its names; None where not given."""

    gpu: GpuOption
    machine: Annotated[
        str | None, option(metavar="TYPE", help="Machine type; by default the smallest.")
    ]
    zone: Annotated[
        str | None,
        option(metavar="ZONE", help="One zone, such as europe-west1-b.", autocompletion=ZONES),
    ]
    region: Annotated[
        str | None,
        option(
            metavar="REGION",
            help="Region whose zones are tried. Default: europe-west1.",
            autocompletion=REGIONS,
        ),
    ]
    spot: Annotated[bool | None, option("--spot/--on-demand", help="Cheaper, may be preempted.")]
    disk_gb: Annotated[int | None, option(metavar="GB", help="Boot disk size.")]
    image: Annotated[
        str | None,
        option(
            metavar="IMAGE",
            help="Image family, or project/family. Default: pytorch.",
            autocompletion=IMAGES,
        ),
    ]
    max_hours: Annotated[
        float | None,
        option(metavar="H", help="Google stops the VM after this long. Default: 12."),
    ]
    idle: Annotated[
        str | None,
        option(
            metavar="DURATION",
            help="The VM stops itself after being idle this long, or off. Default: 1h.",
        ),
    ]
    budget: Annotated[
        float | None,
        option(metavar="USD", help="Spending limit for this start; may shorten --max-hours."),
    ]
    restrict_ssh: Annotated[
        bool | None,
        option(
            "--restrict-ssh/--open-ssh",
            help="Only your own address reaches the SSH port; stays so until --open-ssh.",
        ),
    ]
    external_address: Annotated[
        bool | None,
        option(
            "--external-address/--no-external-address",
            help="Without one the VM is reached through Google's Identity-Aware Proxy (gcloud) "
            "and needs Cloud NAT for downloads.",
        ),
    ]
