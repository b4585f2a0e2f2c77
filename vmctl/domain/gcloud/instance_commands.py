"""The machine in gcloud's words: made, limited, started, stopped and deleted as vmctl does it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vmctl.domain.gcloud.steps import Place, Step, login_step
from vmctl.domain.machine.instance_spec import InstanceSpec
from vmctl.domain.network.firewall import IAP_RANGE
from vmctl.domain.network.ssh_restriction import ALLOW_PRIORITY, DENY_PRIORITY, RuleNames

LONGEST_VALUE = 300  # characters of a metadata item that stands on the line itself
OWN_ADDRESS = "YOUR-ADDRESS/32"
_DELIMITERS = "~|;!@#%\x1f"  # single ones: a value's last letter cannot begin one


def long_values(metadata: Mapping[str, str]) -> dict[str, str]:
    """The metadata items that gcloud better reads from files."""
    return {
        key: text
        for key, text in metadata.items()
        if "\n" in text.strip("\n") or len(text) > LONGEST_VALUE
    }


def create(
    plan: InstanceSpec,
    metadata: Mapping[str, str],
    files: Mapping[str, str],
    google_project: str,
    other_zones: Sequence[str] = (),
) -> tuple[Step, ...]:
    """A VM as `vmctl up` makes it; `files` says where the long ones of its metadata items are."""
    where = (f"--zone={plan.zone}", *([f"--project={google_project}"] if google_project else []))
    short = {key: text for key, text in metadata.items() if key not in files}
    gpu = plan.gpu and f"--accelerator=type={plan.gpu.accelerator},count={plan.gpu.count}"
    ssd = plan.machine.has_local_ssd
    words = [
        f"--machine-type={plan.machine.name}",
        *([gpu] if gpu else []),
        f"--image-project={plan.image.project}",
        f"--image-family={plan.image.family}",
        f"--boot-disk-size={plan.disk_gb}GB",
        f"--boot-disk-type={plan.disk_type}",
        *_network(plan),
        f"--provisioning-model={'SPOT' if plan.spot else 'STANDARD'}",
        f"--maintenance-policy={plan.machine.choose_maintenance(spot=plan.spot)}",
        "--no-restart-on-failure",
        f"--max-run-duration={plan.max_run_s}s",
        "--instance-termination-action=STOP",
        *(["--discard-local-ssds-at-termination-timestamp=true"] if ssd else []),
        "--no-service-account",
        "--no-scopes",
        "--no-shielded-secure-boot",
        "--shielded-vtpm",
        "--shielded-integrity-monitoring",
        f"--labels={_join_pairs(plan.labels)}",
        f"--tags={','.join(plan.tags)}",
        f"--metadata={_join_metadata(short)}",
        *([f"--metadata-from-file={_join_pairs(files)}"] if files else []),
    ]
    elsewhere = f" (out of capacity there? then in {', '.join(other_zones)})" if other_zones else ""
    return (
        Step(
            f"the machine, which Google itself stops after {plan.max_run_s / 3600:g} h{elsewhere}",
            ("gcloud", "compute", "instances", "create", plan.name, *where, *words),
        ),
        Step(
            "the same labels on its disk",
            ("gcloud", "compute", "disks", "add-labels", plan.name, *where,
             f"--labels={_join_pairs(plan.labels)}"),
        ),
    )  # fmt: skip


def restrict_ssh(place: Place, network: str, description: str) -> tuple[Step, ...]:
    """SSH limited to one address, as with --restrict-ssh: a way in, then nobody else."""
    names = RuleNames.of(place.name)
    common = (
        f"--project={place.google_project}", f"--network={network}", "--direction=INGRESS",
        f"--target-tags={place.name}", f"--description={description}",
    )  # fmt: skip
    source = IAP_RANGE if place.through_iap else OWN_ADDRESS
    create = ("gcloud", "compute", "firewall-rules", "create")
    look = login_step(place, "echo $SSH_CONNECTION").argv
    return (
        *(() if place.through_iap else (Step("the first word is your address", look),)),
        Step(
            f"SSH to this VM from {source} …",
            (*create, names.allow, *common, "--action=ALLOW", "--rules=tcp:22",
             f"--priority={ALLOW_PRIORITY}", f"--source-ranges={source}"),
        ),
        Step(
            "… and from nowhere else, whatever the network's other rules say",
            (*create, names.deny, *common, "--action=DENY", "--rules=tcp:22",
             f"--priority={DENY_PRIORITY}", "--source-ranges=0.0.0.0/0"),
        ),
    )  # fmt: skip


def start(place: Place) -> tuple[Step, ...]:
    """A stopped VM comes back."""
    return (
        Step(
            "if it is stopped: start it again (its address changes)",
            ("gcloud", "compute", "instances", "start", place.name, *place.where),
        ),
    )


def check_gpu(place: Place) -> tuple[Step, ...]:
    """What `up` waits for."""
    return (login_step(place, "nvidia-smi"),)


def stop(place: Place, *, has_local_ssd: bool) -> tuple[Step, ...]:
    """The meter stops; the disk stays."""
    ssd = ["--discard-local-ssd=true"] if has_local_ssd else []
    return (
        Step(
            "processors and GPUs are no longer billed, the disk still is",
            ("gcloud", "compute", "instances", "stop", place.name, *place.where, *ssd),
        ),
    )


def delete(place: Place) -> tuple[Step, ...]:
    """Nothing is left."""
    return (
        Step(
            "deletes the VM and its boot disk for good",
            ("gcloud", "compute", "instances", "delete", place.name, *place.where, "--quiet"),
        ),
    )


def _network(plan: InstanceSpec) -> list[str]:
    parts = []
    if plan.network or not plan.subnetwork:
        parts.append(f"network={plan.network or 'default'}")
    if plan.subnetwork:
        parts.append(f"subnet={plan.subnetwork}")
    if not plan.external_address:
        parts.append("no-address")
    if plan.machine.wants_gvnic:
        parts.append("nic-type=GVNIC")
    return [f"--network-interface={','.join(parts)}"]


def _join_pairs(values: Mapping[str, str]) -> str:
    return ",".join(f"{key}={text}" for key, text in values.items())


def _join_metadata(values: Mapping[str, str]) -> str:
    """Pairs as gcloud reads them, with a delimiter that no value holds."""
    delimiter = next(
        mark for mark in _DELIMITERS if not any(mark in text for text in values.values())
    )
    return f"^{delimiter}^" + delimiter.join(f"{key}={text}" for key, text in values.items())
