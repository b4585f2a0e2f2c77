"""A connection to a project's VM: the warm one if there is one, else to the API's address."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from vmctl.clock import Clock
from vmctl.domain.errors import Conflict, NotFound, Unreachable
from vmctl.domain.login.ssh_keys import time_left
from vmctl.domain.login.ssh_target import Endpoint, Target
from vmctl.files import atomic_write
from vmctl.folders import cache_dir
from vmctl.ssh.identity.keypair import KeyPair, ensure_keypair
from vmctl.ssh.identity.known_hosts import pin_file
from vmctl.ssh.session.openssh import OpenSSH
from vmctl.ssh.session.stale_sockets import close_all_for, sweep_daily
from vmctl.workflows.base.stories import drain

if TYPE_CHECKING:  # a warm command does without them
    from vmctl.config import Project
    from vmctl.domain.events import Story
    from vmctl.domain.machine.instance import Instance
    from vmctl.domain.settings.target_settings import TargetSettings

NO_END = timedelta(days=3650)  # for a key that never expires


class Session(NamedTuple):
    """A warm connection to the project's VM; `stops_at` is when Google will end the VM."""

    ssh: OpenSSH
    stops_at: datetime | None = None
    usd_per_hour: float | None = None  # of running, the disk left out; None: not known
    price_dated: str = ""


class _Cached(NamedTuple):
    target: Target
    key_expires_at: datetime
    stops_at: datetime | None
    usd_per_hour: float | None = None
    price_dated: str = ""

    def is_good(self, now: datetime, renew_when_left: timedelta) -> bool:
        """Whether it need not be renewed: a VM past its stop time was started again, if it runs."""
        over = self.stops_at is not None and self.stops_at <= now
        return not over and self.key_expires_at - now > renew_when_left


def connect(
    project: Project, *, clock: Clock | None = None, fresh: bool = False, verify: bool = False
) -> Story[Session]:
    """A connection to the VM; raises NotFound, Conflict (stopped), or Unreachable.

    A warm one is used without asking anybody: the first command on it starts at once and replaces
    it when the VM does not answer. With `verify` it has answered when this returns; `fresh` asks
    the API in any case. A machine that shows the pinned host key at the cached address is the VM:
    then, too, the API is not asked.
    """
    clock = clock or Clock()
    sweep_daily()
    if project.target is not None:
        from vmctl.workflows.session.server import open_server

        return Session(open_server(project.target, verify=verify))
    known = None if fresh else _read_cache(project)
    if known is not None and known.is_good(clock.now(), project.key_lifetime / 2):
        ssh = OpenSSH(known.target, _resolver(project, clock))
        if verify:
            ssh.verify()
        else:
            ssh.open()
        return Session(ssh, known.stops_at, known.usd_per_hour, known.price_dated)
    return (yield from _through_api(project, known, clock))


def connect_quietly(project: Project) -> OpenSSH:
    """`connect` without events: for commands that hand this terminal over."""
    return drain(connect(project)).ssh


def _resolver(project: Project, clock: Clock) -> Callable[[], Target]:
    """Where the VM is now, for a connection that is replaced in the middle of a command."""

    def resolve() -> Target:
        # its events are not worth interrupting the command for
        instance, target = drain(_find(project, _read_cache(project), clock))
        cache_instance(project, instance, target, clock)
        return target

    return resolve


def _through_api(project: Project, known: _Cached | None, clock: Clock) -> Story[Session]:
    from vmctl.ssh.session.reconnect import await_key

    instance, target = yield from _find(project, known, clock)
    ssh = OpenSSH(target, _resolver(project, clock))
    await_key(ssh.verify, clock)
    cache_instance(project, instance, target, clock)
    from vmctl.cloud.price_table import hourly_cost_of

    rate = hourly_cost_of(instance)
    return Session(ssh, instance.stops_at, rate.on_usd_h, rate.dated)


def _find(project: Project, known: _Cached | None, clock: Clock) -> Story[tuple[Instance, Target]]:
    """The running VM and its endpoint from the API, its host keys pinned, our key on it."""
    # these bring the Google client along, which a warm command does without
    from vmctl.domain.machine.instance import Status
    from vmctl.workflows.base.site import open_site
    from vmctl.workflows.session.login import pin_host_keys, renew_key

    site = yield from open_site(project, clock)
    instance = site.find_vm()
    if known is not None and instance is None:
        disconnect(project)
    elif known is not None and instance is not None and _target_differs(known.target, instance):
        OpenSSH(known.target).close()
        drop_cache(project)
    if instance is None:
        raise NotFound(f"There is no VM for '{project.name}'.", hint="Create it: vmctl up")
    if instance.status is not Status.RUNNING:
        from vmctl.cloud.compute.stop_reason import explain_stop

        ending = explain_stop(site.compute, instance)
        why = f" {ending.text}" if ending else ""
        raise Conflict(
            f"The VM {instance.name} is {instance.status}, not running.{why}",
            hint="Start it: vmctl up",
        )
    instance = yield from renew_key(site, instance)
    yield from pin_host_keys(site, instance, "ssh")
    return instance, target_of(project, instance, ensure_keypair())


def target_of(project: Project, instance: Instance, keys: KeyPair) -> Target:
    """The endpoint of an instance whose host keys are pinned."""
    if instance.external and not instance.address:
        raise Unreachable(
            f"The VM {instance.name} has no external address yet.", hint="Check it: vmctl status"
        )
    from vmctl.cloud.compute.iap import tunnel_command

    return Target(
        instance_id=instance.id,
        address=instance.address or instance.name,
        port=instance.ssh_port,
        user=project.login_user,
        key_file=str(keys.private_path),
        known_hosts=str(pin_file(instance.id)),
        proxy="" if instance.external else tunnel_command(project, instance),
    )


def _target_differs(target: Target, instance: Instance) -> bool:
    seen = (target.instance_id, target.address, target.port)
    return seen != (instance.id, instance.address or instance.name, instance.ssh_port)


# -- the cached endpoint, never trusted without the probe -------------------------------------


def cache_instance(project: Project, instance: Instance, target: Target, clock: Clock) -> None:
    """Cache the endpoint of an instance that answered, while our key is valid."""
    now, public_line = clock.now(), ensure_keypair().public_line
    left = time_left(instance.ssh_keys, project.login_user, public_line, now)
    from vmctl.cloud.price_table import hourly_cost_of

    rate = hourly_cost_of(instance)
    expires_at = now + min(left, NO_END)
    cache_target(project, target, expires_at, instance.stops_at, rate.on_usd_h, rate.dated)


def cache_target(
    project: Project,
    target: Target,
    key_expires_at: datetime,
    stops_at: datetime | None,
    usd_per_hour: float | None = None,
    price_dated: str = "",
) -> None:
    """Cache the endpoint that answered, for the next command."""
    record = {
        "target": asdict(target),
        "key_expires_at": key_expires_at.isoformat(),
        "stops_at": stops_at.isoformat() if stops_at else None,
        "usd_per_hour": usd_per_hour,
        "price_dated": price_dated,
    }
    path = _cache_file(project)
    with contextlib.suppress(OSError):  # a command must not fail for a cache
        atomic_write(path, json.dumps(record))
    from vmctl.ssh.identity.user_ssh_config import update_host  # a warm command does without it

    with contextlib.suppress(OSError):
        update_host(identity_of(project), target)


def identity_of(project: Project) -> tuple[str, str, bool, str, str]:
    """What distinguishes a project's VM in the user's ssh configuration."""
    from vmctl.cloud import emulator_process  # it brings an HTTP client along

    home = str(emulator_process.home()) if project.local else ""
    return project.owner, project.name, project.local, project.google_project or "", home


def drop_cache(project: Project) -> None:
    """Forget the cached endpoint."""
    with contextlib.suppress(OSError):
        _cache_file(project).unlink(missing_ok=True)


def cached_target(project: Project) -> Endpoint | None:
    """The endpoint that answered last; it may be out of date."""
    if project.target is not None:
        return _server_endpoint(project.target)
    known = _read_cache(project)
    return known.target if known else None


def _server_endpoint(target: TargetSettings) -> Endpoint:
    from vmctl.workflows.session.server import server_endpoint

    return server_endpoint(target)


def resolve_target(project: Project, clock: Clock) -> Endpoint:
    """Where the VM is now, from the API, its host keys pinned and our key on it; no connection.

    Raises NotFound, Conflict (stopped), Unreachable, and what else the API says.
    """
    if project.target is not None:
        return _server_endpoint(project.target)
    return _resolver(project, clock)()


def disconnect(project: Project) -> None:
    """End the warm connection of a VM that is stopped or deleted."""
    known = _read_cache(project)
    if known is not None:
        close_all_for(known.target.alias)
    drop_cache(project)


def _read_cache(project: Project) -> _Cached | None:
    try:
        record = json.loads(_cache_file(project).read_text(encoding="utf-8"))
        stops_at = record["stops_at"]
        found = _Cached(
            Target(**record["target"]),
            datetime.fromisoformat(record["key_expires_at"]).astimezone(UTC),
            datetime.fromisoformat(stops_at) if stops_at else None,
            record.get("usd_per_hour"),
            record.get("price_dated", ""),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    keys_there = Path(found.target.key_file).exists() and Path(found.target.known_hosts).exists()
    return found if keys_there and found.target.user == project.login_user else None


def _cache_file(project: Project) -> Path:
    cloud = "local" if project.local else f"cloud:{project.google_project or ''}"
    where = cloud + ":" + os.environ.get("VMCTL_EMULATOR_HOME", "") if project.local else cloud
    digest = hashlib.sha256(where.encode()).hexdigest()[:8]
    folder = cache_dir() / "targets"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder / f"{project.owner}-{project.name}-{digest}.json"
