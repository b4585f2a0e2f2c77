"""The lines that --print-gcloud shows: whole words for a shell, and nothing of the user's."""

from __future__ import annotations

import shlex
import subprocess
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmctl.domain.gcloud import commands, instance_commands
from vmctl.domain.gcloud.steps import Place, Step
from vmctl.domain.machine.gpu import Gpu
from vmctl.domain.machine.image import Image
from vmctl.domain.machine.instance import labels_for
from vmctl.domain.machine.instance_spec import InstanceSpec
from vmctl.domain.machine.machine_type import choose_machine

PLACE = Place("ada-train", "europe-west1-b", "p-1", "ada", "~/Workspace/train")
WHERE = ("--zone=europe-west1-b", "--project=p-1")


def plan(gpu: str, **changes: object) -> InstanceSpec:
    wanted = Gpu.parse(gpu)
    made = InstanceSpec(
        name="ada-train",
        zone="europe-west1-b",
        machine=choose_machine(wanted, None),
        gpu=wanted,
        image=Image.parse("pytorch"),
        disk_gb=100,
        max_run_s=5400,
        ssh_keys="ada:ssh-ed25519 AAAA",
        labels=labels_for("ada", "train"),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def flags(steps: tuple[Step, ...]) -> tuple[str, ...]:
    return steps[0].argv


def read_by_a_shell(text: str) -> list[str]:
    """The words of a line after `gcloud`, as a real shell hands them over."""
    line = f"gcloud() {{ printf '%s\\0' \"$@\"; }}\n{text}"
    done = subprocess.run(["sh", "-c", line], capture_output=True, check=True)
    return done.stdout.decode("utf-8", "surrogateescape").split("\0")[:-1]


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))),
    st.sampled_from(["", "x" * 200]),
)
def test_a_shell_reads_the_words_that_are_meant(words: list[str], long: str) -> None:
    argv = ("gcloud", "compute", *words, "--flag", long)
    assert read_by_a_shell(Step("why", argv).text) == list(argv[1:])


def test_a_line_with_many_flags_is_broken_before_each() -> None:
    step = instance_commands.create(plan("t4:2"), {"a": "b" * 200}, {}, "p-1")[0]
    lines = step.text.splitlines()
    assert lines[1] == "gcloud compute instances create ada-train \\"
    assert all(line.startswith("    --") or line.startswith("    '--") for line in lines[2:])
    assert read_by_a_shell(step.text) == list(step.argv[1:])


def test_the_machine_is_the_one_that_up_asks_for() -> None:
    words = flags(instance_commands.create(plan("t4:2"), {}, {}, "p-1", ["europe-west1-c"]))
    for flag in (
        *WHERE,
        "--accelerator=type=nvidia-tesla-t4,count=2",
        "--machine-type=n1-standard-8",
        "--max-run-duration=5400s",
        "--instance-termination-action=STOP",
        "--maintenance-policy=TERMINATE",
        "--no-restart-on-failure",
        "--no-service-account",
        "--provisioning-model=STANDARD",
        "--tags=vmctl,ada-train",
        "--labels=vmctl=1,vmctl-owner=ada,vmctl-name=train",
    ):
        assert flag in words


def test_spot_own_networks_and_bundled_ssds_are_said() -> None:
    words = flags(instance_commands.create(plan("h100:8", spot=True, subnetwork="s"), {}, {}, ""))
    assert "--provisioning-model=SPOT" in words
    assert "--network-interface=subnet=s,nic-type=GVNIC" in words
    assert "--discard-local-ssds-at-termination-timestamp=true" in words
    assert not any(word.startswith("--project") for word in words), "gcloud's own counts"


@given(st.dictionaries(st.text("abc-", min_size=1), st.text("~|@:%,= x\"'")))
def test_metadata_is_read_by_gcloud_as_it_is_sent(metadata: dict[str, str]) -> None:
    words = flags(instance_commands.create(plan("t4"), metadata, {}, "p-1"))
    (word,) = [word for word in words if word.startswith("--metadata=")]
    _, mark, pairs = word.split("^", 2)
    assert len(mark) == 1
    read = dict(pair.split("=", 1) for pair in pairs.split(mark)) if pairs else {}
    assert read == metadata


def test_long_metadata_goes_by_files() -> None:
    metadata = {"ssh-keys": "ada:ssh-ed25519 AAAA", "startup-script": "#!/bin/sh\ntrue\n"}
    assert set(instance_commands.long_values(metadata)) == {"startup-script"}
    words = flags(
        instance_commands.create(plan("t4"), metadata, {"startup-script": "/cache/script"}, "p-1")
    )
    assert "--metadata-from-file=startup-script=/cache/script" in words
    assert not any("#!/bin/sh" in word for word in words)


def test_a_job_runs_in_tmux_in_its_folder() -> None:
    steps = commands.run(
        PLACE,
        job="train",
        line="python train.py --note 'two words'",
        directory="src",
        setup=["./download.sh"],
        passed_on=["DATA_URL"],
    )
    assert steps[-3].argv[-1] == "cd Workspace/train/src && ./download.sh"
    inside = shlex.split(steps[-2].argv[-1])
    assert inside[:7] == ["tmux", "-L", "vmctl", "new-session", "-d", "-s", "train"]
    assert inside[-1].startswith("cd Workspace/train/src && python train.py --note 'two words' ")
    assert "DATA_URL" in steps[-2].why
    assert steps[-1].argv[:2] == ("ssh", "-t")


def test_a_vm_without_an_address_is_reached_through_iap() -> None:
    (step,) = commands.login(replace(PLACE, through_iap=True), None)
    assert step.argv == (
        "gcloud",
        "compute",
        "ssh",
        "ada@ada-train",
        *WHERE,
        "--tunnel-through-iap",
    )


def test_a_limit_on_ssh_is_two_rules_for_this_vm_alone() -> None:
    look, allow, deny = instance_commands.restrict_ssh(PLACE, "default", "made by vmctl for ada")
    assert "--command=echo $SSH_CONNECTION" in look.argv
    assert allow.argv[4:5] == ("vmctl-ada-train-ssh-allow",)
    for step, flags_ in (
        (allow, ("--action=ALLOW", "--priority=900", "--source-ranges=YOUR-ADDRESS/32")),
        (deny, ("--action=DENY", "--priority=1000", "--source-ranges=0.0.0.0/0")),
    ):
        assert set(flags_) <= set(step.argv)
        assert "--target-tags=ada-train" in step.argv
    allow, _ = instance_commands.restrict_ssh(replace(PLACE, through_iap=True), "default", "x")
    assert "--source-ranges=35.235.240.0/20" in allow.argv


def test_files_jobs_and_tunnels_go_through_iap_too() -> None:
    hidden = replace(PLACE, through_iap=True, instance_id="42")
    told = [
        *commands.push(hidden, []),
        *commands.fetch(hidden, ["x"], "./"),
        *commands.run(hidden, job="j", line="l", directory="", setup=[], passed_on=[]),
        *commands.tunnel(hidden, service="s", line="l", directory="", local_port=1, remote_port=1),
    ]
    assert not any("config-ssh" in step.argv for step in told)
    for step in told:
        if step.argv[0] in ("ssh", "rsync"):
            line = " ".join(step.argv)
            assert "start-iap-tunnel ada-train 22 --listen-on-stdin" in line
            assert "HostKeyAlias=compute.42" in line
            assert "ada@ada-train" in line


@pytest.mark.parametrize("ssd", [False, True])
def test_stopping_says_that_local_ssds_go(ssd: bool) -> None:
    (step,) = instance_commands.stop(PLACE, has_local_ssd=ssd)
    assert step.argv.count("--discard-local-ssd=true") == ssd


def test_a_tunnel_of_a_bare_port_starts_nothing() -> None:
    steps = commands.tunnel(
        PLACE, service="80", line="", directory="", local_port=8000, remote_port=80
    )
    assert not any("tmux" in word for step in steps for word in step.argv)
    assert "127.0.0.1:8000:127.0.0.1:80" in steps[-1].argv


def test_what_is_fetched_is_compared() -> None:
    steps = commands.fetch(PLACE, ["src/model.pt"], "out/")
    assert steps[-3].argv[-2:] == (
        "ada@ada-train.europe-west1-b.p-1:Workspace/train/src/model.pt", "out/"
    )  # fmt: skip
    assert steps[-1].argv == ("sha256sum", "out/model.pt")
