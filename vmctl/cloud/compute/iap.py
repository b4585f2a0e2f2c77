"""Reaches a VM without an external address: gcloud's tunnel through Identity-Aware Proxy."""

from __future__ import annotations

import shutil

from vmctl.cloud import emulator_process
from vmctl.config import Project
from vmctl.domain.command import command
from vmctl.domain.errors import NotFound
from vmctl.domain.machine.instance import Instance
from vmctl.domain.network.firewall import SSH_PORT


def tunnel_command(project: Project, instance: Instance) -> str:
    """The command whose standard streams are a connection to the VM's SSH port.

    gcloud uses the account of `gcloud auth login`. Raises NotFound without gcloud.
    """
    program = shutil.which("gcloud")
    if program is None:
        raise NotFound(
            f"{instance.name} has no external address: reaching it needs gcloud's tunnel, "
            "and gcloud is not installed.",
            hint="Install it: https://cloud.google.com/sdk/docs/install",
        )
    words = [
        program, "compute", "start-iap-tunnel", instance.name, str(SSH_PORT),
        "--listen-on-stdin", f"--zone={instance.zone}", f"--project={instance.google_project}",
        "--verbosity=error", "--quiet",
    ]  # fmt: skip
    if not project.local:
        return str(command(*words))
    folder = emulator_process.home()
    running = emulator_process.find(folder)
    if running is None:
        raise NotFound(
            "The embedded Compute Engine does not answer.", hint="Start it: vmctl emulator start"
        )
    settings = {
        "CLOUDSDK_CONFIG": str(folder / "gcloud"),
        **running.gcloud,
        emulator_process.REQUESTS_TRUST[0]: str(
            running.certificate
        ),  # it would beat gcloud's own setting
    }
    pairs = [f"{name}={value}" for name, value in settings.items()]
    return str(command("env", *pairs, *words, f"--iap-tunnel-url-override={running.iap}"))
