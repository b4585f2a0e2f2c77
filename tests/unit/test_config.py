"""vmctl.toml, environment and flags: who beats whom, and what a mistake says."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from vmctl.config import Flags, Project, load_project
from vmctl.domain.errors import InvalidInput
from vmctl.domain.names import posix_user, slug


def project(folder: Path, toml: str = "", flags: Flags | None = None, **environ: str) -> Project:
    folder.mkdir(parents=True, exist_ok=True)
    if toml:
        (folder / "vmctl.toml").write_text(toml, encoding="utf-8")
    return load_project(folder, flags=flags, environ=environ)


def test_an_empty_folder_is_a_project(tmp_path: Path) -> None:
    made = project(tmp_path / "My Photos", VMCTL_OWNER="ann")
    assert (made.name, made.instance_name) == ("my-photos", "ann-my-photos")
    assert made.vm.gpu == "t4"
    assert made.vm.region == "europe-west1"
    assert made.services["tensorboard"].port == 8898
    assert made.workspace == "~/Workspace/my-photos"


def test_flags_beat_environment_beats_file(tmp_path: Path) -> None:
    toml = '[vm]\ngpu = "l4"\nmax_hours = 3\ndisk_gb = 60\n'
    assert project(tmp_path, toml).vm.gpu == "l4"
    assert project(tmp_path, VMCTL_GPU="v100").vm.gpu == "v100"
    made = project(tmp_path, flags=Flags(vm={"gpu": "a100"}), VMCTL_GPU="v100", VMCTL_MAX_HOURS="5")
    assert (made.vm.gpu, made.vm.max_hours, made.vm.disk_gb) == ("a100", 5, 60)


def test_a_zone_brings_its_region(tmp_path: Path) -> None:
    assert project(tmp_path, '[vm]\nzone = "us-central1-a"\n').vm.region == "us-central1"
    moved = project(tmp_path, flags=Flags(vm={"region": "europe-west4"}))
    assert (moved.vm.zone, moved.vm.region) == (None, "europe-west4")
    moved = project(tmp_path, VMCTL_REGION="europe-west4")
    assert (moved.vm.zone, moved.vm.region) == (None, "europe-west4")
    moved = project(
        tmp_path, VMCTL_REGION="europe-west4", flags=Flags(vm={"zone": "europe-west2-a"})
    )
    assert (moved.vm.zone, moved.vm.region) == ("europe-west2-a", "europe-west2")


def test_the_file_is_found_from_a_folder_below(tmp_path: Path) -> None:
    project(tmp_path / "p", 'name = "deep"\n')
    assert project(tmp_path / "p" / "a" / "b").root == tmp_path / "p"


@pytest.mark.parametrize("name", ["vmctl.toml", "pyproject.toml"])
def test_a_byte_order_mark_at_the_start_of_settings_is_skipped(tmp_path: Path, name: str) -> None:
    table = "vm" if name == "vmctl.toml" else "tool.vmctl.vm"
    (tmp_path / name).write_text(f'[{table}]\r\ngpu = "p4"\r\n', encoding="utf-8-sig")
    assert project(tmp_path).vm.gpu == "p4"


def test_an_owner_without_ascii_letters_gets_a_label_of_its_own(tmp_path: Path) -> None:
    owners = ["日本", "田中", "—", "日本"]
    labels = [project(tmp_path, VMCTL_OWNER=owner).owner for owner in owners]
    assert labels[0] == labels[3]
    assert len(set(labels)) == 3
    for label in labels:
        assert label == slug(label, limit=20) != ""
    made = project(tmp_path / "p", VMCTL_OWNER="日本")
    assert made.instance_name == f"{labels[0]}-p"


def test_pyproject_serves_as_well(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.vmctl.vm]\ngpu = "p4"\n', encoding="utf-8")
    assert project(tmp_path).vm.gpu == "p4"


MISTAKES = {
    "unknown key": ('[vm]\ngpus = "t4"\n', "vm.gpus", "vm.gpu"),
    "unknown table": ("[vmm]\n", "vmm", "vm"),
    "wrong type": ('[vm]\ndisk_gb = "100"\n', "vm.disk_gb", ""),
    "truth is no number": ("[vm]\ndisk_gb = true\n", "vm.disk_gb", ""),
    "no command": ('[jobs.train]\ndirectory = "x"\n', "train", "command"),
    "folder outside": ('[jobs.t]\ncommand = "x"\ndirectory = "../.."\n', "jobs.t.directory", ""),
    "not TOML": ("[vm\n", "TOML", ""),
    "list of numbers": ("[push]\nexclude = [1]\n", "push.exclude[0]", ""),
    "too many hours": ("[vm]\nmax_hours = 99999\n", "max_hours", ""),
    "port": ("[services.tensorboard]\nport = 70000\n", "port", ""),
    "bad job name": ('[jobs."a b"]\ncommand = "x"\n', "a b", ""),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_names_key_file_and_nearest(tmp_path: Path, mistake: str) -> None:
    toml, named, hinted = MISTAKES[mistake]
    with pytest.raises(InvalidInput) as caught:
        project(tmp_path, toml)
    assert named in caught.value.message
    assert hinted in caught.value.hint
    assert str(tmp_path) in caught.value.message


def test_a_bad_variable_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="VMCTL_DISK_GB"):
        project(tmp_path, VMCTL_DISK_GB="much")
    with pytest.raises(InvalidInput, match="VMCTL_LOCAL"):
        project(tmp_path, VMCTL_LOCAL="maybe")


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("Colorize", "colorize"),
        ("über_foto.v2", "uber-foto-v2"),
        ("2nd try", "p-2nd-try"),
        ("-", ""),
        ("a" * 80, "a" * 63),
    ],
)
def test_slug(text: str, made: str) -> None:
    assert slug(text) == made


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("root", "vmctl"),
        ("Ann.Lee", "ann_lee"),
        ("7up", "_7up"),
        ("ubuntu", "vmctl"),
        ("爱", "vmctl"),
        ("Jürgen Groß", "jurgen_gro"),
    ],
)
def test_login_user_is_safe(name: str, made: str) -> None:
    assert posix_user(name) == made


def test_a_login_key_lives_for_as_long_as_the_settings_say(tmp_path: Path) -> None:
    toml = "[vm]\nkey_hours = 8\n"
    assert project(tmp_path, toml).key_lifetime == timedelta(hours=8)
    assert project(tmp_path, toml, VMCTL_KEY_HOURS="2.5").key_lifetime == timedelta(hours=2.5)
    with pytest.raises(InvalidInput, match=r"VMCTL_KEY_HOURS must be from 1 to 8760 hours"):
        project(tmp_path, toml, VMCTL_KEY_HOURS="0.1")


def test_how_ssh_is_let_in_is_said_by_true_and_false(tmp_path: Path) -> None:
    vm = project(tmp_path, "[vm]\nrestrict_ssh = true\nexternal_address = false\n").vm
    assert (vm.restrict_ssh, vm.external_address) == (True, False)
    assert project(tmp_path, VMCTL_RESTRICT_SSH="0").vm.restrict_ssh is False
    with pytest.raises(InvalidInput, match="restrict_ssh"):
        project(tmp_path, '[vm]\nrestrict_ssh = "yes"\n')
