"""The same commands as an ordinary user, and where machines can be no sandboxes."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.harness.endpoint import Endpoint
from tests.harness.eventually import eventually
from tests.harness.folders import processes_of, public_folder
from tests.harness.laptop import BASE, project

ROOT = Path(__file__).resolve().parents[2]


class OtherUser:
    """Runs vmctl as an ordinary user: as an account made for it when the tests run as root."""

    def __init__(self, base: Path, account: pwd.struct_passwd, extra: Mapping[str, str]) -> None:
        self.base = base
        self.account = account
        self.environ = {
            "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "HOME": str(base / "home"),
            "USER": account.pw_name,
            "LOGNAME": account.pw_name,
            "LANG": "C.UTF-8",
            "VMCTL_LOCAL": "1",
            "VMCTL_HOME": str(base / "home" / "vmctl"),
            "VMCTL_EMULATOR_HOME": str(base / "emulator"),
            **extra,
        }

    def __call__(self, *words: str, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
        uid, gid = self.account.pw_uid, self.account.pw_gid
        identity = {"user": uid, "group": gid, "extra_groups": []} if os.getuid() == 0 else {}
        done = subprocess.run(
            [self.environ["VMCTL_TEST_PYTHON"], "-m", "vmctl", *words],
            cwd=cwd,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            **identity,  # type: ignore[call-overload]
        )
        told = f"$ vmctl {' '.join(words)}\n{done.stdout}{done.stderr}[exit {done.returncode}]"
        assert "Traceback" not in done.stderr, told
        assert done.returncode == code, told
        return done

    def own(self, folder: Path) -> None:
        """Give a folder and all in it to this user."""
        for path in [folder, *folder.rglob("*")]:
            if not path.is_symlink():
                os.chown(path, self.account.pw_uid, self.account.pw_gid)


@pytest.fixture(scope="module")
def account() -> Iterator[pwd.struct_passwd]:
    """An ordinary account: a new one for root, whose password file it leaves as it was."""
    if os.getuid() != 0:
        yield pwd.getpwuid(os.getuid())
        return
    name = f"vmctl-test-{os.getpid()}"
    add = ["useradd", "--no-create-home", "--home-dir", "/nonexistent", "--shell", "/bin/bash"]
    subprocess.run([*add, name], check=True)
    try:
        yield pwd.getpwnam(name)
    finally:
        subprocess.run(["userdel", name], check=True)


@pytest.fixture(scope="module")
def site() -> Iterator[Path]:
    """This Python's packages and vmctl, in a folder that all can read."""
    base = public_folder("user-site")
    purelib = Path(next(p for p in sys.path if p.endswith("site-packages")))
    shutil.copytree(purelib, base / "site", symlinks=True, ignore=shutil.ignore_patterns("pip"))
    for stale in (base / "site").glob("*vmctl*"):
        shutil.rmtree(stale) if stale.is_dir() else stale.unlink()
    shutil.copytree(ROOT / "vmctl", base / "site" / "vmctl")
    for path in (base / "site" / "vmctl").rglob("*.pyc"):
        path.chmod(0o644)  # some were compiled under a umask that keeps others out
    yield base / "site"
    shutil.rmtree(base)


@pytest.fixture(
    scope="module", params=["sandbox", pytest.param("plain", marks=pytest.mark.exhaustive)]
)
def user(
    request: pytest.FixtureRequest, account: pwd.struct_passwd, site: Path
) -> Iterator[OtherUser]:
    base = public_folder(f"user-{request.param}")
    for name in ("home", "emulator"):
        (base / name).mkdir()
    # the user needs a Python to enter
    extra = {"VMCTL_TEST_PYTHON": "/usr/bin/python3", "PYTHONPATH": str(site)}
    if sys.version_info[:2] != system_python():
        extra["VMCTL_TEST_PYTHON"] = sys.executable
    if request.param == "plain":
        extra["VMCTL_EMULATOR_PLAIN"] = "1"
    made = OtherUser(base, account, extra)
    made.own(base)
    yield made
    made("emulator", "stop", cwd=base)
    eventually(lambda: not processes_of(str(base / "emulator")), what="nothing left running")
    shutil.rmtree(base)


def system_python() -> tuple[int, int]:
    """The version of /usr/bin/python3."""
    code = "import sys; print(*sys.version_info[:2])"
    told = subprocess.run(["/usr/bin/python3", "-c", code], capture_output=True, check=True).stdout
    major, minor = map(int, told.split())
    return major, minor


@pytest.mark.slow
def test_the_main_commands_work(user: OtherUser) -> None:
    toml = BASE + '[jobs.train]\ncommand = "echo trained >out.txt; cat in.txt; sleep 2.5"\n'
    toml += 'outputs = ["out.txt"]\n'
    folder = project(user.base / "home" / "mine", toml, {"in.txt": "pushed\n"})
    user.own(folder)
    user("up", "--gpu", "t4", "--zone", "europe-west1-b", cwd=folder)
    status = user("emulator", "status", cwd=folder).stdout
    plain = "VMCTL_EMULATOR_PLAIN" in user.environ
    assert ("plain" in status) == plain, "the fallback is announced"
    user("push", cwd=folder)
    assert "pushed" in user("run", "train", cwd=folder).stdout
    user("fetch", cwd=folder)
    assert (folder / "out.txt").read_text() == "trained\n"

    def watched() -> bool:
        return json.loads(user("status", "--json", cwd=folder).stdout)["watchdog"] is not None

    if not plain:  # there a machine cannot tell its own processes from others
        eventually(watched, what="its watchdog looks", gap_s=1)  # a whole program each time
    assert not (plain and watched())
    user("down", cwd=folder)
    user("up", cwd=folder)
    told = user("exec", "--", "sh", "-c", "cat out.txt; id -un", cwd=folder).stdout.splitlines()
    assert told[0] == "trained"
    assert told[1]

    user("down", cwd=folder)  # and its zone runs dry: it moves with its disk
    endpoint = Endpoint(user.base / "emulator")
    endpoint.admin("POST", "faults", {"kind": "stockout", "zone": "europe-west1-b"})
    told = user("up", "--move", "--json", cwd=folder)
    assert json.loads(told.stdout)["zone"] == "europe-west1-c"
    assert user("exec", "cat", "out.txt", cwd=folder).stdout == "trained\n"
    endpoint.admin("DELETE", "faults")
    user("down", "--delete", "--yes", cwd=folder)
    assert "Nothing to remove" in user("gc", "--yes", cwd=folder).stdout
