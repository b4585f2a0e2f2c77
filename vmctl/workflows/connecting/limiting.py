"""`--restrict-ssh`: only the address from which the user comes reaches the VM's SSH port.

That address is not known before the VM has been reached: it is the one that the VM sees. So the
rules are set once SSH answers. A later `up` from another address lifts them for as long as it
takes to be let in, and then sets them anew.
"""

from __future__ import annotations

from typing import TypeVar

from vmctl.clock import Clock
from vmctl.config import Project
from vmctl.domain.errors import Unreachable, VmctlError
from vmctl.domain.events import Finished, Noted, Started, Story
from vmctl.domain.ingress import IAP_RANGE
from vmctl.domain.instance import Instance
from vmctl.domain.no_address import admits_iap
from vmctl.domain.operation import Operation
from vmctl.domain.ssh_limit import LIMIT_LABEL, RuleNames, label_of, source_of
from vmctl.gce import ssh_rules
from vmctl.gce.compute import Compute, not_found, raise_failure
from vmctl.gce.inspection import ingress_rules
from vmctl.gce.replies import last_part
from vmctl.ssh.forward import Knock
from vmctl.ssh.keys import ensure_keypair
from vmctl.workflows.connecting.session import connect, target_of
from vmctl.workflows.provisioning.waiting import follow

KNOCK_S = 3.0
T = TypeVar("T")


def within_limit(
    project: Project,
    compute: Compute,
    instance: Instance,
    clock: Clock,
    climb: Story[T],
    *,
    is_new: bool,
) -> Story[T]:
    """Play `climb`, which gets into the VM, and limit SSH to where we come from, if so wished.

    What was limited stays so, whatever the settings leave open; `--open-ssh` says otherwise.
    A new VM may find the rules of an earlier one of its name: they are about it, too.
    """
    if not instance.external:
        _check_proxy(compute, instance)
    wanted = project.vm.restrict_ssh
    limited = bool(instance.labels.get(LIMIT_LABEL))
    if wanted is None and not limited and not is_new:
        return (yield from climb)
    limit = _Limit(project, compute, instance, clock)
    deny = ssh_rules.read_rule(compute, limit.names.deny)
    if wanted is False:
        if limited or deny is not None:
            yield from limit.remove()
        return (yield from climb)
    if deny is None and not wanted and not limited:
        return (yield from climb)
    shut = deny is not None and deny.in_force and instance.external
    lifted = shut and not _answers(project, instance, clock)
    if lifted:
        yield Noted("SSH is limited to one address: the limit is lifted until you are let in.")
    lifting = ssh_rules.set_in_force(compute, limit.names.deny, False) if lifted else None
    try:
        if lifting is not None:
            yield from limit.done(lifting)
        result = yield from climb
        yield from limit.set()
    except BaseException:
        if lifting is not None:  # whoever waits has left: nothing is told any more
            for _ in follow(compute, lifting, clock, "limit"):
                pass
            for _ in limit.done(ssh_rules.set_in_force(compute, limit.names.deny, True)):
                pass
        raise
    return result


def remove_limit(compute: Compute, instance: Instance, clock: Clock) -> Story[None]:
    """The rules of a VM that is gone go, too; nothing happens for one that had none."""
    if instance.labels.get(LIMIT_LABEL):
        yield from _delete(compute, RuleNames.of(instance.name), clock)


class _Limit:
    """The limit of one VM."""

    def __init__(
        self, project: Project, compute: Compute, instance: Instance, clock: Clock
    ) -> None:
        self.project = project
        self.compute = compute
        self.instance = instance
        self.clock = clock
        self.names = RuleNames.of(instance.name)

    def set(self) -> Story[None]:
        """Let in whom the VM sees now, and nobody else; nothing changes where that is so."""
        began = self.clock.monotonic()
        source = IAP_RANGE
        if self.instance.external:
            session = yield from connect(self.project, clock=self.clock)
            source = source_of(session.ssh.run('echo "$SSH_CONNECTION"').text)
        compute, names, vm = self.compute, self.names, self.instance
        allow = ssh_rules.read_rule(compute, names.allow)
        deny = ssh_rules.read_rule(compute, names.deny)
        right = allow is not None and allow.in_force and allow.sources == (source,)
        if right and deny is not None and deny.in_force and vm.name in vm.tags:
            return
        yield Started("limit", f"Limiting SSH to {source}")
        # first the rule that lets us in, and the one that shuts the door last
        yield from self.done(
            ssh_rules.put_allow(compute, names, vm, source, there=allow is not None)
        )
        tagged = ssh_rules.add_own_tag(compute, vm)
        if tagged is not None:
            yield from self.done(tagged)
        yield from self.done(compute.set_labels(vm, {LIMIT_LABEL: label_of(source)}))
        yield from self.done(ssh_rules.put_deny(compute, names, vm, there=deny is not None))
        yield Finished("limit", f"SSH to {vm.name} is limited to {source}",
                       self.clock.monotonic() - began)  # fmt: skip

    def remove(self) -> Story[None]:
        """Let in whoever the network's own rules let in."""
        began = self.clock.monotonic()
        yield Started("limit", f"Lifting the limit on SSH to {self.instance.name}")
        yield from _delete(self.compute, self.names, self.clock)
        yield from self.done(self.compute.set_labels(self.instance, {LIMIT_LABEL: None}))
        yield Finished("limit", "SSH is open to whom the network's rules let in",
                       self.clock.monotonic() - began)  # fmt: skip

    def done(self, operation: Operation) -> Story[None]:
        """Wait for a change; raises why it was refused."""
        ended = yield from follow(self.compute, operation, self.clock, "limit")
        raise_failure(ended, self.compute.project, f"Changing the firewall of {self.instance.name}")


def _delete(compute: Compute, names: RuleNames, clock: Clock) -> Story[None]:
    for name in (names.deny, names.allow):  # the door opens before the way through it goes
        ended = yield from follow(compute, ssh_rules.delete_rule(compute, name), clock, "limit")
        if not not_found(ended):
            raise_failure(ended, compute.project, f"Deleting the firewall rule {name}")


def _check_proxy(compute: Compute, instance: Instance) -> None:
    """Raise Unreachable where no firewall rule lets Google's proxy in."""
    network = instance.network or "default"
    try:
        rules = ingress_rules(compute, network)
    except VmctlError:
        return  # a shared network's rules may be none of ours to read
    if not admits_iap(rules, instance.tags):
        raise Unreachable(
            f"{instance.name} has no external address, and no firewall rule lets Google's "
            "Identity-Aware Proxy reach its SSH port.",
            hint="gcloud compute firewall-rules create allow-ssh-from-iap --allow tcp:22 "
            f"--source-ranges {IAP_RANGE} --network {last_part(network)} "
            f"--project {compute.project}",
        )


def _answers(project: Project, instance: Instance, clock: Clock) -> bool:
    """Whether its SSH port opens to us now; a VM that was just started does not, yet."""
    knock = Knock(target_of(project, instance, ensure_keypair()))
    try:
        return knock.opens(KNOCK_S, clock)
    finally:
        knock.close()
