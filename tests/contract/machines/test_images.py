"""Images with a Python of their own, and each machine's layer over them."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.contract.machines.host import (
    HOSTING,
    PACKAGE,
    ROOT,
    Answers,
    Bench,
    alive,
    descendants,
    make_wheel,
    needs_sandbox,
    opened,
)
from tests.harness.eventually import eventually
from tests.harness.folders import public_folder
from vmctl.emulator import machines
from vmctl.emulator.machines import sandbox
from vmctl.emulator.machines.images import image as images
from vmctl.emulator.machines.interface import MachineError


@dataclass
class Built:
    """A folder of images that has been built after a build that was killed, and what was said."""

    folder: Path
    said: list[str]


@pytest.fixture(scope="module")
def built() -> Iterator[Built]:
    """The image "tiny": the most costly thing here, made once."""
    base = public_folder("images")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(images.RECIPES, "tiny", images.Recipe((), ("pip",), 0.1))
        killed_build(base)
        said: list[str] = []
        host = machines.MachineHost(base / "home", base / "images", Answers())
        host.prepare_image("tiny", said.append)
        host.close()
        yield Built(base / "images", said)
    machines.delete_disk(base)


def killed_build(base: Path) -> None:
    """Kill another process in the middle of its build, whose own processes end with it."""
    package = base / "machines_package"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(HOSTING, base / "hosting.py")
    words = [package, base / "home", base / "images", "key", "prepare:tiny"]
    program = [sys.executable, "-B", base / "hosting.py", *words]
    with subprocess.Popen(program, stdout=subprocess.DEVNULL) as process:
        try:
            eventually(lambda: list((base / "images").glob(".building-*/python/bin")))
            family = descendants(process.pid)
        finally:
            process.kill()
    eventually(lambda: not alive(family), "the killed build's processes end")


@pytest.fixture
def tiny(built: Built, folder: Path) -> Iterator[Bench]:
    """A host of machines that may have the image."""
    with opened(folder, built.folder) as bench:
        yield bench


@pytest.mark.exhaustive
@needs_sandbox
def test_a_build_that_was_killed_is_done_again(built: Built, tiny: Bench) -> None:
    assert any("installing" in line for line in built.said)
    again: list[str] = []
    tiny.host.prepare_image("tiny", again.append)
    assert again == []
    names = [entry.name for entry in built.folder.iterdir()]
    assert sorted(name.split("-")[0] for name in names) == [".tiny", "tiny"]


@needs_sandbox
@pytest.mark.parametrize("overlay", [True, pytest.param(False, marks=pytest.mark.exhaustive)])
def test_pip_installs_into_the_machines_own_layer(
    tiny: Bench, built: Built, tmp_path: Path, overlay: bool
) -> None:
    image = images.ImageStore(built.folder, None, True).path("tiny")  # type: ignore[arg-type]
    assert image is not None
    listing = {file: file.lstat().st_mtime_ns for file in image.rglob("*")}
    if overlay and not tiny.host._overlay:
        pytest.skip(tiny.host.note)
    tiny.host._overlay = overlay
    for number in ("2", "3"):
        tiny.boot(number, image="tiny")
    where = "import sys; print(sys.prefix)"
    assert tiny.ssh("2", f"bash -lc 'python -c \"{where}\"'") == "/opt/python"
    wheel = make_wheel(tmp_path, "1.0")
    subprocess.run(
        ["scp", "-q", *tiny.options("2"), str(wheel), f"{tiny.address('2')}:"], check=True
    )
    tiny.ssh("2", f"bash -lc 'pip install --no-index ~/{wheel.name}'")
    version = "bash -lc 'python -c \"import probe_package as p; print(p.version)\"'"
    assert tiny.ssh("2", version) == "1.0"
    assert tiny.try_ssh("3", version).returncode == 1
    tiny.host.shutdown("2", 10)
    tiny.boot("2", image="tiny")
    assert tiny.ssh("2", version) == "1.0"
    assert {file: file.lstat().st_mtime_ns for file in image.rglob("*")} == listing


def inner_pids(pid: int) -> list[str]:
    """What a process is called in the pid namespaces below this computer's."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return []  # it has just ended
    return status.partition("NSpid:")[2].partition("\n")[0].split()[1:]


@needs_sandbox
def test_not_even_the_first_process_of_a_machine_can_write_to_the_shared_image(
    tiny: Bench,
) -> None:
    tiny.boot("2", image="tiny")
    (first,) = (pid for pid in descendants(os.getpid()) if inner_pids(pid) == ["1"])
    attempt = """
        [ "$(id -u)" = 0 ] && touch /etc/mine || exit 7
        for shared in /run/vmctl/image /run/vmctl/seed; do
          mount -n -o remount,bind,rw $shared && exit 8
          mkdir -p /mnt/x && mount -n --bind $shared /mnt/x || exit 9
          mount -n -o remount,bind,rw /mnt/x && exit 10
          touch $shared/mine /mnt/x/mine && exit 11
        done
        exit 0
    """
    # Whoever owns a namespace has every capability in it, as its first process has.
    words = ["nsenter", f"--target={first}", "--user", "--mount", "--preserve-credentials"]
    uid = sandbox.MACHINE_UID if ROOT else None
    done = subprocess.run(
        [*words, "--", "/bin/sh", "-c", attempt],
        user=uid, group=uid, extra_groups=[] if ROOT else None, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@needs_sandbox
def test_a_package_that_does_not_exist_is_one_sentence(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    recipe = images.Recipe(("no-such-package-of-mine",), (), 0.1)
    monkeypatch.setitem(images.RECIPES, "broken", recipe)
    with pytest.raises(MachineError, match=r"No matching distribution.*; .*pip config"):
        bench.host.prepare_image("broken", lambda _: None)
    assert [e.name for e in (bench.home.parent / "images").iterdir() if ".lock" not in e.name] == []
    with pytest.raises(MachineError, match="has not been prepared"):
        bench.boot("2", image="broken")


@needs_sandbox
def test_the_pytorch_image_trains_a_step(folder: Path) -> None:
    """Only where the image has been built already: building takes minutes and gigabytes.

    That all of it can be imported is seen when it is built.
    """
    default = "/var/cache/vmctl/images" if ROOT else Path.home() / ".cache/vmctl/images"
    store = Path(os.environ.get("VMCTL_EMULATOR_IMAGES", default))
    try:
        images.ImageStore(store, None, True).path("pytorch")  # type: ignore[arg-type]
    except MachineError as error:
        pytest.skip(str(error))
    code = (
        "import torch;"
        "from importlib.util import find_spec;"
        "assert all(map(find_spec, ('torchvision', 'tensorboard', 'jupyterlab', 'tqdm', 'PIL')));"
        "from torch.utils.data import DataLoader;"
        "layer = torch.nn.Linear(4, 1);"
        "[layer(x).sum().backward() for x in DataLoader(torch.ones(8, 4), 4, num_workers=2)];"
        "print(layer.bias.grad.item())"
    )
    with opened(folder, store) as bench:
        bench.boot("2", image="pytorch")
        assert bench.ssh("2", f"bash -lc {shlex.quote(f'python -c {shlex.quote(code)}')}") == "8.0"
        assert bench.ssh("2", "bash -lc 'which tensorboard jupyter pip python3'").split() == [
            f"/opt/python/bin/{name}" for name in ("tensorboard", "jupyter", "pip", "python3")
        ]
