"""Where vmctl's objects lie in a bucket: the archives of a project, and what each job leaves."""

from __future__ import annotations

TOP = "vmctl"


def archives_prefix(owner: str, project: str) -> str:
    """All archives of a project, of which `gc` deletes those that no job needs."""
    return f"{TOP}/{owner}/{project}/archives/"


def archive_name(owner: str, project: str, digest: str) -> str:
    """An archive's object: the same content has the same name. `digest` is its SHA-256 in hex."""
    return f"{archives_prefix(owner, project)}{digest}.tar.gz"


def run_prefix(owner: str, project: str, run_id: str) -> str:
    """All that one job leaves: its log in parts, its outputs, its exit code."""
    return f"{TOP}/{owner}/{project}/runs/{run_id}/"
