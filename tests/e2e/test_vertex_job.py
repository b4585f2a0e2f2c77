"""Jobs on Vertex AI, in the embedded one: submitted, followed, listed, fetched, cancelled."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.buckets import upload
from tests.harness.emulator import Emulator
from tests.harness.eventually import eventually
from tests.harness.folders import public_folder, remove
from tests.harness.laptop import Laptop, project

TOML = """name = "small"
[targets.vertex]
kind = "vertex"
region = "europe-west4"
bucket = "gs://course"
labels = { course = "dl" }
[jobs.small]
directory = "sub"
setup = ["echo prepared > made"]
command = "cat made && python train.py"
env = ["WORD"]
outputs = ["unet.pth", "runs"]
[jobs.hello]
script = "hello.py"
[jobs.waits]
command = "echo waits && exec sleep 600"
"""
TRAIN = """
import os, pathlib, sys
print("training", sys.argv[1:], os.environ["WORD"])
pathlib.Path("unet.pth").write_bytes(b"weights" * 50_000)
pathlib.Path("runs").mkdir()
pathlib.Path("runs/curve").write_text("1 2 3")
"""
# as the courses' code begins: all that it prints goes to the launcher's file
HELLO = """
import os, sys
if "LOG_PATH" in os.environ:
    os.makedirs(os.path.dirname(os.environ["LOG_PATH"]), exist_ok=True)
    sys.stdout = sys.stderr = open(os.environ["LOG_PATH"], "a")
print("hello", *sys.argv[1:])
sys.exit(9)
"""
JOBS = "/v1/projects/p1/locations/europe-west4/customJobs"


@pytest.fixture(scope="module")
def cloud() -> Iterator[tuple[Emulator, Laptop]]:
    """An emulator with machines and a bucket, and a laptop that works on it."""
    emulator = Emulator(public_folder("vertex"), "real").start()
    emulator.ask("POST", "/storage/v1/b?project=p1", {"name": "course", "location": "europe-west4"})
    home = public_folder("vertex-laptop")
    yield emulator, Laptop(home, emulator.home)
    emulator.remove()
    remove(home)


@pytest.fixture
def course(folder: Path) -> Path:
    return project(folder, TOML, {"sub/train.py": TRAIN, "hello.py": HELLO})


ENVIRON = {"WORD": "night", "VMCTL_PROJECT": "p1", "VMCTL_ON": "vertex"}


def test_a_job_is_submitted_followed_listed_and_fetched(
    cloud: tuple[Emulator, Laptop], course: Path
) -> None:
    _, laptop = cloud
    ran = laptop("run", "small", "--epochs", "2", cwd=course, environ=ENVIRON)
    assert "prepared\ntraining ['--epochs', '2'] night\n" in ran.stdout
    assert "console.cloud.google.com" not in ran.stderr, "the embedded one has none"
    (run,) = laptop.json("ps", cwd=course, environ=ENVIRON)
    assert (run["job"], run["state"], run["exit_code"]) == ("small", "succeeded", 0)
    again = laptop("logs", run["id"], cwd=course, environ=ENVIRON)
    assert "training ['--epochs', '2'] night\n" in again.stdout
    fetched = laptop.json("fetch", "unet.pth", cwd=course, environ=ENVIRON)
    assert (course / "unet.pth").read_bytes() == b"weights" * 50_000
    assert fetched["files"][0]["bytes"] == 350_000
    laptop("fetch", "--parents", "--to", "here", cwd=course, environ=ENVIRON)
    assert (course / "here/runs/curve").read_text() == "1 2 3"
    missing = laptop("fetch", "vgg.pth", cwd=course, environ=ENVIRON, code=3).stderr
    assert "has left no 'vgg.pth'" in missing and "unet.pth" in missing


def test_a_fetch_resumes_and_keeps_nothing_that_is_wrong(
    cloud: tuple[Emulator, Laptop], course: Path
) -> None:
    emulator, laptop = cloud
    laptop("run", "small", cwd=course, environ=ENVIRON)
    run = laptop.json("ps", cwd=course, environ=ENVIRON)[0]
    listed = emulator.ask("GET", "/storage/v1/b/course/o")["items"]
    (found,) = [item for item in listed if item["name"].endswith(f"{run['id']}/outputs/unet.pth")]
    part = course / ".unet.pth.vmctl-part"
    part.write_bytes(b"weights" * 1000)
    fetched = laptop.json("fetch", "unet.pth", cwd=course, environ=ENVIRON)
    assert fetched["files"][0]["resumed_at"] == 7000
    assert (course / "unet.pth").read_bytes() == b"weights" * 50_000
    part.write_bytes(b"damaged" * 1000)
    fetched = laptop.json("fetch", "unet.pth", cwd=course, environ=ENVIRON)
    assert fetched["files"][0]["resumed_at"] == 0, "what was of something else is brought anew"
    assert (course / "unet.pth").read_bytes() == b"weights" * 50_000
    # a cloned folder's links are not followed, and what git obeys is not saved
    outside = course.parent / "outside"
    outside.mkdir()
    (course / "runs").symlink_to(outside)
    refused = laptop("fetch", "--parents", cwd=course, environ=ENVIRON, code=4).stderr
    assert "runs is not a folder here" in refused
    assert not any(outside.iterdir())
    hook = found["name"].replace("unet.pth", "sub/.git/hooks/post-checkout")
    upload(emulator, "course", hook, b"#!/bin/sh")
    refused = laptop("fetch", "--parents", "--to", "x", cwd=course, environ=ENVIRON, code=2).stderr
    assert "git would obey it" in refused


def test_a_script_finds_its_log_and_its_code_is_the_commands(
    cloud: tuple[Emulator, Laptop], course: Path
) -> None:
    _, laptop = cloud
    ran = laptop("run", "hello", "world", cwd=course, environ=ENVIRON, code=9)
    assert "hello world\n" in ran.stdout
    assert "failed with exit code 9" in ran.stderr


def test_the_same_run_is_followed_and_a_cancelled_one_ends(
    cloud: tuple[Emulator, Laptop], course: Path
) -> None:
    emulator, laptop = cloud
    words = ("run", "--json", "--detach", "waits")
    first = json.loads(laptop(*words, cwd=course, environ=ENVIRON).stdout)
    again = json.loads(laptop(*words, cwd=course, environ=ENVIRON).stdout)
    assert again["run_id"] == first["run_id"]

    def has_begun() -> bool:
        return "waits\n" in laptop("logs", cwd=course, environ=ENVIRON).stdout

    eventually(has_begun)
    laptop("cancel", "waits", cwd=course, environ=ENVIRON)
    run = laptop.json("ps", cwd=course, environ=ENVIRON)[0]
    assert (run["id"], run["state"]) == (first["run_id"], "cancelled")
    jobs = emulator.ask("GET", JOBS)["customJobs"]
    (job,) = [job for job in jobs if job["displayName"] == first["run_id"]]
    assert job["labels"]["course"] == "dl"
    spec = json.loads(job["jobSpec"]["workerPoolSpecs"][0]["containerSpec"]["args"][0])
    assert spec["archive"].startswith("/gcs/course/vmctl/")
