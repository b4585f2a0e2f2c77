"""Ctrl-C on scripts/demo, while its first machine is up."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from tests.harness.eventually import eventually
from tests.harness.laptop import ROOT


def left_of(base: str) -> list[str]:
    """The processes that a demo in this folder started, its machines' among them."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            about = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        except OSError:  # another user's, or gone
            continue
        if base.encode() in about:
            found.append(about.replace(b"\0", b" ").decode(errors="replace")[:200])
    return found


def bases_of(pid: int) -> set[str]:
    """The folders of the demo's own that its children work in."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    environs = [Path(f"/proc/{child}/environ").read_text() for child in children]
    return {found[1] for text in environs if (found := re.search(r"VMCTL_HOME=(.+?)/home", text))}


@pytest.mark.slow
def test_ctrl_c_leaves_nothing_of_the_demo(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as file:
        demo = subprocess.Popen(
            [ROOT / "scripts/demo"], stdout=file, stderr=file, start_new_session=True
        )
    waits = "Waiting for SSH"  # the machine is on
    eventually(lambda: waits in log.read_text() or demo.poll() is not None, within_s=200)
    (base,) = bases_of(demo.pid)
    os.killpg(demo.pid, signal.SIGINT)  # as a terminal does
    assert demo.wait(timeout=60) == 130, log.read_text()
    assert log.read_text().rstrip().endswith("Nothing of it is running.")
    eventually(lambda: not left_of(base), f"what is left: {left_of(base)}", within_s=10)
    assert not Path(base).exists()
