"""The vmctl.toml that init writes: valid, complete, and saying what was answered."""

from __future__ import annotations

import tomllib
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmctl.config import Project, load_project
from vmctl.domain.settings.job_settings import JobSettings
from vmctl.domain.settings.toml_template import JOB, Answers, project_file
from vmctl.domain.settings.vm_settings import VmSettings

PLAIN = Answers("my-folder", "t4", "europe-west1", "python train.py")
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def loaded(folder: Path, answers: Answers) -> Project:
    (folder / "vmctl.toml").write_text(project_file(answers), encoding="utf-8")
    return load_project(folder, environ={"VMCTL_OWNER": "me"})


def test_what_it_writes_is_what_the_defaults_are(tmp_path: Path) -> None:
    project = loaded(tmp_path, PLAIN)
    assert project.vm == VmSettings()
    assert project.jobs == {JOB: JobSettings(JOB, "python train.py")}


@pytest.mark.parametrize("setting", [item.name for item in fields(VmSettings)])
def test_every_setting_of_the_machine_is_named_with_what_it_is_for(setting: str) -> None:
    (line,) = (
        line
        for line in project_file(PLAIN).splitlines()
        if line.lstrip("# ").startswith(f"{setting} =")
    )
    assert "#" in line


@pytest.mark.parametrize(
    "commented",
    [line for line in project_file(replace(PLAIN, command="")).splitlines() if line[:2] == "# "],
)
def test_a_commented_setting_is_valid_when_the_mark_is_taken_away(commented: str) -> None:
    if " = " in commented and not commented.startswith("# vmctl's"):
        tomllib.loads(commented[2:])


def test_the_answers_are_in_it(tmp_path: Path) -> None:
    answers = replace(
        PLAIN,
        gpu="l4:2",
        region="europe-west4",
        command="python 'a b.py'",
        directory="src",
        google_project="some-project",
        found_in="found in gcloud's config",
        local=True,
        exclude=("/data/", "*.pth"),
    )
    project = loaded(tmp_path, answers)
    assert (project.vm.gpu, project.vm.region) == ("l4:2", "europe-west4")
    assert project.jobs[JOB].command == "python 'a b.py'"
    assert project.jobs[JOB].directory == "src"
    assert project.google_project == "some-project"
    assert project.local
    assert project.exclude == ("/data/", "*.pth")


@given(command=TEXTS, name=TEXTS, exclude=st.lists(TEXTS, max_size=3))
def test_no_text_breaks_the_file(command: str, name: str, exclude: list[str]) -> None:
    answers = replace(PLAIN, command=command, name=name, exclude=tuple(exclude))
    table = tomllib.loads(project_file(answers))
    assert table.get("jobs", {}).get(JOB, {}).get("command", "") == command
    assert table.get("push", {}).get("exclude", []) == exclude
