"""Machines where namespaces are refused."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

import pytest

from tests.contract.machines.host import (
    LEAVE_BEHIND,
    ROOT,
    alive,
    copy,
    descendants,
    enter,
    hosting,
    make_wheel,
    opened,
)
from tests.harness.eventually import eventually
from vmctl.emulator.machines import sandbox
from vmctl.emulator.machines.images import image as images


def test_plain_machines_work_and_end_with_the_emulator(folder: Path, key: Path) -> None:
    public = key.with_suffix(".pub").read_text().strip()
    user = "alice" if ROOT else os.environ.get("USER", "alice")
    plain = {"VMCTL_EMULATOR_PLAIN": "1"}
    with hosting(folder, public, 2, user=user, environment=plain) as (process, line):
        assert line["mode"] == "plain"
        assert "share this computer" in str(line["note"])
        first, second = line["machines"]  # type: ignore[misc]
        assert enter(folder, key, first, "echo one >file; cat file; id -u", user).split() == [
            "one", str(sandbox.MACHINE_UID if ROOT else os.getuid()),
        ]  # fmt: skip
        assert "file" not in enter(folder, key, second, "ls -a", user).split()
        assert enter(folder, key, first, LEAVE_BEHIND, user) == "ok"
        assert enter(folder, key, first, "tmux list-sessions -F '#S'", user) == "left"
        assert (
            enter(folder, key, second, "tmux list-windows 2>/dev/null || echo none", user) == "none"
        )
        upload = folder / "upload"
        upload.write_text("by scp")
        copy(folder, key, first, upload, user)
        assert enter(folder, key, first, "cat uploaded", user) == "by scp"
        # What ssh says when its connection is cut is no matter; the news is what counts.
        enter(folder, key, second, "(sleep 0.5; sudo shutdown -h now) >/dev/null 2>&1 &", user)
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["reason"] == "poweroff"
        family = descendants(process.pid)
        assert len(family) >= 3
        process.kill()
        process.wait(20)
        eventually(lambda: not alive(family), 15)


def test_a_plain_machine_boots_before_anybody_has_a_key(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VMCTL_EMULATOR_PLAIN", "1")
    user = "alice" if ROOT else os.environ.get("USER", "alice")
    with opened(folder) as bench:
        bench.answers.attributes["2"] = {"ssh-keys": ""}
        bench.boot("2")
        bench.answers.attributes["2"] = {"ssh-keys": f"{user}:{bench.public}"}
        bench.host.metadata_changed("2")
        eventually(lambda: bench.try_ssh("2", "true", user=user).returncode == 0)
        assert bench.ssh("2", "id -un", user=user) == user

        # it can be frozen, too: it runs on, or ends at once though nothing in it reacts
        bench.host.freeze("2")
        assert bench.host.thaw("2")
        bench.host.admit("2", True)
        assert bench.ssh("2", "id -un", user=user) == user
        bench.host.freeze("2")
        before = descendants(os.getpid())
        bench.host.shutdown("2", 60.0)
        eventually(lambda: not alive(before))


@pytest.mark.exhaustive
def test_plain_machines_get_the_image_with_a_layer_of_their_own(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VMCTL_EMULATOR_PLAIN", "1")
    monkeypatch.setitem(images.RECIPES, "tiny", images.Recipe((), ("pip",), 0.1))
    user = "alice" if ROOT else os.environ.get("USER", "alice")
    wheel = make_wheel(folder, "1.0")
    with opened(folder) as bench:
        bench.host.prepare_image("tiny", lambda _: None)
        bench.answers.attributes["2"] = {
            "ssh-keys": f"{user}:{bench.public}",
            "startup-script": "echo started in $PWD",
        }
        bench.boot("2", image="tiny")
        home = bench.spec("2").disk / "fs/opt/python"
        prefix = "bash -lc 'python -c \"import sys; print(sys.prefix)\"'"
        assert bench.ssh("2", prefix, user=user) == str(home)
        install = f"bash -lc 'pip install -q --no-index {shlex.quote(str(wheel))}'"
        bench.ssh("2", install, user=user)
        version = "bash -lc 'python -c \"import probe_package as p; print(p.version)\"'"
        assert bench.ssh("2", version, user=user) == "1.0"
        eventually(lambda: "startup-script exit status 0" in bench.serial("2"))
        assert f"started in {bench.spec('2').disk}" in bench.serial("2")
        before = descendants(os.getpid())
        bench.host.shutdown("2", 10)
        eventually(lambda: not alive(before))
