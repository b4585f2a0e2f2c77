"""How soon a command starts: its processor time compared with bare Python's, and its whole time."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from typing import Any

from scripts.benchmarks.cloud import VMCTL
from scripts.benchmarks.programs import EMPTY_APP
from scripts.benchmarks.rig import Bench, Trees, compare_with, in_turn, show, title, verdict

BARE = "python -c pass"
# what the table of `scripts/bench start` holds, from the wire's rows
ROWS = ("start", "noop", "one", "status", "first", "delta")


def row_start(bench: Bench, machines: Trees) -> None:
    """Processor time, user and system, which a busy computer changes least."""
    machine = machines["a"]
    bench.on_a_link(0, None)
    machine.vmctl("push")
    machine.warm_up()
    empty = bench.base / "empty.py"
    empty.write_text(EMPTY_APP)
    commands = {
        BARE: [sys.executable, "-c", "pass"],
        "vmctl --version": [VMCTL, "--version"],
        "vmctl exec true": [VMCTL, "exec", "true"],
        "vmctl push, nothing changed": [VMCTL, "push"],
        "vmctl --help": [VMCTL, "--help"],
        "empty typer app --help": [sys.executable, str(empty), "--help"],
    }

    def contestant(argv: list[str]) -> Callable[[], float]:
        return lambda: bench.processor(argv, cwd=machine.folder)

    title("processor time")
    times = in_turn({name: contestant(argv) for name, argv in commands.items()}, 5 * bench.runs)
    show(times, BARE)
    bare = times[BARE].least
    for name in list(commands)[1:4]:
        beyond = (times[name].least - bare) / bare
        verdict(bench, f"{name}: beyond bare Python, x bare Python", beyond, 5)
    ratio = times["vmctl --help"].least / times["empty typer app --help"].least
    verdict(bench, "vmctl --help: x an empty typer app's", ratio, 1.1)


def row_status(bench: Bench, machines: Trees) -> None:
    """The state of the VM, ours and gcloud's, as whole processes."""
    if shutil.which("gcloud") is None:
        return
    machine = machines["a"]
    bench.on_a_link(0, None)
    bench.let_gcloud_in(machine)
    contestants: dict[str, Any] = {"vmctl status": lambda: machine.vmctl("status")}
    peer = "gcloud compute instances list"
    contestants[peer] = lambda: bench.run(peer.split(), cwd=machine.folder)
    title("state of a VM")
    times = in_turn(contestants, bench.runs)
    show(times, "vmctl status")
    compare_with(bench, "status", times, peer, 0.3)
