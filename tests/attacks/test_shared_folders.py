"""Other users of this computer: folders, links and files that they made where vmctl makes ours."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.laptop import Laptop
from vmctl.__main__ import main
from vmctl.domain.errors import InvalidInput
from vmctl.folders import data_dir, runtime_dir
from vmctl.ssh.transfer.destination import Destination, part_name

NEIGHBOUR = 65533
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes another user's files")


def of_neighbour(path: Path, mode: int = 0o700) -> Path:
    path.mkdir()
    os.chown(path, NEIGHBOUR, NEIGHBOUR)
    path.chmod(mode)
    return path


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A place of ours with a short name for XDG_RUNTIME_DIR, TMPDIR and a home."""
    made = Path(tempfile.mkdtemp(prefix="vn", dir="/tmp"))
    made.chmod(0o755)
    monkeypatch.setattr(tempfile, "tempdir", str(made / "tmp"))
    (made / "tmp").mkdir()
    (made / "tmp").chmod(0o1777)
    (made / "xdg").mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(made / "xdg"))
    monkeypatch.setenv("VMCTL_HOME", str(made / "home"))
    yield made
    shutil.rmtree(made)


def test_control_sockets_lie_in_a_folder_of_ours_alone(base: Path) -> None:
    assert runtime_dir() == base / "xdg/vmctl"
    assert stat.S_IMODE((base / "xdg/vmctl").stat().st_mode) == 0o700
    (base / "xdg/vmctl").chmod(0o755)
    runtime_dir()
    assert stat.S_IMODE((base / "xdg/vmctl").stat().st_mode) == 0o700


@needs_root
@pytest.mark.parametrize("mode", [0o700, 0o755, 0o777])
def test_a_folder_that_somebody_else_made_first_is_passed_over(base: Path, mode: int) -> None:
    of_neighbour(base / "xdg/vmctl", mode)
    assert runtime_dir() == base / f"tmp/vmctl-{os.getuid()}"
    of_neighbour(base / "elsewhere")
    (base / f"tmp/vmctl-{os.getuid()}").rmdir()
    of_neighbour(base / f"tmp/vmctl-{os.getuid()}", mode)
    assert runtime_dir() == Path(f"/tmp/vmctl-{os.getuid()}")
    assert (base / "xdg/vmctl").stat().st_uid == NEIGHBOUR, "left as it is"


def test_a_link_is_no_folder_for_sockets(base: Path) -> None:
    (base / "target").mkdir()
    (base / "xdg/vmctl").symlink_to(base / "target")
    assert runtime_dir() == base / f"tmp/vmctl-{os.getuid()}"


@needs_root
def test_a_place_where_others_could_swap_the_folder_is_passed_over(base: Path) -> None:
    (base / "xdg").chmod(0o777)
    (base / "tmp").chmod(0o777)
    assert runtime_dir() == Path(f"/tmp/vmctl-{os.getuid()}")
    (base / "xdg").chmod(0o700)
    os.chown(base / "xdg", NEIGHBOUR, NEIGHBOUR)
    assert runtime_dir() == Path(f"/tmp/vmctl-{os.getuid()}")


@needs_root
def test_a_home_of_somebody_else_is_refused_in_words(laptop: Laptop, base: Path) -> None:
    (base / "home").mkdir()
    of_neighbour(base / "home/data", 0o777)
    told = laptop("tunnels", cwd=base, code=2, environ={"VMCTL_HOME": str(base / "home")})
    assert "belongs to another user" in told.stderr
    assert "VMCTL_HOME" in told.stderr


@needs_root
def test_what_others_put_into_an_open_home_is_not_used(base: Path) -> None:
    data = data_dir()
    data.chmod(0o777)
    (data / "hostkeys").mkdir()
    os.chown(data / "hostkeys", NEIGHBOUR, NEIGHBOUR)
    for _ in range(2):  # closed at once, and refused until it is gone
        with pytest.raises(InvalidInput, match="hostkeys in it belongs to another user"):
            data_dir()
        assert not data.stat().st_mode & 0o077
    (data / "hostkeys").rmdir()
    data_dir()
    assert stat.S_IMODE(data.stat().st_mode) == 0o700


@needs_root
def test_a_part_file_that_somebody_else_laid_ready_does_not_become_ours(tmp_path: Path) -> None:
    ready = tmp_path / part_name("model.pt")
    ready.write_bytes(b"begun")
    os.chown(ready, NEIGHBOUR, NEIGHBOUR)
    ready.chmod(0o666)
    destination = Destination(tmp_path)
    part = destination.open_part("model.pt")
    part.begin(0)
    part.write(b"proven")
    part.finish(0o644, 0)
    part.close()
    destination.close()
    assert (tmp_path / "model.pt").stat().st_uid == os.geteuid()
    assert (tmp_path / "model.pt").read_bytes() == b"proven"


def test_init_writes_through_no_link_of_a_cloned_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch, base: Path
) -> None:
    bashrc = base / "bashrc"
    bashrc.write_text("mine\n")
    (folder / "vmctl.toml").symlink_to(bashrc)
    (folder / f".vmctl.toml.{os.getpid()}").symlink_to(bashrc)  # a clone brings all numbers
    monkeypatch.chdir(folder)
    assert main(["--local", "init", "--force", "--yes"]) == 0
    assert bashrc.read_text() == "mine\n"
    assert not (folder / "vmctl.toml").is_symlink()
