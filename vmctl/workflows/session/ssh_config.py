"""`vmctl ssh-config`: ssh, rsync, scp and VS Code find the VM by a name, wherever it is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from vmctl.clock import Clock
from vmctl.config import Project
from vmctl.domain.errors import Conflict, NotFound, VmctlError
from vmctl.domain.events import Info, Story, Warned
from vmctl.domain.login.ssh_config import Host, names_for
from vmctl.domain.login.ssh_target import Target
from vmctl.domain.settings.vm_settings import VmSettings
from vmctl.ssh.identity import user_ssh_config
from vmctl.workflows.base.site import open_site
from vmctl.workflows.session.session import Session, connect, identity_of


@dataclass(frozen=True, slots=True)
class SshConfigResult:
    """What ssh knows now; `hosts` are all names that vmctl manages, of other projects, too."""

    action: str  # "added", "unchanged", "removed", "already removed"
    file: str
    host: str | None
    address: str | None  # None: no VM runs; the name finds it once it does
    user: str
    workspace: str
    hosts: tuple[str, ...]


def ssh_config(
    project: Project, *, file: Path | None = None, clock: Clock | None = None
) -> Story[SshConfigResult]:
    """Give this project's VM a name in the user's ssh configuration, and say which.

    Nothing is written before the cloud was asked which VM it is. Raises InvalidInput where the
    file cannot be written, or vmctl's lines in it were changed by hand.
    """
    clock = clock or Clock()
    file = file or user_ssh_config.default_file()
    site = yield from open_site(project, clock)
    # the name stays this VM's when gcloud is pointed at another project
    project = replace(project, google_project=site.compute.project)
    target: Target | None = None
    try:
        session = yield from connect(project, clock=clock, verify=True)
        target = _vm_target(session)
    except (NotFound, Conflict) as error:
        yield Info(f"{error.message} The name will work once the VM runs.")
    with user_ssh_config.edit_hosts() as known:
        found = _host_of(project, known)
        host = replace(
            found,
            target=target,
            key_hours=project.vm.key_hours,
            environment=user_ssh_config.environment(),
        )
        known[:] = [*(item for item in known if item.name != host.name), host]
        every = tuple(item.name for item in known)
    added = user_ssh_config.add_include(file)
    if file == user_ssh_config.default_file() and file != user_ssh_config.read_by_ssh():
        yield Warned(
            f"ssh itself reads {user_ssh_config.read_by_ssh()}, whatever HOME says: "
            f"ssh -F {file} {host.name}"
        )
    return SshConfigResult(
        action="added" if added else "unchanged",
        file=str(file),
        host=host.name,
        address=target.address if target else None,
        user=project.login_user,
        workspace=project.workspace,
        hosts=every,
    )


def remove(project: Project, *, file: Path | None = None) -> SshConfigResult:
    """Take the Include out of the user's file and delete vmctl's own; repeating it is fine."""
    file = file or user_ssh_config.default_file()
    removed = user_ssh_config.remove_include(file)
    user_ssh_config.remove_files()
    return SshConfigResult(
        action="removed" if removed else "already removed",
        file=str(file),
        host=None,
        address=None,
        user=project.login_user,
        workspace=project.workspace,
        hosts=(),
    )


def follow(name: str, *, clock: Clock | None = None) -> Story[Target]:
    """What ssh runs before it connects to a name: the VM is found and the key renewed.

    Raises why it cannot be; a VM that does not run has no address then.
    """
    host = next((item for item in user_ssh_config.hosts() if item.name == name), None)
    if host is None:
        raise NotFound(
            f"vmctl manages no SSH host named '{name}'.", hint="In its project: vmctl ssh-config"
        )
    project = Project(
        root=Path("/"),
        name=host.project,
        owner=host.owner,
        local=host.local,
        google_project=host.google_project,
        vm=VmSettings(key_hours=host.key_hours),
    )
    try:
        session = yield from connect(project, clock=clock, verify=True)
    except (NotFound, Conflict):
        user_ssh_config.update_host(host.identity, None)
        raise
    target = _vm_target(session)
    user_ssh_config.update_host(host.identity, target)
    return target


def _vm_target(session: Session) -> Target:
    target = session.ssh.target
    assert isinstance(target, Target)  # a server of the user's has a name already
    return target


def _host_of(project: Project, known: list[Host]) -> Host:
    """This project's host, under the name that it has already or the first that is free."""
    wanted = Host("", *identity_of(project))
    for host in known:
        if host.identity == wanted.identity:
            return host
    taken = {host.name for host in known}
    for name in names_for(wanted):
        if name not in taken:
            return replace(wanted, name=name)
    raise VmctlError(
        f"All names for the VM of '{project.name}' are taken by other VMs.",
        hint="Start again: vmctl ssh-config --remove, then vmctl ssh-config",
    )
