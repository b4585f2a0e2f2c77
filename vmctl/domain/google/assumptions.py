"""What vmctl believes of Compute Engine without having it in writing, one line each.

Each is on the path of `up`, or of what follows it. `vmctl selftest` looks at all that ten minutes
of the smallest machine can show, and names the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum


class Basis(StrEnum):
    """Where a belief comes from."""

    KNOWLEDGE = "common knowledge"
    EXPERIENCE = "operators' experience"
    REPORTED = "seen in one report"
    SOURCES = "read in Google's tools"


class Outcome(StrEnum):
    """What a look at the service says about a belief."""

    HOLDS = "holds"
    DIFFERS = "does not hold"
    UNSEEN = "could not be seen"


@dataclass(frozen=True, slots=True)
class Assumption:
    """One belief: its short stable name, the sentence, how it is looked at or why it is not."""

    id: str
    sentence: str
    basis: Basis
    how: str = ""
    out_of_sight: str = ""  # why no small CPU machine can show it

    def __post_init__(self) -> None:
        if bool(self.how) == bool(self.out_of_sight):
            raise ValueError(f"{self.id} is either looked at or out of sight")


@dataclass(frozen=True, slots=True)
class AssumptionResult:
    """What was seen of one assumption."""

    id: str
    sentence: str
    basis: str
    outcome: Outcome
    evidence: str


_K, _J, _R, _S = Basis.KNOWLEDGE, Basis.EXPERIENCE, Basis.REPORTED, Basis.SOURCES
_GPU = "it takes a GPU, which the self-test does not buy"

ASSUMPTIONS: tuple[Assumption, ...] = (
    # -- read for nothing
    Assumption(
        "forbidden-body",
        "A call without permission is refused with 403 and names the permission.",
        _K,
        "asks for the VMs of Google's own image project",
    ),
    Assumption(
        "image-pytorch",
        "The image family that `--image pytorch` means exists.",
        _R,
        "asks for the family's newest image",
    ),
    Assumption(
        "image-ubuntu",
        "The image family that `--image ubuntu` means exists.",
        _K,
        "asks for the family's newest image",
    ),
    Assumption(
        "gpu-zones",
        "The region's zones offer every GPU that the shipped table gives them.",
        _R,
        "compares the table with acceleratorTypes",
    ),
    Assumption(
        "ssh-rule",
        "The default network lets tcp:22 in, by a rule of priority 65534.",
        _J,
        "reads the rule default-allow-ssh",
    ),
    Assumption(
        "quota-metrics",
        "The quotas that `up` looks at exist under these names.",
        _R,
        "reads the quotas of the project and of the region",
    ),
    Assumption(
        "quota-refusal",
        "What exceeds a quota is refused with the metric, its limit and its region.",
        _R,
        "asks for an empty disk one GB larger than the quota for SSDs",
    ),
    # -- the machine is made
    Assumption(
        "creation-listed",
        "A creation in progress is among the project's unfinished operations.",
        _J,
        "looks for it right after having asked for the VM",
    ),
    Assumption(
        "request-replayed",
        "The same request ID again starts nothing new and answers with the first operation.",
        _K,
        "asks for the VM a second time with the ID of the first",
    ),
    Assumption(
        "name-taken",
        "A second VM of the same name in the zone is refused as existing already.",
        _K,
        "asks for it with a new request ID",
    ),
    Assumption(
        "no-service-account",
        "A VM that is asked for without a service account has none, and no token inside.",
        _J,
        "reads the VM, and asks the metadata server from inside",
    ),
    Assumption(
        "disk-labels",
        "The labels given for the boot disk are on it, so that it is found when left behind.",
        _K,
        "reads the disk",
    ),
    Assumption(
        "quota-counts",
        "An N1 host with a balanced disk and an address counts as CPUS, SSD_TOTAL_GB and "
        "IN_USE_ADDRESSES.",
        _K,
        "reads the quotas before and after",
    ),
    Assumption(
        "run-limit-stamp",
        "A running VM shows when its run limit will end it: its start plus the limit.",
        _S,
        "reads terminationTimestamp",
    ),
    Assumption("limit-fixed", "The run limit cannot be moved while the VM runs.", _S, "tries to"),
    Assumption(
        "start-when-running",
        "Starting a running VM does nothing and is not an error.",
        _K,
        "starts it",
    ),
    Assumption(
        "stale-fingerprint",
        "Metadata changed from an outdated copy is refused with 412.",
        _R,
        "sends an old fingerprint",
    ),
    # -- inside
    Assumption(
        "host-keys",
        "The VM publishes its ed25519 host key as a guest attribute at its first boot.",
        _S,
        "waits for it",
    ),
    Assumption(
        "login",
        "The image makes the user that ssh-keys names, with sudo and without a password.",
        _K,
        "logs in with the pinned host key and runs `sudo -n true`",
    ),
    Assumption("guest-python", "The image has a python3 of 3.10 or later.", _J, "asks it"),
    Assumption("guest-tools", "The image brings tmux and rsync.", _J, "looks for them"),
    Assumption(
        "os-login-off",
        "OS Login that a project asks for is off on a VM that says so: its keys count.",
        _K,
        "reads what the project asks for, and logs in anyway",
    ),
    Assumption(
        "startup-script",
        "A startup-script runs as root at every boot, and may write guest attributes.",
        _S,
        "lets one write who it is at two boots",
    ),
    Assumption(
        "shutdown-inside",
        "A shutdown from inside ends in TERMINATED, with an operation guestTerminate.",
        _K,
        "shuts it down from inside",
    ),
    # -- off and on again
    Assumption(
        "address-released",
        "A VM that is off has no external address and no time at which it will be ended.",
        _S,
        "reads it",
    ),
    Assumption(
        "shortest-limit",
        "A run limit of 30 seconds is accepted while the VM is off, and one of 29 is not.",
        _K,
        "tries both",
    ),
    Assumption(
        "limit-anew",
        "The run limit counts again from each start.",
        _S,
        "starts it again and reads terminationTimestamp",
    ),
    Assumption(
        "start-while-stopping",
        "Starting a VM that is stopping is refused as not ready: try again.",
        _R,
        "starts it while it is STOPPING",
    ),
    Assumption("stop-twice", "Stopping a stopped VM is not an error.", _S, "stops it again"),
    # -- gone
    Assumption(
        "disk-goes-along",
        "The boot disk is deleted with its VM if autoDelete was set.",
        _K,
        "looks for the disk afterwards",
    ),
    Assumption("gone-is-404", "Reading or deleting what was deleted answers 404.", _K, "does both"),
    # -- what this does not buy
    Assumption(
        "request-window",
        "A request ID is remembered for an hour at least.",
        _K,
        out_of_sight="it takes an hour",
    ),
    Assumption(
        "stockout-body",
        "A zone without capacity ends the operation with ZONE_RESOURCE_POOL_EXHAUSTED, and may "
        "name zones that have some.",
        _R,
        out_of_sight="it takes a day without capacity",
    ),
    Assumption(
        "quota-gpu-everywhere",
        "GPUS_ALL_REGIONS is 0 in new projects and counts Spot GPUs, too.",
        _R,
        out_of_sight=_GPU,
    ),
    Assumption(
        "secure-boot",
        "Secure boot keeps NVIDIA's modules out, so it is off.",
        _K,
        out_of_sight=_GPU,
    ),
    Assumption(
        "driver-time",
        "An image that installs its driver at the first boot takes 3 to 8 minutes.",
        _K,
        out_of_sight=_GPU,
    ),
    Assumption(
        "old-gpus", "The image's PyTorch has no code for GPUs before the T4.", _K, out_of_sight=_GPU
    ),
    Assumption("gvnic", "G2, A2, A3 and A4 machines take gVNIC.", _K, out_of_sight=_GPU),
    Assumption("hyperdisk", "A3 Ultra and A4 boot from Hyperdisk only.", _K, out_of_sight=_GPU),
    Assumption(
        "p100-hosts",
        "One P100 goes on a host of 16 vCPUs at most, four on one of 96.",
        _K,
        out_of_sight=_GPU,
    ),
    Assumption(
        "small-a3",
        "A3 High with 1, 2 or 4 GPUs is sold as Spot or Flex-start only.",
        _K,
        out_of_sight=_GPU,
    ),
    Assumption(
        "preempted",
        "A Spot VM that is taken back leaves an operation compute.instances.preempted.",
        _R,
        out_of_sight="nobody can ask Google to take one back",
    ),
    Assumption(
        "host-restart",
        "With automaticRestart off, a VM whose host failed stays off.",
        _J,
        out_of_sight="nobody can ask Google to fail a host",
    ),
    Assumption(
        "per-second",
        "A VM is billed by the second, one minute at least.",
        _K,
        out_of_sight="only the bill tells",
    ),
)
BY_ID: Mapping[str, Assumption] = {one.id: one for one in ASSUMPTIONS}


def finding(name: str, outcome: Outcome, evidence: str) -> AssumptionResult:
    """What was seen of the assumption of this name."""
    one = BY_ID[name]
    return AssumptionResult(one.id, one.sentence, str(one.basis), outcome, evidence)


def completed(seen: Iterable[AssumptionResult], why_not: str) -> tuple[AssumptionResult, ...]:
    """One finding per assumption, in the table's order; what nobody looked at says why."""
    by_id = {one.id: one for one in seen}
    return tuple(
        by_id.get(one.id) or finding(one.id, Outcome.UNSEEN, one.out_of_sight or why_not)
        for one in ASSUMPTIONS
    )
