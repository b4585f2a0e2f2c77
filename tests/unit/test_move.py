"""What a move is told by: labels, and the request for a VM whose disk comes from a snapshot."""

from __future__ import annotations

from dataclasses import replace

from vmctl.cloud.compute.requests import insert_body, labels_body
from vmctl.domain.machine.image import Image
from vmctl.domain.machine.instance import (
    MOVED_FROM_LABEL,
    MOVING_LABEL,
    Instance,
    Status,
    labels_for,
    without_left,
)
from vmctl.domain.machine.instance_spec import InstanceSpec, own_metadata
from vmctl.domain.machine.machine_type import MachineType
from vmctl.domain.machine.watchdog import SETTINGS_ITEM, STARTUP_ITEM, WATCHDOG_MARKER

PLAN = InstanceSpec(
    name="vm",
    zone="europe-west1-c",
    machine=MachineType("n1-standard-4"),
    gpu=None,
    image=Image.parse("pytorch"),
    disk_gb=100,
    max_run_s=43200,
    ssh_keys="",
    labels=labels_for("ada", "unet"),
)
OLD = Instance(
    "vm",
    "7",
    "europe-west1-b",
    Status.TERMINATED,
    "n1-standard-4",
    labels={"vmctl": "1"},
    label_fingerprint="f1",
)
LEFT = replace(OLD, labels={MOVING_LABEL: "1"})
NEW = replace(OLD, id="8", zone="europe-west1-c", labels={MOVED_FROM_LABEL: "7"})


def test_the_new_vm_stands_for_both_while_a_move_is_unfinished() -> None:
    assert without_left([LEFT, NEW]) == [NEW]
    assert without_left([NEW, LEFT]) == [NEW]


def test_of_a_second_move_before_the_first_was_settled_the_last_one_stands() -> None:
    second = replace(NEW, labels={MOVED_FROM_LABEL: "7", MOVING_LABEL: "1"})
    third = replace(NEW, id="9", labels={MOVED_FROM_LABEL: "8"})
    assert without_left([LEFT, second, third]) == [third]


def test_a_vm_that_is_being_moved_stands_for_itself_until_there_is_another() -> None:
    assert without_left([LEFT]) == [LEFT]


def test_a_vm_that_nobody_is_leaving_is_never_hidden() -> None:
    assert without_left([OLD, NEW]) == [OLD, NEW]
    stranger = replace(LEFT, id="6")
    assert without_left([stranger, NEW]) == [stranger, NEW]


def test_labels_are_sent_whole_with_their_fingerprint() -> None:
    body = labels_body(OLD, {MOVING_LABEL: "1"})
    assert body == {"labelFingerprint": "f1", "labels": {"vmctl": "1", MOVING_LABEL: "1"}}
    assert labels_body(LEFT, {MOVING_LABEL: None})["labels"] == {}


def test_a_moved_vm_takes_its_disk_from_the_snapshot_and_says_whence_it_came() -> None:
    body = insert_body(replace(PLAN, snapshot="vmctl-move-7", moved_from="7"))
    start = body["disks"][0]["initializeParams"]
    assert start["sourceSnapshot"] == "global/snapshots/vmctl-move-7"
    assert "sourceImage" not in start
    assert body["labels"] == {**PLAN.labels, MOVED_FROM_LABEL: "7"}
    # the disk outlives the move: it must not look like a part of one for ever
    assert start["labels"] == PLAN.labels


def test_only_what_is_a_users_own_goes_along() -> None:
    ours = {
        "ssh-keys": "ann:ssh-ed25519 AAAA",
        "enable-oslogin": "FALSE",
        "enable-guest-attributes": "TRUE",
        SETTINGS_ITEM: "{}",
        "vmctl-ssh-port": "2222",
        STARTUP_ITEM: f"#!/bin/sh\n{WATCHDOG_MARKER}, which …",
    }
    assert own_metadata(ours) == {}
    own = {"team": "vision", STARTUP_ITEM: "#!/bin/sh\nmake all", "install-nvidia-driver": "False"}
    assert own_metadata({**ours, **own}) == own
