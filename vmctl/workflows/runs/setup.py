"""Prepare a VM for runs: tools, vmctl's helpers, and the interpreter that jobs get."""

from __future__ import annotations

from vmctl.clock import Clock
from vmctl.domain.events import Finished, Info, Started, Story, Warned
from vmctl.domain.text import SetupReport
from vmctl.guest.protocol import PREPARE
from vmctl.ssh import rpc
from vmctl.ssh.session.remote import Remote


def prepare_machine(remote: Remote, *, clock: Clock | None = None) -> Story[SetupReport]:
    """Can be repeated: what was done before is not done again."""
    clock = clock or Clock()
    began = clock.monotonic()
    yield Started("setup", "Preparing the VM")
    _, archive = rpc.library()
    line = rpc.install_line({"again": False})
    done = remote.run(line, input=archive, timeout_s=rpc.INSTALL_S)
    if done.code == rpc.NOT_INSTALLED:
        raise rpc.explain_install_failure(done.stderr)
    machine = SetupReport.parse(rpc.parse_reply(PREPARE, done.code, done.stdout, done.stderr))
    what = f"Python {machine.version} at {machine.python}"
    yield Finished("setup", f"The VM is prepared: {what}", clock.monotonic() - began)
    if machine.added and not machine.done_before:
        yield Info(
            f"Installed on the VM, in addition to its own packages: {', '.join(machine.added)}"
        )
    if machine.missing:
        yield Info(f"Python on the VM has no {', '.join(machine.missing)}")
    if machine.trouble:
        yield Warned(f"Could not install missing Python packages: {machine.trouble}")
    return machine
