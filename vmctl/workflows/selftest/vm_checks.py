"""What a self-test sees of one small machine: made, entered, stopped, started, deleted."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta

from vmctl.cloud.compute import quotas
from vmctl.cloud.compute.compute import already_there, not_found, raise_failure
from vmctl.domain.errors import NoCapacity, TimedOut, VmctlError
from vmctl.domain.events import Finished, Started, Story
from vmctl.domain.google.api_errors import Kind
from vmctl.domain.google.operation import Operation
from vmctl.domain.machine.instance import Instance, Status
from vmctl.ssh.identity import known_hosts
from vmctl.ssh.identity.keypair import ensure_keypair
from vmctl.ssh.session.bootstrap import FabricConnection, wait_for_ssh
from vmctl.workflows.base.operations import gap_s, wait_done, wait_operation, wait_until
from vmctl.workflows.selftest.findings import SelftestRun, failure_text
from vmctl.workflows.session.login import pin_host_keys
from vmctl.workflows.session.session import target_of

LIMIT_SLACK = timedelta(seconds=90)  # between Google's clocks and the start that it tells
SSH_LIMIT_S = 300.0
COMMAND_LIMIT_S = 60.0
COUNTED_LIMIT_S = 60.0  # a quota's usage may come late
EVENT_LIMIT_S = 30.0
STAMP_LIMIT_S = 15.0  # between RUNNING and the time at which it will be ended
SHUT_DOWN = "shut down from inside"
COUNTED = {"CPUS": 1.0, "SSD_TOTAL_GB": 10.0, "IN_USE_ADDRESSES": 1.0}

# what the startup-script writes: who it is, and something that is another at each boot
NAMESPACE, ATTRIBUTE = "vmctl-selftest", "boot"
STARTUP_SCRIPT = f"""#!/bin/sh
once=$(od -An -N8 -tx8 /dev/urandom | tr -d ' ')
curl -sf -X PUT -H 'Metadata-Flavor: Google' --data "$(id -u) $once" \\
  http://metadata.google.internal/computeMetadata/v1/instance/guest-attributes/{NAMESPACE}/{ATTRIBUTE}
"""
SCRIPT_LIMIT_S = 180.0

# one line each: sudo, Python's version, tools, the answer for a service account's token
PROBE = (
    "sudo -n true && echo sudo || echo no-sudo; "
    "python3 -c 'import sys; print(*sys.version_info[:2])' || echo none; "
    "for tool in tmux rsync; do command -v $tool >/dev/null && printf '%s ' $tool; done; echo; "
    "curl -s -o /dev/null -w '%{http_code}\\n' -H 'Metadata-Flavor: Google' "
    "http://169.254.169.254/computeMetadata/v1/instance/service-accounts/default/token"
)


def check_create(run: SelftestRun, zones: tuple[str, ...]) -> Story[Instance]:
    """The machine, RUNNING, in the first of the zones that has it, and what creating it showed."""
    findings, compute = run.findings, run.compute
    before = quotas.quotas_of_region(compute, run.plan.region)
    for zone in zones:
        plan, request_id = run.plan.in_zone(zone), str(uuid.uuid4())
        began = run.clock.monotonic()
        yield Started("create", f"Creating {plan.name} ({plan.machine.name}) in {zone}")
        asked = compute.insert_as(plan, request_id)
        raise_failure(asked, compute.project, f"Creating {plan.name}")
        listed = compute.pending_insert(plan.name)
        missed = listed is None and not compute.look_at(asked).is_done
        again = compute.insert_as(plan, request_id)
        done = yield from wait_operation(run.site, asked, "create")
        if done.failure is None or done.failure.kind not in (Kind.STOCKOUT, Kind.NOT_OFFERED):
            break
    raise_failure(done, compute.project, f"Creating {plan.name}")
    yield Finished("create", f"{plan.name} runs in {zone}", run.clock.monotonic() - began)
    if listed is not None:
        yield findings.record(
            "creation-listed", listed.name == asked.name, f"{listed.name} was listed"
        )
    elif missed:
        yield findings.record(
            "creation-listed", False, "it was not among the unfinished operations"
        )
    else:
        yield findings.skip("creation-listed", "it had finished before it could be checked")
    same = again.failure is None and again.name == asked.name
    said = f"the same operation {again.name}" if same else _describe_repeat(again)
    yield findings.record("request-replayed", same, said)
    instance = compute.get_instance(zone, plan.name)
    if instance is None:
        raise VmctlError(f"{plan.name} was created, but cannot be found.", hint="vmctl selftest")
    taken = compute.insert_as(plan, str(uuid.uuid4()))
    taken = yield from wait_operation(run.site, taken, "create")
    yield findings.record("name-taken", already_there(taken), failure_text(taken.failure))
    yield from _check_as_requested(run, instance)
    yield from _check_quota(run, before)
    yield from _check_while_running(run, instance)
    return instance


def _describe_repeat(operation: Operation) -> str:
    return (
        failure_text(operation.failure)
        if operation.failure
        else f"another operation {operation.name}"
    )


def _check_as_requested(run: SelftestRun, instance: Instance) -> Story[None]:
    disk = run.compute.ask("disks", "get", zone=instance.zone, disk=instance.boot_disk) or {}
    labels = {key: disk.get("labels", {}).get(key) for key in run.plan.labels}
    right = labels == dict(run.plan.labels)
    there = ", ".join(key for key, value in labels.items() if value is not None)
    yield run.findings.record("disk-labels", right, f"on {instance.boot_disk}: {there or 'none'}")
    yield run.findings.record("run-limit-stamp", *_check_limit(run, instance, run.plan.max_run_s))


def _check_limit(run: SelftestRun, instance: Instance, limit_s: int) -> tuple[bool, str]:
    """Whether a running VM will be ended that long after it started, and what it tells."""
    began = run.clock.monotonic()
    while instance.stops_at is None and run.clock.monotonic() - began < STAMP_LIMIT_S:
        run.clock.sleep(gap_s(run.clock.monotonic() - began))
        instance = run.compute.get_instance(instance.zone, instance.name) or instance
    started, ends = instance.started_at, instance.stops_at
    if started is None or ends is None:
        return False, f"started {started}, to be ended {ends}"
    right = abs(ends - started - timedelta(seconds=limit_s)) <= LIMIT_SLACK
    return right, f"to be ended {(ends - started).total_seconds():.0f} s after its start"


def _check_quota(run: SelftestRun, before: quotas.Meters) -> Story[None]:
    """Usage may come late, and others in the project may change it: it must reach what we took."""
    began = run.clock.monotonic()
    while True:
        now = quotas.quotas_of_region(run.compute, run.plan.region)
        more = {
            metric: now[metric].usage - before[metric].usage
            for metric in COUNTED
            if metric in now and metric in before
        }
        right = all(more.get(metric, 0.0) >= amount for metric, amount in COUNTED.items())
        if right or run.clock.monotonic() - began > COUNTED_LIMIT_S:
            said = ", ".join(f"{metric} {amount:+g}" for metric, amount in more.items())
            yield run.findings.record("quota-counts", right, said)
            return
        run.clock.sleep(gap_s(run.clock.monotonic() - began))


def _check_while_running(run: SelftestRun, instance: Instance) -> Story[None]:
    compute, findings = run.compute, run.findings
    moved = yield from wait_operation(
        run.site, compute.set_limit(instance, run.plan.max_run_s + 60), "selftest"
    )
    yield findings.record("limit-fixed", moved.failure is not None, failure_text(moved.failure))
    started = yield from wait_operation(run.site, compute.start(instance), "selftest")
    yield findings.record(
        "start-when-running", started.failure is None, failure_text(started.failure)
    )
    old = yield from wait_operation(
        run.site, compute.set_metadata_under(instance, "AAAAAAAAAAA="), "selftest"
    )
    stale = old.failure is not None and old.failure.http_status == 412
    yield findings.record("stale-fingerprint", stale, failure_text(old.failure))


def check_login(run: SelftestRun, instance: Instance) -> Story[str]:
    """Inside, over SSH with the pinned host key; at the end it is shut down from there.

    Returns what the startup-script of this boot has written; "" for nothing.
    """
    findings, clock = run.findings, run.clock
    began = clock.monotonic()
    yield Started("ssh", f"Waiting for SSH on {instance.name}")
    yield from pin_host_keys(run.site, instance, "ssh")
    waited = clock.monotonic() - began
    pinned = known_hosts.pinned(instance.id)
    published = run.compute.host_keys(instance)
    wanted = any(key.startswith(f"{known_hosts.PREFERRED} ") for key in published)
    kinds = ", ".join(sorted(key.split()[0] for key in published or pinned))
    yield findings.record("host-keys", wanted, f"{kinds} within {waited:.0f} s")
    target = target_of(run.project, instance, ensure_keypair())
    with wait_for_ssh(target, clock.monotonic() + SSH_LIMIT_S, clock) as remote:
        lines = remote.run(PROBE, timeout_s=COMMAND_LIMIT_S).text.splitlines()
        sudo, python, tools, token = (line.strip() for line in (*lines, "", "", "", "")[:4])
        seconds = clock.monotonic() - began
        login = f"logged in as {target.user} after {seconds:.0f} s, {sudo}"
        yield findings.record("login", sudo == "sudo", login)
        version = tuple(int(word) for word in python.split() if word.isdigit())
        yield findings.record(
            "guest-python", version >= (3, 10), f"python3 is {python or 'not there'}"
        )
        there = set(tools.split()) == {"tmux", "rsync"}
        yield findings.record("guest-tools", there, f"there: {tools or 'neither'}")
        reply = (
            run.compute.ask("instances", "get", zone=instance.zone, instance=instance.name) or {}
        )
        accounts = reply.get("serviceAccounts", [])
        alone = not accounts and token == "404"
        said = f"{len(accounts)} on the VM; its token answers HTTP {token}"
        yield findings.record("no-service-account", alone, said)
        yield from _check_os_login(run)
        written = yield from _wait_for_script(run, instance, "")
        yield from _shut_down(run, instance, remote)
    return written


def _check_os_login(run: SelftestRun) -> Story[None]:
    """We are in: what did the project ask for?"""
    reply = run.compute.ask("projects", "get", fields="commonInstanceMetadata") or {}
    items = reply.get("commonInstanceMetadata", {}).get("items", [])
    asked = {item["key"]: str(item.get("value", "")).upper() for item in items}
    if asked.get("enable-oslogin") == "TRUE":
        yield run.findings.record(
            "os-login-off", True, "the project asks for it, and vmctl's key was accepted"
        )
    else:
        yield run.findings.skip("os-login-off", "the project does not ask for OS Login")


def _wait_for_script(run: SelftestRun, instance: Instance, before: str) -> Story[str]:
    """What the startup-script has written in this boot; "" where it wrote nothing."""
    began, written = run.clock.monotonic(), before
    yield Started("script", "Waiting for the startup-script")
    while written == before:
        if run.clock.monotonic() - began > SCRIPT_LIMIT_S:
            return ""
        run.clock.sleep(gap_s(run.clock.monotonic() - began))
        written = _read_attribute(run, instance) or before
    return written


def _describe_user(written: str) -> str:
    return f"user {written.split()[0]}" if written.split() else "nothing was written"


def _read_attribute(run: SelftestRun, instance: Instance) -> str:
    reply = run.compute.ask(
        "instances",
        "getGuestAttributes",
        zone=instance.zone,
        instance=instance.name,
        queryPath=f"{NAMESPACE}/",
    )
    items = (reply or {}).get("queryValue", {}).get("items", [])
    return next((str(item["value"]) for item in items if item.get("key") == ATTRIBUTE), "")


def _shut_down(run: SelftestRun, instance: Instance, remote: FabricConnection) -> Story[None]:
    compute, clock = run.compute, run.clock
    yield Started("stop", f"Shutting {instance.name} down from inside")
    run.recorder.note(SHUT_DOWN)
    try:  # in the background: the answer must be on its way before the network goes
        remote.run("nohup sudo -n shutdown -h now >/dev/null 2>&1 </dev/null &", timeout_s=15.0)
    except VmctlError:
        pass  # it was faster than its answer
    off = yield from wait_until(run.site, instance, lambda vm: vm.status.is_stopped, "stop")
    if off is None:
        raise VmctlError(f"{instance.name} was deleted when it was shut down.")
    began = clock.monotonic()
    while not (events := compute.system_events(instance)):
        if clock.monotonic() - began > EVENT_LIMIT_S:
            break
        clock.sleep(gap_s(clock.monotonic() - began))
    kinds = [event.kind for event in events]
    right = off.status is Status.TERMINATED and kinds == ["compute.instances.guestTerminate"]
    said = f"{off.status}; operations: {', '.join(kinds) or 'none'}"
    yield run.findings.record("shutdown-inside", right, said)


def check_restart(run: SelftestRun, instance: Instance, written: str) -> Story[None]:
    """Off, with another run limit on again, and off once more.

    `written` is what the startup-script wrote in the boot before.
    """
    compute, findings = run.compute, run.findings
    off = compute.get_instance(instance.zone, instance.name)
    if off is None or not off.status.is_stopped:
        raise TimedOut(f"{instance.name} is not off.")
    free = off.address is None and off.stops_at is None
    said = f"address: {off.address or 'none'}; to be ended: {off.stops_at or 'no time'}"
    yield findings.record("address-released", free, said)
    answers = []
    for seconds in (29, 30):
        done = yield from wait_operation(run.site, compute.set_limit(off, seconds), "selftest")
        answers.append(done.failure)
    right = answers[0] is not None and answers[1] is None
    yield findings.record(
        "shortest-limit",
        right,
        f"29 s: {failure_text(answers[0])}; 30 s: {failure_text(answers[1])}",
    )
    limit_s = run.plan.max_run_s - 60
    asked = compute.set_limit(off, limit_s)
    yield from wait_done(run.site, asked, "selftest", "Setting the run limit")
    before = off.started_at
    yield Started("start", f"Starting {instance.name} again")
    done = yield from wait_operation(run.site, compute.start(off), "start")
    if done.failure is not None and done.failure.kind is Kind.STOCKOUT:
        raise NoCapacity(f"Its zone has no capacity any more: {done.failure.message}")
    raise_failure(done, compute.project, f"Starting {instance.name}")
    on = yield from wait_until(run.site, instance, lambda vm: vm.status is Status.RUNNING, "start")
    if on is None:
        raise VmctlError(f"{instance.name} is deleted.")
    right, said = _check_limit(run, on, limit_s)
    yield findings.record("limit-anew", right and _is_later(on.started_at, before), said)
    again = yield from _wait_for_script(run, on, written)
    as_root = written.startswith("0 ") and again.startswith("0 ")
    said = f"first boot: {_describe_user(written)}; second boot: {_describe_user(again)}"
    yield findings.record("startup-script", as_root, said)
    yield from _check_stop(run, on)


def _is_later(now: datetime | None, before: datetime | None) -> bool:
    return now is not None and before is not None and now >= before  # a stepped clock stands still


def _check_stop(run: SelftestRun, instance: Instance) -> Story[None]:
    compute, findings = run.compute, run.findings
    yield Started("stop", f"Stopping {instance.name}")
    stopping = compute.stop(instance)
    raise_failure(stopping, compute.project, f"Stopping {instance.name}")
    early = yield from wait_operation(run.site, compute.start(instance), "stop")
    yield from wait_done(run.site, stopping, "stop", f"Stopping {instance.name}")
    name = "start-while-stopping"
    if early.failure is not None:
        yield findings.record(
            name, early.failure.kind is Kind.TRANSIENT, failure_text(early.failure)
        )
    else:
        yield findings.skip(name, "it was off, or not yet stopping, before it could be started")
        done = yield from wait_operation(run.site, compute.stop(instance), "stop")
    yield from wait_until(run.site, instance, lambda vm: vm.status.is_stopped, "stop")
    done = yield from wait_operation(run.site, compute.stop(instance), "stop")
    yield findings.record("stop-twice", done.failure is None, failure_text(done.failure))


def check_delete(run: SelftestRun, instance: Instance) -> Story[None]:
    """Gone, with its disk."""
    compute, findings, clock = run.compute, run.findings, run.clock
    began = clock.monotonic()
    yield Started("delete", f"Deleting {instance.name}")
    asked = compute.delete(instance)
    yield from wait_done(run.site, asked, "delete", f"Deleting {instance.name}")
    yield from wait_until(run.site, instance, lambda vm: False, "delete")
    known_hosts.unpin(instance.id)
    yield Finished("delete", f"{instance.name} is deleted", clock.monotonic() - began)
    disk = compute.ask("disks", "get", zone=instance.zone, disk=instance.boot_disk)
    said = "was deleted as well" if disk is None else "is still there"
    yield findings.record("disk-goes-along", disk is None, f"the disk {instance.boot_disk} {said}")
    again = yield from wait_operation(run.site, compute.delete(instance), "delete")
    read = compute.get_instance(instance.zone, instance.name)
    yield findings.record(
        "gone-is-404", not_found(again) and read is None, failure_text(again.failure)
    )
