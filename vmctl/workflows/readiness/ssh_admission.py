"""From RUNNING to a conversation: the port answers, the host keys are known, the key is taken."""

from __future__ import annotations

from dataclasses import replace

from vmctl.cloud.compute.compute import Compute
from vmctl.cloud.compute.resources import ingress_rules, project_metadata
from vmctl.cloud.compute.stop_reason import explain_stop
from vmctl.domain.errors import AccessDenied, HostKeyChanged, Unreachable, VmctlError
from vmctl.domain.events import Advanced, Story
from vmctl.domain.login.ssh_keys import OS_LOGIN_ITEM
from vmctl.domain.machine.instance import Instance, Status
from vmctl.domain.network.firewall import IAP_RANGE, evaluate_ssh, is_private
from vmctl.domain.readiness.readiness import Diagnosis, Observation, diagnose
from vmctl.domain.readiness.stages import Stage
from vmctl.ssh.identity import known_hosts
from vmctl.ssh.identity.keypair import ensure_keypair
from vmctl.ssh.session.bootstrap import FabricConnection
from vmctl.ssh.session.openssh import OpenSSH
from vmctl.ssh.session.port_probe import PortProbe
from vmctl.ssh.session.remote import Remote
from vmctl.workflows.readiness.context import BringUp
from vmctl.workflows.session.login import try_to_pin
from vmctl.workflows.session.session import target_of

SSH_LIMIT_S = 300.0
KNOCK_S = 0.3
LOOK_GAP_S = 5.0  # whether it still runs, and what may block it
FIRST_LOOK_S = 4.0
SERIAL_LINES = 6
AGENT_FAILED = "google-guest-agent.service: Failed"

DELETED = "It was deleted in the meantime."


class SshAdmission:
    """Waits for one VM to let us in; each stage is noted at the moment it is reached."""

    def __init__(self, bring_up: BringUp) -> None:
        self.bring_up = bring_up
        self.project = bring_up.site.project
        self.compute = bring_up.site.compute
        self.clock = bring_up.site.clock

    def open(self, instance: Instance, observed: Observation) -> Story[Remote]:
        """The warm connection where there is one, else a new conversation once sshd lets us in.

        SSH is limited to where we come from by then, where it is to be. Raises HostKeyChanged, or
        what the missing stage's diagnosis says.
        """
        limit = self.bring_up.limit
        if limit is None:
            return (yield from self._open(instance, observed))
        remote = None
        try:
            remote = yield from self._open(instance, observed)
            yield from limit.set(remote)
        except BaseException:
            if remote is not None:
                remote.release()
            limit.restore()
            raise
        return remote

    def _open(self, instance: Instance, observed: Observation) -> Story[Remote]:
        if known_hosts.pinned(instance.id):
            warm = OpenSSH(target_of(self.project, instance, ensure_keypair()))
            if warm.probe():
                self.bring_up.reached(Stage.PORT)
                self.bring_up.reached(Stage.KEY)
                return warm
        return (yield from self._wait(instance, observed))

    def _wait(self, instance: Instance, observed: Observation) -> Story[Remote]:
        clock = self.clock
        began = since = clock.monotonic()
        looked, stage, last_text = began - LOOK_GAP_S + FIRST_LOOK_S, Stage.PORT, ""
        target = target_of(self.project, instance, ensure_keypair())
        probe = PortProbe(target)
        try:
            while True:
                if stage is Stage.PORT:
                    if probe.opens(0.0, clock):
                        stage, since = Stage.KEY, clock.monotonic()
                        self.bring_up.reached(Stage.PORT)
                        continue
                else:
                    found = self._try(instance, since)
                    if found is not None and not isinstance(found, VmctlError):
                        self.bring_up.reached(Stage.KEY)
                        return found
                    observed = replace(observed, refused=isinstance(found, AccessDenied))
                    if found is not None and found.message != last_text:
                        last_text = found.message
                        yield Advanced("ssh", last_text)
                clock.sleep(KNOCK_S)
                now = clock.monotonic()
                if now - looked > LOOK_GAP_S:
                    looked = now
                    observed = self._look(instance, observed, stage)
                    limit = self.bring_up.limit
                    if stage is Stage.PORT and limit and limit.blocks_us(instance, now - since):
                        yield from limit.suspend()
                        since = clock.monotonic()
                wrong = diagnose(observed, stage, now - since, SSH_LIMIT_S)
                if wrong is not None:
                    raise wrong.error(self._with_evidence(instance, observed))
        finally:
            probe.close()

    def _try(self, instance: Instance, since: float) -> Remote | VmctlError | None:
        """A conversation, why there is none yet, or None before the host keys are known."""
        if not try_to_pin(self.compute, instance, self.clock.monotonic() - since):
            return None
        target = target_of(self.project, instance, ensure_keypair())
        # with a proxy one master for all, because the proxy is slow to start
        remote: Remote = OpenSSH(target) if target.proxy else FabricConnection(target)
        try:
            remote.verify()
        except HostKeyChanged:
            remote.release()
            raise
        except (Unreachable, AccessDenied) as error:
            remote.release()
            return error
        return remote

    def _look(self, instance: Instance, observed: Observation, stage: Stage) -> Observation:
        """What Google says of a VM that does not let us in."""
        now = self.compute.get_instance(instance.zone, instance.name)
        if now is None or now.id != instance.id:
            return replace(observed, stopped=DELETED)
        if now.status is not Status.RUNNING:
            return replace(observed, stopped=describe_stop(self.compute, now))
        if stage is Stage.PORT:
            return replace(observed, allowed=self._allowed(now))
        shared = now.metadata.get(OS_LOGIN_ITEM)
        if shared is None and observed.refused:
            shared = project_metadata(self.compute).get(OS_LOGIN_ITEM, "")
        failed = AGENT_FAILED in self._serial(instance)
        return replace(observed, os_login=(shared or "").upper() == "TRUE", agent_failed=failed)

    def _allowed(self, instance: Instance) -> bool | None:
        """Whether a firewall rule lets anybody in; None where vmctl may not read the rules."""
        if self.bring_up.limit and self.bring_up.limit.enforced:
            return None  # it is our own limit that decides
        # the VM's own: an adopted one may be in another than the settings say
        try:
            rules = ingress_rules(self.compute, instance.network or "default")
        except VmctlError:
            return None
        sources = evaluate_ssh(rules, instance.tags).sources
        return any(source != IAP_RANGE and not is_private(source) for source in sources)

    def _with_evidence(self, instance: Instance, observed: Observation) -> Observation:
        lines = [line for line in self._serial(instance).splitlines() if line.strip()]
        failures = [line for line in lines[:-SERIAL_LINES] if AGENT_FAILED in line][-1:]
        evidence = [f"serial port: {line}" for line in (*failures, *lines[-SERIAL_LINES:])]
        return replace(observed, evidence=(*observed.evidence, *evidence))

    def _serial(self, instance: Instance) -> str:
        try:
            return self.compute.serial_output(instance)
        except VmctlError:
            return ""


def describe_stop(compute: Compute, instance: Instance) -> str:
    """That a VM is not RUNNING, and why where that is known, for a person."""
    ending = explain_stop(compute, instance)
    return f"It is {instance.status}. {ending.text}" if ending else f"It is {instance.status}."


def ensure_running(bring_up: BringUp, instance: Instance, missing: Stage) -> None:
    """Raise what became of a VM that is neither RUNNING nor about to be."""
    now = bring_up.site.compute.get_instance(instance.zone, instance.name)
    if now is None or not (now.status is Status.RUNNING or now.status.is_coming):
        raise vanished_error(bring_up, instance, now, missing)


def vanished_error(
    bring_up: BringUp, instance: Instance, now: Instance | None, missing: Stage
) -> VmctlError:
    """The error of a VM that stopped, or was deleted, during its bring-up."""
    why = describe_stop(bring_up.site.compute, now) if now else DELETED
    seen = Observation(instance.name, instance.zone, stopped=why)
    return Diagnosis(missing, why, "vmctl up").error(seen)
