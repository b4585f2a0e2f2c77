"""`vmctl init`: a commented vmctl.toml for this folder, from what is here and three questions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vmctl.cloud import credentials, price_table
from vmctl.config import FILE_NAME, Project, find_settings
from vmctl.domain.errors import Conflict, InvalidInput, VmctlError
from vmctl.domain.events import Finished, Info, Started, Story, Warned
from vmctl.domain.machine.gpu import Gpu
from vmctl.domain.machine.machine_type import MachineType, choose_machine
from vmctl.domain.machine.zone_order import region_of
from vmctl.domain.settings.toml_template import JOB, Answers, project_file
from vmctl.domain.settings.toml_values import refuse_controls
from vmctl.domain.settings.vm_settings import VmSettings
from vmctl.files import atomic_write
from vmctl.workflows.sync.project_root import refuse_unfit_root

TRAINS = ("train.py", "main.py", "run.py")  # looked for in this order
PLACES = ("", "src", "workload", "scripts")
BIG = ("data", "datasets", "dataset", "runs", "checkpoints", "wandb", "lightning_logs", "mlruns")
WEIGHTS = ("*.pth", "*.pt", "*.ckpt", "*.safetensors", "*.h5")

Ask = Callable[[str, str], str]  # question and default to answer


@dataclass(frozen=True, slots=True)
class Given:
    """What the command line says already; None where a question is left."""

    gpu: str | None = None
    command: str | None = None
    google_project: str | None = None
    force: bool = False


@dataclass(frozen=True, slots=True)
class InitResult:
    """The file that was written, and what it says."""

    file: str
    name: str
    google_project: str | None
    local: bool
    gpu: str
    region: str
    job: str | None
    command: str | None
    directory: str
    exclude: tuple[str, ...]


def init(project: Project, folder: Path, given: Given, ask: Ask) -> Story[InitResult]:
    """Write vmctl.toml into a folder; raises Conflict where there are settings already.

    `project` is what the folder is without it; `ask` answers with the default where nobody can be
    asked. A folder above that has settings is named: they do not count here any more.
    """
    refuse_controls(given.command, "--command", "")
    refuse_controls(given.google_project, "--project", "")
    file = folder / FILE_NAME
    above = None if given.force else find_settings(folder)
    _refuse_unfit(folder, above)
    if above is not None:
        yield Info(f"The settings of {above} no longer apply in this folder.")
    google_project, found_in = given.google_project or "", ""
    if not project.local and not google_project:
        google_project, found_in = yield from _google_project(project)
        google_project = ask("Google Cloud project", google_project)
    gpu = yield from _gpu(given.gpu, ask)
    wanted = Gpu.parse(gpu)
    machine = choose_machine(wanted, None)
    region = _region(wanted, machine)
    directory, command = _training(folder)
    asked = ask("Command that trains", command) if given.command is None else given.command
    answers = Answers(
        name=project.name,
        gpu=gpu,
        region=region,
        command=asked.strip(),
        directory=directory if asked == command else "",
        google_project=google_project.strip(),
        found_in=found_in,
        local=project.local,
        exclude=_heavy(folder),
    )
    atomic_write(file, project_file(answers))
    yield Finished("init", f"Wrote {file.name}: read through it, every line is explained")
    what = f"{machine.name} + {wanted.title}" if wanted else machine.name
    price = price_table.price(f"{region}-b", machine.name, wanted, spot=False)
    yield Info(f"{what} in {region}: {price}")
    if not answers.command:
        yield Info(f"No training script was found: write yours under [jobs.{JOB}].")
    return InitResult(
        file=str(file),
        name=project.name,
        google_project=answers.google_project or None,
        local=project.local,
        gpu=gpu,
        region=region,
        job=JOB if answers.command else None,
        command=answers.command or None,
        directory=answers.directory,
        exclude=answers.exclude,
    )


def _refuse_unfit(folder: Path, settings: Path | None) -> None:
    refuse_unfit_root(folder)
    if settings is not None and settings.parent == folder:
        raise Conflict(
            f"{settings.name} already exists.",
            hint="Edit it, or replace it: vmctl init --force",
        )


def _google_project(project: Project) -> Story[tuple[str, str]]:
    """The Google project that is chosen already, and where; empty when there is none."""
    if project.google_project:
        return project.google_project, ""
    yield Started("project", "Looking for your Google Cloud project")
    try:
        found = credentials.find_credentials()
        if found.project:
            return found.project, f"found in {found.project_source}"
    except VmctlError as error:
        yield Warned(f"{error.message} {error.hint}")
    named = credentials.gcloud_project()
    return (named, "found in gcloud's config") if named else ("", "")


def _gpu(given: str | None, ask: Ask) -> Story[str]:
    """A GPU that exists; asked again until it does. A flag's or a default's error is raised."""
    default = "t4"
    while True:
        text = given or ask("GPU (t4, l4, a100, …, t4:2, none)", default)
        try:
            choose_machine(Gpu.parse(text), None)
            return text.strip()
        except InvalidInput as error:
            if given is not None or text == default:
                raise
            yield Warned(f"{error.message} {error.hint}")


def _training(folder: Path) -> tuple[str, str]:
    """The folder and the command of the script that most likely trains; empty when none does."""
    for name in TRAINS:
        for place in PLACES:
            if (folder / place / name).is_file():
                return place, f"python {name}"
    return "", ""


def _heavy(folder: Path) -> tuple[str, ...]:
    """What is here and should not travel at every push: data, logs, weights."""
    found = [f"/{name}/" for name in BIG if (folder / name).is_dir()]
    found += [pattern for pattern in WEIGHTS if any(folder.glob(pattern))]
    return tuple(found)


def _region(gpu: Gpu | None, machine: MachineType) -> str:
    """The default region where it has the machine, else the cheapest, of its continent if any."""
    zones = price_table.zones_with(gpu, machine.name) if gpu else price_table.zones()
    default = VmSettings().region
    if gpu is None or not zones or default in map(region_of, zones):
        return default
    continent = default.partition("-")[0]

    def cost(zone: str) -> tuple[bool, float, str]:
        usd = price_table.price(zone, machine.name, gpu, spot=False).usd_per_hour
        return not zone.startswith(continent), usd or math.inf, zone

    return region_of(min(zones, key=cost))
