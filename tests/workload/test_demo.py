"""scripts/demo: its help, its page, and that nothing it started outlives it."""

import base64
import os
import re
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT
from inference import Scores

from scripts import demo
from scripts.demo_page import Step, page, verdict
from tests.harness.eventually import eventually

SCORES = Scores(24.0, 0.9, 20.0, 23.25, 0.89, 38.0)
HISTORY = [
    {"epoch": 1, "loss": 0.02} | SCORES._asdict() | {"psnr": 23.0},
    {"epoch": 2, "loss": 0.01} | SCORES._asdict(),
]
LOSSES = [[0.0, 1, 0.02], [1.0, 2, float("nan")], [2.0, 10, 0.01]]
STEPS = [Step("vmctl up --gpu t4", 1.0, took=2.0), Step("vmctl push", 3.0, took=0.5)]


def test_help_answers_before_anything_is_installed(tmp_path):
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    before = sorted(tmp_path.rglob("*"))
    for word, code in {"--help": 0, "-h": 0, "--fast": 2}.items():
        done = subprocess.run(
            [tmp_path / "scripts/demo", word], env={"PATH": "/usr/bin:/bin", "PYTHON": "/nowhere"},
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == code
        assert ("demo-output/" in done.stdout) is (code == 0)
    assert sorted(tmp_path.rglob("*")) == before


def test_the_page_shows_pictures_curves_and_times_and_needs_nothing_but_itself():
    picture = b"\x89PNG, to the browser"
    shown = page(STEPS, 125.0, verdict(HISTORY), HISTORY, LOSSES, picture)
    assert base64.b64encode(picture).decode() in shown
    assert shown.count("<svg") == shown.count("<polyline") == 2
    assert "training loss: from 0.0200 to 0.0100" in shown and "nan" not in shown
    assert re.search(r"vmctl up --gpu t4</code></td><td>2\.0 s</td>", shown)
    assert "All steps together: 2 min 5 s." in shown
    assert "beats gray by 0.75 dB" in shown
    assert "default-src 'none'" in shown and "<script" not in shown
    assert not re.findall(r"https?://|(?:src|href)=\"(?!data:)", shown)


def test_the_page_obeys_no_title_and_gets_by_without_curves():
    shown = page([Step("<b>&", 0.0, took=1.0)], 0.0, "<i>", [], [], b"")
    assert "&lt;b&gt;&amp;" in shown and "&lt;i&gt;" in shown
    assert "<svg" not in shown


def test_the_verdict_is_the_last_epochs_and_says_when_gray_is_better():
    assert "beats gray by 0.75 dB: 24.00 dB, the gray photos alone 23.25 dB" in verdict(HISTORY)
    assert "not better than gray yet" in verdict(HISTORY[:1])
    assert "not compared" in verdict([]) == verdict([{"epoch": 1, "loss": 0.01}])


def left_of(base: Path) -> list[str]:
    """The processes whose words name a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().decode(errors="replace")
            state = (process / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if str(base) in words and state != "Z" and process.name != str(os.getpid()):
            found.append(words)
    return found


def test_what_runs_in_the_background_ends_with_the_demo(tmp_path, capfd):
    started = tmp_path / "started"
    os.mkfifo(started)
    line = f"tail -f {tmp_path}/0.log & echo >{started}; wait"  # bash and what it started
    begun = demo.Demo(tmp_path)
    begun.start("building", "bash", "-c", line)
    started.read_text()
    assert left_of(tmp_path)
    begun.close()
    eventually(lambda: not left_of(tmp_path), within_s=10)
    assert begun.steps[0].took > 0


def test_what_must_not_stop_half_way_is_waited_for(tmp_path, capfd):
    begun = demo.Demo(tmp_path)
    line = f"seq 300000 | tail -n 1; touch {tmp_path}/whole"
    begun.start("installing", "bash", "-c", line, whole_s=300, program="apt-get")
    begun.close()
    assert "Letting apt-get finish first (up to 5 minutes)" in capfd.readouterr().out
    assert (tmp_path / "whole").exists()


def test_steps_overlap_and_each_is_timed(tmp_path, capfd):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    begun = demo.Demo(tmp_path)
    reader = begun.start("reads", "cat", str(fifo))  # ends only when the other one has run
    writer = begun.start("writes", "bash", "-c", f"echo >{fifo}")
    begun.finish(reader)
    begun.finish(writer)
    told = capfd.readouterr().out
    assert re.search(r"✓ reads \([0-9.]+ s\)", told) and told.count("✓ writes") == 1
    assert begun.steps[1].began < begun.steps[0].began + begun.steps[0].took
    begun.run("true")
    assert re.search(r"\$ true\n  [0-9.]+ s\n", capfd.readouterr().out)


def test_a_step_that_fails_ends_the_demo_with_its_last_words(tmp_path, capfd):
    begun = demo.Demo(tmp_path)
    failing = begun.start("packages", "bash", "-c", "echo the reason; exit 3")
    with pytest.raises(demo.StepFailed, match="'packages' ended with exit code 3"):
        begun.finish(failing)
    assert "the reason" in capfd.readouterr().out
    with pytest.raises(demo.StepFailed, match="'false' ended with exit code 1"):
        begun.run("false")


def test_commands_of_the_demo_leave_the_users_own_rehearsals_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("VMCTL_HOME", "/home/me/vmctl")
    monkeypatch.setenv("VMCTL_GPU", "h100")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("LANDSCAPES_URL", "https://example.org/x.zip")
    environ = demo.Demo(tmp_path).environ
    assert {environ["VMCTL_HOME"], environ["VMCTL_EMULATOR_HOME"]} == {
        str(tmp_path / "home"),
        str(tmp_path / "emulator"),
    }
    assert environ["LANDSCAPES_URL"] == "https://example.org/x.zip"
    assert not {"VMCTL_GPU", "PYTHONDONTWRITEBYTECODE"} & set(environ)


def test_a_port_that_is_taken_is_not_the_demos():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert demo.free_port(port) not in (0, port)
    assert demo.free_port(port) == port
