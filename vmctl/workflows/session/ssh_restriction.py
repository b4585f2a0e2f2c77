"""`--restrict-ssh`: only the address from which the user comes reaches the VM's SSH port.

That address is not known before the VM has been reached: it is the one that the VM sees. So the
rules are set as soon as SSH answers. A later `up` keeps them; only when its address is proven to be
blocked are they suspended, until it has been let in and they are set again.
"""

from __future__ import annotations

from vmctl.cloud.compute import firewall
from vmctl.cloud.compute.compute import Compute
from vmctl.cloud.compute.guest_attributes import watch_report
from vmctl.cloud.compute.resources import ingress_rules
from vmctl.domain.errors import Unreachable, VmctlError
from vmctl.domain.events import Finished, Info, Started, Story
from vmctl.domain.google.operation import Operation
from vmctl.domain.machine.instance import Instance
from vmctl.domain.network.firewall import IAP_RANGE, rule_to_make
from vmctl.domain.network.nat import allows_iap
from vmctl.domain.network.ssh_restriction import (
    LIMIT_LABEL,
    SUSPENDED,
    RuleNames,
    is_blocked,
    label_of,
    source_of,
)
from vmctl.ssh.session.remote import Remote
from vmctl.workflows.base.operations import wait_deleted, wait_done, wait_operation
from vmctl.workflows.base.site import Site
from vmctl.workflows.base.stories import drain


def restriction_for(
    site: Site, instance: Instance, *, is_new: bool
) -> Story[SshRestriction | None]:
    """The restriction of SSH to a VM; None where SSH is not restricted.

    A restriction stays, whatever the settings leave open; `--open-ssh` removes it here. The rules
    of an earlier VM of the same name apply to a new one, too. A restriction that was suspended by
    an `up` that was killed is enforced again.
    """
    if not instance.external:
        _check_proxy(site.compute, instance)
    wanted = site.project.vm.restrict_ssh
    limited = bool(instance.labels.get(LIMIT_LABEL))
    if wanted is None and not limited and not is_new:
        return None
    restriction = SshRestriction(site, instance)
    deny = firewall.read_rule(site.compute, restriction.names.deny)
    if wanted is False:
        if limited or deny is not None:
            yield from restriction.remove()
        return None
    if deny is None and not wanted and not limited:
        return None
    if deny is not None and not deny.in_force:
        in_force = firewall.set_in_force(site.compute, restriction.names.deny, True)
        yield from restriction.wait_done(in_force)
    restriction.enforced = deny is not None and instance.external
    return restriction


def remove_restriction(site: Site, instance: Instance) -> Story[None]:
    """Delete the rules of a deleted VM; nothing happens for one that had none."""
    if instance.labels.get(LIMIT_LABEL):
        yield from _delete(site, RuleNames.of(instance.name))


class SshRestriction:
    """The limit of one VM; `enforced` while its rules keep out every other address."""

    def __init__(self, site: Site, instance: Instance) -> None:
        self.site = site
        self.compute = site.compute
        self.clock = site.clock
        self.instance = instance
        self.names = RuleNames.of(instance.name)
        self.enforced = False
        self._suspension: Operation | None = None
        self._label = instance.labels.get(LIMIT_LABEL, "")
        self._reported_at: float | None = None  # when the VM's own word of this boot was seen first

    def blocks_us(self, instance: Instance, silent_s: float) -> bool:
        """Whether the port, silent for `silent_s`, blocks our address, or is just not open yet.

        The VM's watchdog reports to the API that it is up, whatever our address is.
        """
        if not self.enforced:
            return False
        now, clock = self.site.now(), self.clock
        started = instance.started_at or instance.created_at or now
        if self._reported_at is None:
            report = watch_report(self.compute, instance)
            if report is not None and report.is_since(started):
                self._reported_at = clock.monotonic()
        reported_s = None if self._reported_at is None else clock.monotonic() - self._reported_at
        return is_blocked(silent_s, (now - started).total_seconds(), reported_s)

    def suspend(self) -> Story[None]:
        """Let in whom the network's own rules let in, until `set` or `restore`."""
        yield Info(
            "SSH is restricted to one address: lifting the restriction until you are connected."
        )
        self._set_label(SUSPENDED)  # correct for all who read it before it is set again
        self._suspension = firewall.set_in_force(self.compute, self.names.deny, False)
        yield from self.wait_done(self._suspension)
        self.enforced = False

    def restore(self) -> None:
        """Enforce what was suspended: nobody was let in, or nobody waits any more."""
        if self._suspension is None:
            return
        drain(wait_operation(self.site, self._suspension, "limit"))
        drain(self.wait_done(firewall.set_in_force(self.compute, self.names.deny, True)))
        allow = firewall.read_rule(self.compute, self.names.allow)
        if allow is not None and allow.sources:
            self._set_label(label_of(allow.sources[0]))

    def set(self, remote: Remote) -> Story[None]:
        """Restrict SSH to the address that the VM sees now, unless it is already so."""
        began = self.clock.monotonic()
        source = IAP_RANGE
        if self.instance.external:
            source = source_of(remote.run('echo "$SSH_CONNECTION"').text)
        compute, names, vm = self.compute, self.names, self.instance
        allow = firewall.read_rule(compute, names.allow)
        deny = firewall.read_rule(compute, names.deny)
        right = allow is not None and allow.in_force and allow.sources == (source,)
        shut = deny is not None and deny.in_force and vm.name in vm.tags
        if right and shut and self._label == label_of(source):
            return
        yield Started("limit", f"Restricting SSH to {source}")
        # first the rule that lets us in, and last the one that blocks all others
        yield from self.wait_done(
            firewall.put_allow(compute, names, vm, source, there=allow is not None)
        )
        tagged = firewall.add_own_tag(compute, vm)
        if tagged is not None:
            yield from self.wait_done(tagged)
        if not self._label:
            self._set_label(SUSPENDED)  # the rules of a labelled VM go with it
        yield from self.wait_done(firewall.put_deny(compute, names, vm, there=deny is not None))
        self._suspension = None
        self.enforced = self.instance.external
        self._set_label(label_of(source))
        yield Finished("limit", f"SSH to {vm.name} is restricted to {source}",
                       self.clock.monotonic() - began)  # fmt: skip

    def remove(self) -> Story[None]:
        """Delete the restriction: the network's own rules decide."""
        began = self.clock.monotonic()
        yield Started("limit", f"Lifting the restriction of SSH to {self.instance.name}")
        yield from _delete(self.site, self.names)
        yield from self.wait_done(self.compute.set_labels(self.instance, {LIMIT_LABEL: None}))
        yield Finished("limit", "SSH is open to everyone whom the network's rules allow",
                       self.clock.monotonic() - began)  # fmt: skip

    def wait_done(self, operation: Operation) -> Story[None]:
        """Wait for a change; raises why it was refused."""
        doing = f"Changing the firewall of {self.instance.name}"
        yield from wait_done(self.site, operation, "limit", doing)

    def _set_label(self, value: str) -> None:
        """Write on the VM to whom SSH is limited."""
        drain(self.wait_done(self.compute.set_labels(self.instance, {LIMIT_LABEL: value})))
        self._label = value


def _delete(site: Site, names: RuleNames) -> Story[None]:
    for name in (names.deny, names.allow):  # in this order nobody is shut out meanwhile
        asked = firewall.delete_rule(site.compute, name)
        yield from wait_deleted(site, asked, "limit", f"the firewall rule {name}")


def _check_proxy(compute: Compute, instance: Instance) -> None:
    """Raise Unreachable where no firewall rule lets Google's proxy in."""
    network = instance.network or f"projects/{compute.project}/global/networks/default"
    try:
        rules = ingress_rules(compute, network)
    except VmctlError:
        return  # vmctl may not be allowed to read a shared network's rules
    if not allows_iap(rules, instance.tags):
        raise Unreachable(
            f"{instance.name} has no external address, and no firewall rule lets Google's "
            "Identity-Aware Proxy reach its SSH port.",
            hint=rule_to_make(network, IAP_RANGE),
        )
