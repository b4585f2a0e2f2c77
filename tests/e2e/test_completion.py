"""What Tab offers: names from settings, from records here, and from the VM where it is warm."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.folders import public_folder, remove
from tests.harness.laptop import BASE, PROGRAM, Laptop, project
from tests.harness.startup import HEAVY

TOML = (
    BASE.replace("[vm]\n", '[vm]\ngpu = "none"\n')
    + '[jobs.train]\ndirectory = "src"\ncommand = "echo x > model.pt"\noutputs = ["model.pt"]\n'
    + '[jobs.test]\ncommand = "true"\n'
    + '[services.page]\nport = 8123\ncommand = "python3 -m http.server {port}"\n'
)


EVIL = "x$(touch it-ran).csv"  # a name like any other for push and fetch, none for a shell


def offered(laptop: Laptop, folder: Path, line: str, **environ: str) -> list[str]:
    """What bash would be given for a line that ends where Tab was pressed."""
    words = line.split(" ")
    asked = {
        "_VMCTL_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }
    done = laptop(cwd=folder, environ=asked | environ, code=None)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project without a machine."""
    return project(tmp_path_factory.mktemp("tab") / "here", TOML)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("vmctl doc", ["doctor"]),
        ("vmctl emulator st", ["start", "stop", "status"]),
        ("vmctl run t", ["train", "test"]),
        ("vmctl run tr", ["train"]),
        ("vmctl logs te", ["test"]),
        ("vmctl cancel tr", ["train"]),
        ("vmctl tunnel ", ["tensorboard", "jupyter", "page", "stop"]),
        ("vmctl tunnel p", ["page"]),
        ("vmctl tunnel stop ", ["all"]),
        ("vmctl fetch m", ["model.pt"]),
        ("vmctl up --gpu a", ["a100", "a100-80gb"]),
        ("vmctl up --image py", ["pytorch"]),
        ("vmctl up --zone europe-west1-", ["europe-west1-b", "europe-west1-c", "europe-west1-d"]),
        ("vmctl up --region europe-west1", ["europe-west1"]),
        ("vmctl schema doc", ["doctor"]),
    ],
)
def test_tab_offers(laptop: Laptop, here: Path, line: str, found: list[str]) -> None:
    assert offered(laptop, here, line) == found


def test_bash_itself_completes(laptop: Laptop, here: Path) -> None:
    script = (
        'eval "$(_VMCTL_COMPLETE=source_bash vmctl)"\n'
        "COMP_WORDS=(vmctl run tr) COMP_CWORD=2\n"
        'complete -p vmctl && _vmctl_completion vmctl && echo "${COMPREPLY[@]}"\n'
    )
    environ = laptop.environ | {"PATH": f"{PROGRAM.parent}:{laptop.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", script], cwd=here, env=environ, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "train", done


def test_tab_is_silent_where_something_is_wrong(laptop: Laptop, tmp_path: Path) -> None:
    wrong = project(tmp_path / "wrong", "[vm\n")
    assert offered(laptop, wrong, "vmctl run t") == []
    assert offered(laptop, wrong, "vmctl fetch t") == []


@pytest.mark.parametrize("line", ["vmctl run t", "vmctl fetch m", "vmctl up --zone e"])
def test_tab_imports_nothing_heavy(laptop: Laptop, here: Path, line: str) -> None:
    program = (
        "import atexit, json, sys; from vmctl.__main__ import main;"
        "atexit.register(lambda: print('\\n' + json.dumps(sorted(sys.modules))));"
        "main([])"
    )
    asked = {"_VMCTL_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": "2"}
    if "--zone" in line:
        asked["COMP_CWORD"] = "3"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=here, env=laptop.environ | asked, capture_output=True, text=True, check=True,
    )  # fmt: skip
    offers, _, loaded = done.stdout.rpartition("\n[")
    assert offers.strip()
    assert not {name.split(".")[0] for name in json.loads("[" + loaded)} & set(HEAVY)


@pytest.fixture(scope="module")
def machine(laptop: Laptop) -> Iterator[Path]:
    """A project whose machine has run a job."""
    base = public_folder("tab")
    made = project(
        base / "tabbed", TOML, {"src/train.py": "", "data.csv": "", "deep/a b.txt": "", EVIL: ""}
    )
    laptop("up", cwd=made)
    laptop("push", cwd=made)
    laptop("run", "train", cwd=made)
    yield made
    laptop("down", "--delete", "--yes", cwd=made, code=None)
    remove(base)


def test_tab_offers_what_is_on_the_machine(laptop: Laptop, machine: Path) -> None:
    assert set(offered(laptop, machine, "vmctl fetch ")) >= {
        "model.pt",
        "data.csv",
        "src/",
        "deep/",
    }
    assert not [word for word in offered(laptop, machine, "vmctl fetch ") if "$" in word]
    assert offered(laptop, machine, "vmctl fetch src/t") == ["src/train.py"]
    assert offered(laptop, machine, "vmctl fetch tr") == ["train.py"], "from the job's folder"
    (run,) = [run["id"] for run in laptop.json("ps", cwd=machine)]
    assert run in offered(laptop, machine, "vmctl logs tr")
    assert "tabbed" in offered(laptop, machine, "vmctl --name t")


def test_tab_waits_for_nobody(laptop: Laptop, machine: Path) -> None:
    """Without the warm connection there is less to offer, and no new one is made."""
    elsewhere = {"VMCTL_HOME": str(machine.parent / "other-home")}
    assert offered(laptop, machine, "vmctl fetch d", **elsewhere) == []
    assert offered(laptop, machine, "vmctl run tr", **elsewhere) == ["train"]


def test_tab_offers_the_vms_that_adopt_has_seen(laptop: Laptop, machine: Path) -> None:
    assert "tester-tabbed" in laptop("adopt", "tester-tabed", cwd=machine, code=3).stderr
    assert offered(laptop, machine, "vmctl adopt tester-t") == ["tester-tabbed"]
