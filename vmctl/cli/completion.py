"""What the shell completes for words that are not commands or options; silent when it cannot."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vmctl.config import Project

Complete = Callable[[Any, str], list[str]]

# What every shell takes as it is, quoted or not: zsh evaluates what it is offered, bash splits and
# globs it, and both put it on the line as it is. Not an option ('-'); at the start and after '='
# or ':' nobody's home ('~') and no command's path (zsh's '=').
SAFE = r"(?![-~=])(?!.*[=:][=~])[A-Za-z0-9._/@%+=:,~-]{1,255}"


def make_completion(words: Callable[[Project, str], Iterable[str]]) -> Complete:
    """A completion from a function of the project and what has been typed of the word.

    The only way in: a candidate that a shell could take for anything but a word is dropped, and
    none brings a help text. Settings, the VM's files and its runs may be anybody's.
    """

    def complete(ctx: Any, incomplete: str) -> list[str]:
        try:
            found = list(dict.fromkeys(words(_project(ctx), incomplete)))
        except Exception:  # whatever is wrong is for the command itself to say
            return []
        return [word for word in found if word.startswith(incomplete) and is_safe(word)]

    return complete


def is_safe(word: str) -> bool:
    """Whether a candidate is the same plain word in every shell."""
    return re.fullmatch(SAFE, word) is not None


def _project(ctx: Any) -> Project:
    """The project under the options that stand on the line so far."""
    from vmctl.config import Flags, load_project

    def given(name: str) -> Any:
        own = ctx.params.get(name)
        return ctx.find_root().params.get(name) if own is None else own

    return load_project(Path.cwd(), flags=Flags(given("local"), given("name"), given("on")))


def _jobs(project: Project, _: str) -> Iterable[str]:
    return project.jobs


def _runs(project: Project, _: str) -> Iterable[str]:
    from vmctl.workflows.setup.completion import list_runs

    return [*project.jobs, *list_runs(project)]


def _services(project: Project, _: str) -> Iterable[str]:
    return [*project.services, "stop"]


def _tunnels(project: Project, _: str) -> Iterable[str]:
    from vmctl.workflows.tunnels.registry import open_tunnels

    return [*(record.what for record in open_tunnels()), "all"]


def _paths(project: Project, incomplete: str) -> Iterable[str]:
    from vmctl.workflows.setup.completion import list_outputs, list_paths

    return [*list_outputs(project), *list_paths(project, incomplete)]


def _names(project: Project, _: str) -> Iterable[str]:
    from vmctl.workflows.setup.completion import list_projects

    return list_projects(project)


def _targets(project: Project, _: str) -> Iterable[str]:
    from vmctl.config import list_targets

    return list_targets(project.file)


def _foreign_vms(project: Project, _: str) -> Iterable[str]:
    from vmctl.workflows.setup.completion import list_foreign_vms

    return list_foreign_vms()


def _gpus(project: Project, _: str) -> Iterable[str]:
    from vmctl.domain.machine.gpu import MODELS

    return [*MODELS, "none"]


def _images(project: Project, _: str) -> Iterable[str]:
    from vmctl.domain.machine.image import NAMED

    return NAMED


def _zones(project: Project, _: str) -> Iterable[str]:
    from vmctl.workflows.setup.completion import list_zones

    return list_zones()


def _regions(project: Project, _: str) -> Iterable[str]:
    from vmctl.domain.machine.zone_order import region_of

    return dict.fromkeys(region_of(zone) for zone in _zones(project, ""))


def _documents(project: Project, _: str) -> Iterable[str]:
    from vmctl.cli.json_results import RESULTS

    return [*(name for name in RESULTS if " " not in name), "error"]


JOBS = make_completion(_jobs)
RUNS = make_completion(_runs)
SERVICES = make_completion(_services)
TUNNELS = make_completion(_tunnels)
PATHS = make_completion(_paths)
NAMES = make_completion(_names)
TARGETS = make_completion(_targets)
FOREIGN_VMS = make_completion(_foreign_vms)
GPUS = make_completion(_gpus)
IMAGES = make_completion(_images)
ZONES = make_completion(_zones)
REGIONS = make_completion(_regions)
DOCUMENTS = make_completion(_documents)
