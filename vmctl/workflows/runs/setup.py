"""Prepare a VM for runs: tools, vmctl's helpers, and the interpreter that jobs get."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmctl.clock import Clock
from vmctl.domain.events import Finished, Info, Started, Story, Warned
from vmctl.domain.text import SetupReport
from vmctl.guest.protocol import PREPARE
from vmctl.ssh import rpc
from vmctl.ssh.session.remote import Remote

if TYPE_CHECKING:
    from vmctl.guest.machine.messages import PrepareRequest


def prepare_machine(remote: Remote, *, clock: Clock | None = None) -> Story[SetupReport]:
    """Can be repeated: what was done before is not done again."""
    clock = clock or Clock()
    began = clock.monotonic()
    place = remote.target.place
    where = "server" if place.is_server else "VM"
    yield Started("setup", f"Preparing the {where}")
    _, archive = rpc.library()
    request: PrepareRequest = {"again": False}
    if place.is_server:
        request = {"again": False, "server": True, "python": place.python}
    line = rpc.install_line(request, place)
    done = remote.run(line, input=archive, timeout_s=rpc.INSTALL_S)
    if done.code == rpc.NOT_INSTALLED:
        raise rpc.explain_install_failure(done.stderr)
    machine = SetupReport.parse(rpc.parse_reply(PREPARE, done.code, done.stdout, done.stderr))
    what = f"Python {machine.version} at {machine.python}"
    yield Finished("setup", f"The {where} is prepared: {what}", clock.monotonic() - began)
    if machine.added and not machine.done_before:
        yield Info(
            f"Installed on the VM, in addition to its own packages: {', '.join(machine.added)}"
        )
    if machine.missing:
        yield Info(f"Python on the {where} has no {', '.join(machine.missing)}")
    if machine.trouble:
        yield Warned(f"Could not install missing Python packages: {machine.trouble}")
    return machine
