"""The files of a job that is a script or a package: whether they are there before it is sent."""

from __future__ import annotations

import posixpath

from vmctl.config import Project
from vmctl.domain.errors import InvalidInput, NotFound
from vmctl.domain.names import find_nearest
from vmctl.domain.settings.job_settings import JobSettings

BUILT_BY = ("pyproject.toml", "setup.py")  # what tells pip how a package is built


def package_folder(job: JobSettings) -> str:
    """Where the job's package is, from the project's root; "" for a job without one."""
    return posixpath.normpath(posixpath.join(job.directory, job.package)) if job.package else ""


def needed_files(project: Project, job: JobSettings) -> list[str]:
    """The file by which a script or a package is begun with, from the project's root.

    Raises NotFound for one that is not there, InvalidInput for a folder that is no package.
    """
    if job.script:
        script = posixpath.normpath(posixpath.join(job.directory, job.script))
        if (project.root / script).is_file():
            return [script]
        others = [found.name for found in (project.root / script).parent.glob("*.py")]
        close = find_nearest(posixpath.basename(script), others)
        raise NotFound(
            f"The job '{job.name}' runs {script}, which is not there.",
            hint=f"Did you mean {close}? Correct script in [jobs.{job.name}]."
            if close
            else f"Write it, or correct script in [jobs.{job.name}].",
        )
    folder = package_folder(job)
    if not (project.root / folder).is_dir():
        raise NotFound(
            f"The job '{job.name}' runs the package {folder}, which is not there.",
            hint=f"Make that folder, or correct package in [jobs.{job.name}].",
        )
    for name in BUILT_BY:
        if (project.root / folder / name).is_file():
            return [posixpath.normpath(f"{folder}/{name}")]
    raise InvalidInput(
        f"{folder}/ is not a package that pip can build: it has no setup.py and no pyproject.toml.",
        hint="A setup.py of two lines is enough: from setuptools import find_packages, setup; "
        'setup(name="hello", version="0.1", packages=find_packages())',
    )
