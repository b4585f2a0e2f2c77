"""What the shell may complete: from settings and records here, and over a warm connection.

Nothing is connected, started or asked of an API for it: without a warm connection there is simply
less to suggest.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import PurePosixPath

from vmctl.config import Project
from vmctl.domain.command import command
from vmctl.domain.errors import VmctlError
from vmctl.folders import cache_dir
from vmctl.ssh.session.openssh import OpenSSH
from vmctl.workflows.session.session import cached_target

ANSWER_S = 1.0  # who presses Tab does not wait longer
MOST = 200

# each folder's entries that begin so, as the shell's own completion shows them
LIST = """
prefix=$1; shift
for folder; do
    cd "$HOME/$folder" 2>/dev/null || continue
    ls -1dp -- "$prefix"* 2>/dev/null
done | sort -u | head -n "$MOST"
"""


def list_projects(project: Project) -> list[str]:
    """The names of this owner's projects whose VMs were reached from here lately."""
    found = set()
    for file in (cache_dir() / "targets").glob(f"{project.owner}-*-*.json"):
        found.add(file.stem.removeprefix(f"{project.owner}-").rpartition("-")[0])
    return sorted(found)


def list_runs(project: Project) -> list[str]:
    """The ids of the runs on the VM, the newest first."""
    return _run_lines(project, "ls -1t ~/.vmctl/runs 2>/dev/null | head -n 50")


def list_paths(project: Project, prefix: str) -> list[str]:
    """The files and folders below the workspace and its jobs' folders that begin so."""
    inside = PurePosixPath("Workspace", project.name)
    jobs = sorted({job.directory for job in project.jobs.values()} | {""})
    folders = [str(inside / folder) for folder in jobs]
    script = LIST.replace('"$MOST"', str(MOST))
    return _run_lines(project, str(command("sh", "-c", script, "sh", prefix, *folders)))


def list_outputs(project: Project) -> list[str]:
    """What the jobs of the settings say that they leave behind."""
    return [path for job in project.jobs.values() for path in job.outputs]


def list_zones() -> tuple[str, ...]:
    """The zones of the shipped table."""
    from vmctl.cloud import price_table

    return price_table.zones()


def cache_foreign_vms(names: Sequence[str]) -> None:
    """Keep the names of VMs that are there but not vmctl's, for `vmctl adopt`."""
    with contextlib.suppress(OSError, VmctlError):
        (cache_dir() / "vms.json").write_text(json.dumps(sorted(names)), encoding="utf-8")


def list_foreign_vms() -> list[str]:
    """The names that were kept last."""
    try:
        found = json.loads((cache_dir() / "vms.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [name for name in found if isinstance(name, str)] if isinstance(found, list) else []


def _run_lines(project: Project, line: str) -> list[str]:
    """What a command on the VM prints, over the connection that is warm already; else nothing."""
    target = cached_target(project)
    if target is None:
        return []
    vm = OpenSSH(target)
    if not vm.probe(ANSWER_S):
        return []
    answer = vm.run(line, timeout_s=ANSWER_S)
    return answer.stdout.decode("utf-8", "replace").splitlines() if answer.code == 0 else []
