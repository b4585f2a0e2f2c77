"""A run keeps the code it started with; what it makes is in the workspace while it goes on."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.eventually import eventually
from tests.harness.folders import public_folder
from tests.harness.laptop import BASE, Laptop, project

JOBS = (
    BASE
    + """
[jobs.lazy]
directory = "src"
command = "python3 lazy.py"
[jobs.one]
command = "python3 two.py one"
outputs = ["result"]
[jobs.two]
command = "python3 two.py two"
outputs = ["result"]
[jobs.writer]
directory = "src"
setup = ["../make_data.sh"]
command = "python3 writer.py"
outputs = ["made.pth"]
"""
)

# imports that come only after a push has changed, deleted and renamed what they name
LAZY = """
import os, time
print("ready", flush=True)
while not os.path.exists("go"):
    time.sleep(0.05)
import changed, deleted, renamed
from pkg import inner
print(changed.VALUE, deleted.VALUE, renamed.VALUE, inner.VALUE, open("../config.json").read())
os.remove("go")
"""
TWO = """
import os, sys, time
import code_of_this_push as code
open("started." + sys.argv[1], "w").close()
while not os.path.exists("go"):
    time.sleep(0.05)
with open("result", "w") as result:
    result.write(sys.argv[1] + " " + code.VALUE)
"""
WRITER = """
import os, time
os.makedirs("runs/UNet", exist_ok=True)
with open("runs/UNet/events", "a") as events:
    events.write("first ")
    events.flush()
    open("made.pth.part", "w").write("weights")
    os.replace("made.pth.part", "made.pth")
    print(sorted(os.listdir("../data")), flush=True)
    while not os.path.exists("go"):
        time.sleep(0.05)
    events.write("second")
"""


@pytest.fixture(scope="module")
def lab(laptop: Laptop) -> Iterator[Path]:
    base = public_folder("lab")
    folder = project(
        base / "lab",
        JOBS,
        {
            "src/lazy.py": LAZY,
            "src/writer.py": WRITER,
            "two.py": TWO,
            "make_data.sh": "#!/bin/sh\nmkdir -p ../data; echo d >../data/d; echo set up\n",
        },
    )
    (folder / "make_data.sh").chmod(0o755)
    laptop("up", cwd=folder)
    yield folder
    laptop("down", "--delete", "--yes", cwd=folder, code=None)
    shutil.rmtree(base)


def on_vm(laptop: Laptop, lab: Path, script: str, code: int | None = 0) -> str:
    return laptop("exec", "--", "sh", "-c", script, cwd=lab, code=code).stdout


def write(folder: Path, value: str) -> None:
    """Modules that all say one value, of one size and one time: only their bytes differ."""
    for name in ("changed.py", "deleted.py", "renamed.py", "pkg/inner.py"):
        (folder / "src" / name).parent.mkdir(exist_ok=True)
        (folder / "src" / name).write_text(f"VALUE = '{value}'\n")
    (folder / "config.json").write_text(f'"{value}"')


def test_a_push_does_not_change_the_code_under_a_run(laptop: Laptop, lab: Path) -> None:
    write(lab, "old")
    laptop("push", cwd=lab)
    laptop("run", "--detach", "lazy", cwd=lab)
    eventually(lambda: "ready" in laptop("logs", "lazy", cwd=lab).stdout)
    write(lab, "new")
    (lab / "src/deleted.py").unlink()
    (lab / "src/renamed.py").rename(lab / "src/other.py")
    shutil.rmtree(lab / "src/pkg")
    laptop("push", cwd=lab)
    assert "new" in on_vm(laptop, lab, "cat src/changed.py; ! [ -e src/deleted.py ]")
    on_vm(laptop, lab, "touch src/go")
    told = laptop("logs", "-f", "lazy", cwd=lab).stdout
    assert 'old old old old "old"' in told
    write(lab, "new")
    laptop("push", cwd=lab)
    on_vm(laptop, lab, "touch src/go")
    assert 'new new new new "new"' in laptop("run", "lazy", cwd=lab).stdout
    assert on_vm(laptop, lab, "cat src/changed.py") == "VALUE = 'new'\n"
    assert not on_vm(laptop, lab, "ls -d ~/.vmctl/runs/*/tree 2>/dev/null; true")


def test_two_runs_at_once_each_with_its_code_and_its_result(laptop: Laptop, lab: Path) -> None:
    for job in ("one", "two"):
        (lab / "code_of_this_push.py").write_text(f"VALUE = 'pushed for {job}'\n")
        laptop("push", cwd=lab)
        laptop("run", "--detach", job, cwd=lab)
        eventually(lambda job=job: on_vm(laptop, lab, f"ls -d started.{job}; true"))  # type: ignore[misc]
    on_vm(laptop, lab, "touch go")
    logs = {job: laptop("logs", "-f", job, cwd=lab).stdout for job in ("one", "two")}
    results = on_vm(laptop, lab, "cat result; echo; cat ~/.vmctl/runs/*/tree/result").splitlines()
    assert sorted(results) == ["one pushed for one", "two pushed for two"]
    (kept,) = (job for job, log in logs.items() if "kept in" in log)
    assert results[1].startswith(kept), "the log of the one that came second says where it is"
    laptop("fetch", cwd=lab)
    assert (lab / "result").read_text() == "two pushed for two", "the last run's own"
    (lab / "result").unlink()
    on_vm(laptop, lab, "rm -f go result started.*")


def test_what_a_run_makes_is_seen_in_the_workspace_while_it_goes_on(
    laptop: Laptop, lab: Path
) -> None:
    laptop("push", cwd=lab)
    laptop("run", "--detach", "writer", cwd=lab)
    events = "cat ~/Workspace/lab/src/runs/UNet/events 2>/dev/null; true"
    eventually(lambda: on_vm(laptop, lab, events) == "first ")
    eventually(lambda: on_vm(laptop, lab, "cat src/made.pth 2>/dev/null; true") == "weights")
    log = laptop("logs", "writer", cwd=lab).stdout
    assert "set up" in log
    assert "['d']" in log, "what set-up made is there"
    laptop("fetch", "made.pth", cwd=lab)
    on_vm(laptop, lab, "touch src/go")
    laptop("logs", "-f", "writer", cwd=lab)
    assert on_vm(laptop, lab, events) == "first second"
    kinds = on_vm(
        laptop, lab, "stat -c %F src/runs src/runs/UNet src/runs/UNet/events src/made.pth"
    )
    assert kinds.splitlines() == ["directory", "directory", "regular file", "regular file"]
    assert not on_vm(
        laptop, lab, "find src -name '*.part*'; ls -d ~/.vmctl/runs/*/tree.jsonl; true"
    )
    (lab / "made.pth").unlink()
    on_vm(laptop, lab, "rm -rf src/go src/made.pth src/runs")


def test_a_killed_runner_loses_nothing_of_what_the_run_wrote(laptop: Laptop, lab: Path) -> None:
    laptop("push", cwd=lab)
    laptop("run", "--detach", "writer", cwd=lab)
    eventually(lambda: on_vm(laptop, lab, "cat src/made.pth 2>/dev/null; true") == "weights")
    run = laptop.json("ps", cwd=lab)[0]["id"]
    # the process that carries the run, and then the job, as a reboot would
    on_vm(laptop, lab, f"kill -9 $(tmux -L vmctl list-panes -s -t ={run} -F '#{{pane_pid}}')")
    tree = f"$HOME/.vmctl/runs/{run}/tree"
    on_vm(laptop, lab, f"cd {tree}/src && echo late >late && echo better >p && mv p made.pth")
    # its job goes on, so that its tree must stand
    eventually(lambda: laptop.json("ps", cwd=lab)[0]["state"] == "lost")
    laptop("fetch", "made.pth", cwd=lab)
    assert (lab / "made.pth").read_text() == "better\n"
    assert on_vm(laptop, lab, f"ls {tree}/src/writer.py")
    on_vm(laptop, lab, f"touch {tree}/src/go")
    eventually(lambda: "second" in on_vm(laptop, lab, "cat src/runs/UNet/events"))
    laptop("fetch", "made.pth", "--force", cwd=lab)
    assert on_vm(laptop, lab, "cat src/late src/made.pth") == "late\nbetter\n"
    assert on_vm(laptop, lab, f"[ -e {tree} ]", code=1) == ""
    (lab / "made.pth").unlink()
    on_vm(laptop, lab, "rm -rf src/go src/made.pth src/runs src/late")
