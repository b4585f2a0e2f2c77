"""Times whole commands in turn, A B A B …, and prints medians and ratios from this one run."""

from __future__ import annotations

import contextlib
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from scripts.benchmarks.cloud import VMCTL, BenchCloud
from scripts.benchmarks.programs import EMPTY_APP
from tests.harness.eventually import eventually

# what a cold `vmctl up` has to import before it can do anything: the floor that it stands on
IMPORTS_OF_UP = (
    "import vmctl.cli.app, vmctl.workflows.machine.up, vmctl.cloud.client,"
    "googleapiclient.discovery, google.auth.credentials, fabric, paramiko,"
    "vmctl.ssh.session.bootstrap, vmctl.ssh.session.openssh"
)


class CommandBench(BenchCloud):
    """Commands timed one after the other."""

    image = "ubuntu-2404-lts-amd64"
    runs = 7  # timed, of each command

    def once(self, argv: Sequence[str]) -> float:
        """Seconds that one run of a command takes; a failure stops the bench."""
        began = time.perf_counter()
        done = subprocess.run(
            argv,
            cwd=self.folder,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        took = time.perf_counter() - began
        if done.returncode:
            raise SystemExit(f"{' '.join(argv)} ended with {done.returncode}:\n{done.stderr}")
        return took

    def compare(
        self,
        contestants: Mapping[str, Sequence[str]],
        *,
        runs: int | None = None,
        between: Callable[[str], None] = lambda _: None,
    ) -> dict[str, float]:
        """The median seconds of each command, run in turn; `between` tidies up after each."""
        seconds: dict[str, list[float]] = {name: [] for name in contestants}
        for turn in range((runs or self.runs) + 1):
            for name, argv in contestants.items():
                took = self.once(argv)
                between(name)
                if turn:  # the first turn warms the file cache
                    seconds[name].append(took)
        return {name: statistics.median(values) for name, values in seconds.items()}

    def gcloud_environ(self) -> dict[str, str]:
        """The exports of `vmctl emulator env`, as a dict."""
        exports = self.vmctl("emulator", "env")
        shell = subprocess.run(
            ["bash", "-c", exports + "\nenv -0"], env={}, capture_output=True, text=True, check=True
        ).stdout
        pairs = (item.split("=", 1) for item in shell.split("\0") if "=" in item)
        return {key: value for key, value in pairs if key.startswith(("CLOUDSDK_", "REQUESTS_"))}


def show(title: str, seconds: Mapping[str, float], against: str) -> None:
    """One table: seconds, and every row's ratio to `against`."""
    print(f"\n{title}")
    for name, value in seconds.items():
        print(f"  {name:<44} {value:7.3f} s   {value / seconds[against]:6.2f} x")


def bench_cli(bench: CommandBench) -> None:
    """`--help` and `status` compared with an empty typer app and gcloud."""
    empty = bench.base / "empty.py"
    empty.write_text(EMPTY_APP)
    commands = {
        "empty typer app --help": [sys.executable, str(empty), "--help"],
        "vmctl --help": [VMCTL, "--help"],
    }
    gcloud = shutil.which("gcloud")
    if gcloud:
        commands["gcloud --help"] = [gcloud, "--help"]
    show("Help (reach: at most 1.3 x)", bench.compare(commands), "empty typer app --help")

    bench.once([VMCTL, "up", "--gpu", "t4"])
    commands = {"vmctl status": [VMCTL, "status"]}
    if gcloud:
        bench.environ |= bench.gcloud_environ()
        commands["gcloud compute instances list"] = [gcloud, "compute", "instances", "list"]
    show("State of a VM", bench.compare(commands), "vmctl status")
    bench.once([VMCTL, "down", "--delete", "--yes"])


def bench_up(bench: CommandBench) -> None:
    """`up` compared with `gcloud compute instances create`, and what `up` adds to the machine."""
    gcloud = shutil.which("gcloud")
    commands = {"vmctl up (until it can train)": [VMCTL, "up", "--gpu", "t4", "--yes"]}
    undo = {"vmctl up (until it can train)": [VMCTL, "down", "--delete", "--yes"]}
    if gcloud:
        bench.environ |= bench.gcloud_environ()
        name = "gcloud compute instances create (not yet ssh)"
        place = ["--zone", "europe-west1-b"]
        commands[name] = [
            gcloud, "compute", "instances", "create", "peer", *place,
            "--machine-type", "n1-standard-4", "--accelerator", "type=nvidia-tesla-t4,count=1",
            "--maintenance-policy", "TERMINATE", "--image-family", "ubuntu-2404-lts-amd64",
            "--image-project", "ubuntu-os-cloud",
        ]  # fmt: skip
        undo[name] = [gcloud, "compute", "instances", "delete", "peer", *place, "--quiet"]
    seconds = bench.compare(
        commands, runs=max(3, bench.runs // 2), between=lambda name: void(bench.once(undo[name]))
    )
    show("A machine with a T4", seconds, "vmctl up (until it can train)")

    whole = seconds["vmctl up (until it can train)"]
    imports = statistics.median(
        bench.once([sys.executable, "-c", IMPORTS_OF_UP]) for _ in range(max(3, bench.runs // 2))
    )
    machine = statistics.median(machine_seconds(bench, turn) for turn in range(3))
    print("\nWhat `up` adds to the machine's own time (reach: at most 0.5 s)")
    print(f"  {'whole command':<44} {whole:7.3f} s")
    print(f"  {'- interpreter and imports alone':<44} {imports:7.3f} s")
    print(f"  {'- the machine: insert until sshd answers':<44} {machine:7.3f} s")
    print(f"  {'= added by vmctl':<44} {whole - imports - machine:7.3f} s")


def void(_: object) -> None:
    """Forget a result."""


def machine_seconds(bench: CommandBench, turn: int) -> float:
    """Seconds from the insert request until the machine's sshd sends its banner."""
    zone = "zones/europe-west1-b"
    name = f"bare-{turn}"
    body = {
        "name": name,
        "machineType": "zones/europe-west1-b/machineTypes/n1-standard-4",
        "guestAccelerators": [
            {
                "acceleratorType": "zones/europe-west1-b/acceleratorTypes/nvidia-tesla-t4",
                "acceleratorCount": 1,
            }
        ],
        "scheduling": {"onHostMaintenance": "TERMINATE"},
        "disks": [
            {
                "boot": True,
                "autoDelete": True,
                "initializeParams": {
                    "sourceImage": "projects/ubuntu-os-cloud/global/images/family/"
                    "ubuntu-2404-lts-amd64"
                },
            }
        ],
        "networkInterfaces": [
            {"network": "global/networks/default", "accessConfigs": [{"type": "ONE_TO_ONE_NAT"}]}
        ],
    }

    def answers() -> bool:
        """Whether its sshd does; not yet, where it has no address or nothing listens there."""
        with contextlib.suppress(OSError, KeyError, IndexError):
            found = bench.api("GET", f"{zone}/instances/{name}")
            address = found["networkInterfaces"][0]["accessConfigs"][0]["natIP"]
            items = found.get("metadata", {}).get("items", [])
            port = next((int(i["value"]) for i in items if i["key"] == "vmctl-ssh-port"), 22)
            with socket.create_connection((address, port), timeout=2) as link:
                return link.recv(4) == b"SSH-"
        return False

    began = time.perf_counter()
    bench.api("POST", f"{zone}/instances", body)
    eventually(answers, "the bare machine's sshd answers", within_s=60, gap_s=0.01)
    took = time.perf_counter() - began
    bench.api("DELETE", f"{zone}/instances/{name}")
    return took
