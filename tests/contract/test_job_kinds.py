"""Scripts with requirements and packages, on a machine of a real sshd, with a pip of its own."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tests.harness.eventually import eventually
from tests.harness.wheels import make_wheel, package_files, pip_settings
from tests.harness.wire import World, play, processes_with, write
from vmctl.domain.errors import InvalidInput, NotFound
from vmctl.domain.events import Event, Output
from vmctl.domain.runs.run import RunResult
from vmctl.domain.settings.job_settings import JobSettings, parse_jobs
from vmctl.workflows.runs import run as jobs
from vmctl.workflows.sync.push import push

GREETER = "import sys\ndef greet():\n    print('{0}', *sys.argv[1:], sep='|')\n"
SCRIPT = "import greeter, os\ngreeter.greet()\nprint(os.environ.get('LOG_PATH'))\n"
HELLO = {"script": "hello.py", "requirements": ["greeter"]}
PACKAGE = {"package": "hello_package", "module": "hello_world.main"}


class Jobs:
    """A project with one job, `hello`, on a machine that knows the wheels in its home."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.wheels = world.sshd.home / "wheels"
        make_wheel(self.wheels, "greeter", "1.0", GREETER.format("one"))
        pip_settings(world.sshd.home, self.wheels)
        self.code, self.log = 0, ""

    def push(self, files: dict[str, str]) -> None:
        write(self.world.root, files)
        play(push(self.world.project))

    def run(self, table: dict[str, object], *args: str, detach: bool = False) -> RunResult:
        seen: list[bytes] = []

        def collect(event: Event) -> None:
            if isinstance(event, Output):
                seen.append(event.data)

        made: dict[str, JobSettings] = parse_jobs({"hello": table}, "vmctl.toml")
        project = dataclasses.replace(self.world.project, jobs=made)
        found: RunResult = play(jobs.run(project, "hello", args, detach), collect)
        self.log = b"".join(seen).decode()
        return found

    def environments(self) -> list[Path]:
        return [*(self.world.sshd.home / ".vmctl/environments/demo/hello").glob("[!.]*")]


@pytest.fixture
def made(world: World) -> Jobs:
    return Jobs(world)


def test_a_script_finds_its_requirements_which_are_installed_once(made: Jobs) -> None:
    made.push({"hello.py": SCRIPT})
    assert made.run(HELLO, "a b", "--c").code == 0
    assert "[vmctl] installing greeter\n" in made.log
    assert made.log.endswith("one|a b|--c\nNone\n")
    make_wheel(made.wheels, "greeter", "2.0", GREETER.format("two"))
    assert made.run(HELLO).code == 0
    assert "[vmctl] already installed: greeter\n" in made.log
    assert made.log.endswith("one\nNone\n")
    assert made.run({**HELLO, "requirements": ["greeter>=2"]}).code == 0
    assert made.log.endswith("two\nNone\n")
    # one whose making was cut off is made anew
    for environment in made.environments():
        (environment / "vmctl.json").unlink()
    assert made.run(HELLO).code == 0
    assert made.log.endswith("two\nNone\n")


def test_a_package_is_installed_as_it_was_pushed(made: Jobs) -> None:
    main = "import sys, greeter\nprint('{0}', __name__, __file__)\nsys.exit(int(sys.argv[1]))\n"
    files = package_files("hello_world", main.format("first"), "greeter>=1")
    made.push({f"hello_package/{name}": text for name, text in files.items()})
    assert made.run(PACKAGE, "7").code == 7
    assert "first __main__" in made.log
    assert f"{made.environments()[0]}/lib/" in made.log, "it is the installed one"
    made.push({"hello_package/hello_world/main.py": main.format("second")})
    assert made.run(PACKAGE, "0").code == 0
    assert "second __main__" in made.log
    assert made.run(PACKAGE, "0").code == 0
    assert "already installed: the package hello_package\n" in made.log
    package = made.world.remote / "hello_package"
    assert sorted(path.name for path in package.iterdir()) == [
        "backend.py", "hello_world", "pyproject.toml",
    ]  # fmt: skip


def test_a_cancelled_installation_ends_and_is_made_anew(made: Jobs) -> None:
    files = package_files("hello_world", "print('through')")
    mark = made.world.sshd.home / "building"
    waits = f"import time\nopen({str(mark)!r}, 'w').close()\ntime.sleep(600)\n"
    slow = {**files, "backend.py": waits}
    made.push({f"hello_package/{name}": text for name, text in slow.items()})
    made.run(PACKAGE, detach=True)
    eventually(mark.exists, "pip builds the package")
    assert play(jobs.cancel(made.world.project, "hello")).state == "cancelled"
    assert not processes_with(bytes(made.environments()[0]))
    made.push({"hello_package/backend.py": files["backend.py"]})
    assert made.run(PACKAGE).code == 0
    assert made.log.endswith("through\n")


def test_what_cannot_be_installed_is_said_in_words(made: Jobs) -> None:
    files = package_files("hello_world", "", "no-such-thing")
    made.push({"hello.py": SCRIPT} | {f"p/{name}": text for name, text in files.items()})
    table = {"script": "hello.py", "requirements": ["no-such-thing>=3"]}
    assert made.run(table).code == 1
    last = made.log.splitlines()[-1]
    assert last.startswith("[vmctl] pip finds no no-such-thing>=3 for Python 3.")
    assert last.endswith("Correct requirements in [jobs.hello], then: vmctl run hello")
    package = {"package": "p", "module": "hello_world.main"}
    assert made.run(package).code == 1
    assert "Correct what p/ requires, then: vmctl push && vmctl run hello" in made.log
    made.push({"p/backend.py": "raise SystemExit('the backend is broken')"})
    assert made.run(package).code == 1
    assert "the backend is broken" in made.log
    assert "p/ cannot be built and installed (see the lines above). Correct it, then" in made.log


def test_files_that_are_not_there_are_named_before_anything_is_sent(made: Jobs) -> None:
    made.push({"hello.py": SCRIPT, "p/readme": ""})
    with pytest.raises(NotFound, match=r"runs helo\.py, which is not there") as caught:
        made.run({"script": "helo.py"})
    assert "Did you mean hello.py?" in caught.value.hint
    with pytest.raises(NotFound, match="the package q, which is not there"):
        made.run({"package": "q", "module": "m"})
    with pytest.raises(InvalidInput, match=r"no setup\.py and no pyproject\.toml"):
        made.run({"package": "p", "module": "m"})
    write(made.world.root, {"later.py": ""})
    with pytest.raises(NotFound, match=r"later\.py is not on the VM") as caught:
        made.run({"script": "later.py"})
    assert caught.value.hint == "vmctl push"
