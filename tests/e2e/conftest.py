"""The installed `vmctl` program, a private embedded Compute Engine, and folders to work in."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from scripts.link import Link, refusal
from tests.e2e.logins import logged_out, service_account, serving_tokens

if TYPE_CHECKING:
    from tests.e2e.holding import Rehearsal
    from tests.e2e.test_bad_days import Cloud

PROGRAM = Path(sys.executable).with_name("vmctl")
ROOT = Path(__file__).resolve().parents[2]
_started: list[subprocess.Popen[bytes]] = []


@dataclass
class Laptop:
    """A user's computer: a home of its own for vmctl, and the emulator that it talks to."""

    home: Path
    emulator_home: Path
    extra: dict[str, str] = field(default_factory=dict)
    prefix: Sequence[str] = ()  # what puts a command into another network, say

    @property
    def environ(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("VMCTL_", "LANDSCAPES_"))}
        kept.pop("NO_COLOR", None)
        images = os.environ.get("VMCTL_EMULATOR_IMAGES")
        return {
            **kept,
            "VMCTL_LOCAL": "1",
            "VMCTL_HOME": str(self.home),
            "VMCTL_EMULATOR_HOME": str(self.emulator_home),
            "VMCTL_OWNER": "tester",
            "XDG_RUNTIME_DIR": "",
            **({"VMCTL_EMULATOR_IMAGES": images} if images else {}),
            **self.extra,
        }

    def start(self, *words: str, cwd: Path, **options: Any) -> subprocess.Popen[bytes]:
        """Start the program and do not wait for it."""
        options.setdefault("stdin", subprocess.DEVNULL)
        options.setdefault("stdout", subprocess.PIPE)
        options.setdefault("stderr", subprocess.PIPE)
        environ = self.environ | options.pop("environ", {})
        process = subprocess.Popen(
            [*self.prefix, PROGRAM, *words], cwd=cwd, env=environ, start_new_session=True, **options
        )
        _started.append(process)
        return process

    def __call__(
        self,
        *words: str,
        cwd: Path,
        code: int | None = 0,
        stdin: bytes | None = None,
        timeout_s: float = 120,
        environ: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run the program to its end and check its exit code; never a traceback."""
        done = subprocess.run(
            [*self.prefix, PROGRAM, *words],
            cwd=cwd,
            env=self.environ | dict(environ or {}),
            input=stdin if stdin is not None else b"",
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
        out = done.stdout.decode("utf-8", "replace")
        err = done.stderr.decode("utf-8", "replace")
        told = f"$ vmctl {' '.join(words)}\n{out}{err}[exit {done.returncode}]"
        assert "Traceback" not in err, told
        if code is not None:
            assert done.returncode == code, told
        return subprocess.CompletedProcess(words, done.returncode, out, err)

    def json(self, *words: str, cwd: Path, **options: Any) -> Any:
        """The JSON document that a command prints."""
        return json.loads(self(*words, "--json", cwd=cwd, **options).stdout)


def processes_of(marker: str) -> list[str]:
    """The processes on this computer whose command line or environment names a folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or entry.name == str(os.getpid()):
            continue
        try:
            words = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
        except OSError:
            continue
        if marker.encode() in words:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            found.append(f"{entry.name}: {line}")
    return found


def public_folder(name: str) -> Path:
    """A new folder that other users of this computer can enter, as machines' disks need."""
    folder = Path(tempfile.mkdtemp(prefix=f"vmctl-{name}-", dir="/var/tmp"))
    folder.chmod(0o755)
    return folder


@pytest.fixture(scope="session")
def laptop() -> Iterator[Laptop]:
    """One laptop and one emulator for the whole session."""
    base = public_folder("e2e")
    made = Laptop(base / "laptop", base / "emulator")
    yield made
    try:
        made("emulator", "stop", cwd=base, code=None)
    finally:
        left = [line for line in processes_of(str(made.emulator_home)) if "pytest" not in line]
        for line in left:
            os.kill(int(line.split(":")[0]), signal.SIGKILL)
        shutil.rmtree(base, ignore_errors=True)
    assert not left, f"left running: {left}"


@pytest.fixture(autouse=True)
def _no_program_is_left_to_the_next_test() -> Iterator[None]:
    """What a test that failed had started ends with it, pipes and all."""
    before = len(_started)
    yield
    for process in _started[before:]:
        with process:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    del _started[before:]


@pytest.fixture
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A project folder of the user's own, named after the test."""
    name = request.node.originalname.removeprefix("test_")[:30]
    made = tmp_path / name
    made.mkdir()
    return made


@pytest.fixture
def stranger(laptop: Laptop, tmp_path: Path) -> Laptop:
    """The same laptop, aimed at the real service and with no login of anybody's."""
    return Laptop(laptop.home, laptop.emulator_home, logged_out(tmp_path))


@pytest.fixture(scope="session")
def token_server() -> Iterator[str]:
    """A token endpoint that gives a token to whoever asks, or refuses under /revoked."""
    with serving_tokens() as url:
        yield url


@pytest.fixture(scope="session")
def account() -> dict[str, str]:
    """A service account's key file, less its project and where its tokens come from."""
    return service_account()


def project(folder: Path, toml: str, files: Mapping[str, str] | None = None) -> Path:
    """Write a project: its vmctl.toml and its files."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vmctl.toml").write_text(toml, encoding="utf-8")
    for name, text in (files or {}).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


BASE = '[vm]\nimage = "ubuntu-2404-lts-amd64"\n'


@pytest.fixture(scope="session")
def shared_machine(laptop: Laptop) -> Iterator[Path]:
    """A folder whose machine (no torch) is up for the whole session; tests leave it up."""
    made = public_folder("project")
    project(made / "shared", BASE)
    laptop("up", "--gpu", "t4", cwd=made / "shared")
    yield made / "shared"
    laptop("down", "--delete", "--yes", cwd=made / "shared", code=None)
    shutil.rmtree(made, ignore_errors=True)


def rows(text: str) -> Sequence[list[str]]:
    """The lines of a plain table as their words."""
    return [line.split() for line in text.splitlines()]


@dataclass
class Linked:
    """A laptop and a machine (no torch, up, at `folder`) with a real network between them."""

    laptop: Laptop
    link: Link
    folder: Path


@pytest.fixture(scope="session")
def linked_machine() -> Iterator[Linked]:
    """One link, one emulator behind it and one machine for the whole session."""
    if (reason := refusal()) is not None:
        pytest.skip(reason)
    base = public_folder("linked")
    with Link.opened(rtt_ms=30, rate_mbit=100) as link:
        laptop = Laptop(base / "laptop", base / "emulator", prefix=link.laptop)
        link.serve_emulator(laptop.emulator_home, laptop.environ)
        folder = project(base / "linked", BASE)
        laptop("up", "--gpu", "t4", cwd=folder)
        yield Linked(laptop, link, folder)
        link.reset()
        laptop("down", "--delete", "--yes", cwd=folder, code=None)
    left = [line for line in processes_of(str(base)) if "pytest" not in line]
    for line in left:
        os.kill(int(line.split(":")[0]), signal.SIGKILL)
    shutil.rmtree(base, ignore_errors=True)
    assert not left, f"left running: {left}"


@pytest.fixture
def linked(linked_machine: Linked) -> Iterator[Linked]:
    """The linked machine over a whole link: 30 ms there and back, 100 Mbit/s."""
    linked_machine.link.reset()
    yield linked_machine
    linked_machine.link.reset()


# -- a cloud whose calls can be held ------------------------------------------------------------


@pytest.fixture(scope="module")
def one_cloud(request: pytest.FixtureRequest) -> Iterator[Rehearsal]:
    """One for all tests of a file."""
    from tests.e2e.holding import rehearsal

    with rehearsal(request.module.__name__.rpartition(".")[2].removeprefix("test_")) as made:
        yield made


@pytest.fixture
def cloud(one_cloud: Rehearsal) -> Iterator[Rehearsal]:
    """Nothing is in it, before a test and after it."""
    one_cloud.clear()
    yield one_cloud
    one_cloud.clear()


# -- a cloud where things go wrong ---------------------------------------------------------------


@pytest.fixture(scope="module")
def one_sky(request: pytest.FixtureRequest) -> Iterator[Cloud]:
    """One for all tests of a file, whose BASE, if it has one, is the project's vmctl.toml."""
    from tests.e2e.skies import own_cloud

    module = request.module
    with own_cloud(module.__name__.rpartition(".")[2].removeprefix("test_")) as made:
        if hasattr(module, "BASE"):
            project(made.folder, module.BASE)
        yield made


@pytest.fixture
def sky(one_sky: Cloud) -> Iterator[Cloud]:
    """No faults and no machines are left to the next test."""
    from tests.e2e.skies import cleared

    with cleared(one_sky):
        yield one_sky
