"""The three kinds of jobs in vmctl.toml: a command, a script, a package."""

from __future__ import annotations

import pytest

from vmctl.domain.errors import InvalidInput
from vmctl.domain.settings.job_settings import JobSettings, parse_jobs

FILE = "vmctl.toml"
PACKAGE = {"package": "hello_world_vertex_ai", "module": "hello_world.main"}


def job(**table: object) -> JobSettings:
    return parse_jobs({"hello": table}, FILE)["hello"]


def test_a_script_is_run_by_python_with_its_requirements() -> None:
    made = job(script="./hello script.py", requirements=["asciimatics", " numpy>=1.26,<3 "])
    assert made.command == "python 'hello script.py'"
    assert made.script == "hello script.py"
    assert made.requirements == ("asciimatics", "numpy>=1.26,<3")
    assert job(script="../hello.py", directory="src").script == "../hello.py"


def test_a_package_is_run_as_its_module() -> None:
    made = job(**PACKAGE)
    assert made.command == "python -m hello_world.main"
    assert (made.package, made.module) == ("hello_world_vertex_ai", "hello_world.main")
    assert job(package=".", module="train").package == "."


@pytest.mark.parametrize(
    "kind",
    [{"command": "python a.py"}, {"script": "a.py"}, PACKAGE],
    ids=["command", "script", "package"],
)
def test_what_surrounds_it_is_the_same_for_every_kind(kind: dict[str, object]) -> None:
    made = job(
        **kind, directory="src", setup=["make"], env=["URL"], outputs=["a"], slurm={"nodes": 2}
    )
    assert (made.directory, made.setup, made.env) == ("src", ("make",), ("URL",))
    assert made.outputs == ("a",)
    assert made.slurm is not None and made.slurm.nodes == 2


@pytest.mark.parametrize(
    "requirement",
    [
        "torch-fidelity",
        "gcsfs[crc, fuse] >= 2024.1, != 2025.0",
        "numpy==1.26.*",
        "scipy~=1.11; python_version < '3.12'",
        "a",
    ],
)
def test_a_requirement_is_a_name_with_versions(requirement: str) -> None:
    assert job(script="a.py", requirements=[requirement]).requirements == (requirement,)


MISTAKES: dict[str, tuple[dict[str, object], str, str]] = {
    "two kinds": ({"script": "a.py", "command": "python a.py"}, "both a command and a script", ""),
    "no kind": ({"requirements": ["numpy"]}, "has no command", "command ="),
    "an empty script": ({"script": " "}, "has no command", ""),
    "requirements of a command": (
        {"command": "x", "requirements": ["numpy"]}, "only a script", "setup = ",
    ),
    "requirements of a package": ({**PACKAGE, "requirements": []}, "only a script", "setup.py"),
    "no module": ({"package": "p"}, "no module to run", "module ="),
    "module of a script": ({"script": "a.py", "module": "a"}, "a module, but is a script", ""),
    "no Python file": ({"script": "a.sh"}, "must be a Python file", 'command = "./a.sh"'),
    "script outside": ({"script": "../a.py"}, "inside the project", ""),
    "absolute script": ({"script": "/etc/a.py"}, "inside the project", ""),
    "script like an option": ({"script": "-a.py"}, "inside the project", ""),
    "package outside": ({**PACKAGE, "package": ".."}, "inside the project", ""),
    "not text": ({"script": ["a.py"]}, "must be text", ""),
    "one requirement": ({"script": "a.py", "requirements": "numpy"}, "must be a list", ""),
    "option": ({"script": "a.py", "requirements": ["--index-url=http://x"]}, "name of a", "setup"),
    "file": ({"script": "a.py", "requirements": ["-r requirements.txt"]}, "name of a", "setup"),
    "path": ({"script": "a.py", "requirements": ["./wheel"]}, "name of a package", "setup"),
    "URL": ({"script": "a.py", "requirements": ["x @ https://h/x.whl"]}, "name of a", "setup"),
    "VCS": ({"script": "a.py", "requirements": ["git+https://h/x"]}, "name of a", "setup"),
    "two in one": ({"script": "a.py", "requirements": ["numpy scipy"]}, "name of a", ""),
    "module as a path": (
        {**PACKAGE, "module": "hello_world/main.py"}, "not the name of a module",
        'module = "hello_world.main"',
    ),
    "module with a word of Python's": ({**PACKAGE, "module": "a.class"}, "not the name of", ""),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_clear_sentence(mistake: str) -> None:
    table, said, hinted = MISTAKES[mistake]
    with pytest.raises(InvalidInput) as caught:
        job(**table)
    assert said in caught.value.message
    assert FILE in caught.value.message
    assert hinted in caught.value.hint
