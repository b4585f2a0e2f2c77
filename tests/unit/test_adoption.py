"""What adoption changes on a VM that somebody else made, and what it only tells."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from vmctl.domain.errors import Conflict
from vmctl.domain.machine.adoption import Adoption, Candidate, adoption_of, refuse_unfit
from vmctl.domain.machine.instance import Instance, Status, labels_for

OURS = labels_for("me", "lab")
BARE = Instance(
    name="console-vm",
    id="7",
    zone="europe-west1-b",
    status=Status.RUNNING,
    machine_type="n1-standard-4",
    labels={"team": "vision"},
    metadata={"ssh-keys": "bob:ssh-ed25519 AAAA bob@x\n"},
    boot_disk="console-vm",
)
WHOLE = replace(
    BARE,
    labels=OURS,
    tags=("vmctl",),
    metadata={
        "enable-guest-attributes": "TRUE",
        "block-project-ssh-keys": "TRUE",
        "startup-script": "#!/bin/sh",
    },
    max_run_s=43200,
)


def decided(instance: Instance, has_key: bool = False, **more: Any) -> Adoption:
    return adoption_of(
        Candidate(instance, **more),
        owner="me", name="lab", user="me", has_key=has_key, max_run_s=43200, idle="1h",
    )  # fmt: skip


def test_a_bare_vm_gets_all_that_it_lacks_and_keeps_what_it_has() -> None:
    plan = decided(BARE)
    assert plan.labels == OURS
    assert plan.disk_labels == OURS
    assert plan.tags == ("vmctl",)
    assert plan.metadata == {"enable-guest-attributes": "TRUE"}
    assert plan.key
    assert plan.max_run_s is None, "Google takes no limit for a VM that runs"
    told = "\n".join(map(str, plan.changes))
    assert "1 of others, which are kept" in told
    assert "idle for 1h" in told
    assert any("no run limit" in fact for fact in plan.stays)
    assert any("block-project-ssh-keys" in fact for fact in plan.stays)


def test_a_stopped_vm_gets_the_run_limit() -> None:
    plan = decided(replace(BARE, status=Status.TERMINATED, max_run_s=3600))
    assert plan.max_run_s == 43200
    assert any(change.what == "run limit" and change.before == "1 h" for change in plan.changes)
    assert not any("no run limit" in fact for fact in plan.stays)


def test_a_vm_that_is_ours_already_is_left_alone() -> None:
    plan = decided(WHOLE, has_key=True, disk_labels={**OURS, "more": "x"})
    assert plan.changes == ()
    assert plan.stays == ()


def test_a_disk_that_would_stay_goes_along() -> None:
    plan = decided(WHOLE, has_key=True, disk_labels=OURS, disk_goes_along=False)
    assert plan.take_disk_along
    assert "down --delete" in str(plan.changes[0])


def test_tags_of_others_stay() -> None:
    assert decided(replace(BARE, tags=("http", "https"))).tags == ("http", "https", "vmctl")


@pytest.mark.parametrize(
    ("own", "shared", "changed"),
    [
        ({}, {}, False),
        ({"enable-oslogin": "TRUE"}, {}, True),
        ({}, {"enable-oslogin": "true"}, True),
        ({"enable-oslogin": "FALSE"}, {"enable-oslogin": "TRUE"}, False),
    ],
)
def test_os_login_is_turned_off_where_it_counts(
    own: dict[str, str], shared: dict[str, str], changed: bool
) -> None:
    plan = decided(replace(BARE, metadata=own), project_metadata=shared)
    assert ("enable-oslogin" in plan.metadata) == changed


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"service_account": "x@developer"}, "--no-service-account"),
        ({"left_behind": ("data", "more")}, "disks delete data more"),
        ({"protected": True}, "--no-deletion-protection"),
        ({"deleted_at_limit": True}, "deletes it"),
        ({"restarts": True}, "starts it again"),
    ],
)
def test_what_stays_is_named_with_the_line_that_would_change_it(
    more: dict[str, Any], named: str
) -> None:
    facts = decided(WHOLE, has_key=True, disk_labels=OURS, **more).stays
    assert [named in fact for fact in facts] == [True]


@pytest.mark.parametrize(
    ("instance", "mine", "named"),
    [
        (replace(BARE, labels={"vmctl-owner": "eve"}), None, "belongs to 'eve'"),
        (replace(BARE, labels={"vmctl-name": "old"}), None, "already the VM"),
        (BARE, replace(WHOLE, id="8", name="me-lab"), "already has a VM: me-lab"),
        (replace(BARE, status=Status.STOPPING), None, "STOPPING"),
        (replace(BARE, status=Status.SUSPENDED), None, "SUSPENDED"),
    ],
)
def test_a_vm_that_is_not_to_be_had(instance: Instance, mine: Instance | None, named: str) -> None:
    with pytest.raises(Conflict, match=named) as refusal:
        refuse_unfit(Candidate(instance), "me", "lab", mine)
    assert refusal.value.hint


def test_a_vm_may_be_adopted_twice() -> None:
    refuse_unfit(Candidate(WHOLE), "me", "lab", WHOLE)
