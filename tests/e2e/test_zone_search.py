"""Where `up` goes after each refusal, and what it says in the end: a test per kind of answer."""

from __future__ import annotations

import signal

import pytest

from tests.harness.attempts import (
    ZONE_B,
    ZONE_C,
    ZONE_D,
    attempts_of,
    attempts_until,
    output_until,
    run_failing,
)
from tests.harness.cloud import LocalCloud
from tests.harness.eventually import eventually


def test_a_stockout_goes_to_the_zone_that_google_names_and_says_so(cloud: LocalCloud) -> None:
    cloud.fault(kind="stockout", zone=ZONE_B, zonesAvailable=[ZONE_D])
    told = output_until(cloud, last=ZONE_D)
    assert f"{ZONE_B}: A n1-standard-4 VM instance with 1 nvidia-tesla-t4" in told
    assert "currently unavailable in the europe-west1-b zone" in told
    assert f"in {ZONE_D}, which Google names (attempt 2)" in told
    assert f"{ZONE_D}: As far as here." in told


def test_a_hint_outside_of_what_is_allowed_is_shown_and_not_followed(cloud: LocalCloud) -> None:
    cloud.fault(kind="stockout", zone="europe-west1-*", zonesAvailable=["europe-west4-a"])
    document = run_failing(cloud, code=6)
    assert attempts_of(document) == [(zone, "stockout") for zone in (ZONE_B, ZONE_C, ZONE_D)]
    assert "vmctl up --zone europe-west4-a" in document["hint"]


def test_a_hint_in_another_region_is_followed_where_that_is_allowed(cloud: LocalCloud) -> None:
    hinted = "europe-west4-b"
    cloud.fault(kind="stockout", zone=ZONE_B, zonesAvailable=[hinted])
    seen = attempts_until(cloud, "--any-region", last=hinted)
    assert seen == [(ZONE_B, "stockout"), (hinted, "permanent")]


def test_other_regions_come_by_price(cloud: LocalCloud) -> None:
    cloud.fault(kind="stockout", zone="europe-west1-*", plain=True)
    cheapest = "us-central1-a"  # of the others
    seen = attempts_until(cloud, "--any-region", last=cheapest)
    assert seen == [
        *((zone, "stockout") for zone in (ZONE_B, ZONE_C, ZONE_D)),
        (cheapest, "permanent"),
    ]


def test_a_region_without_the_gpu_is_left_for_the_cheapest(cloud: LocalCloud) -> None:
    ((zone, _),) = attempts_until(cloud, "--gpu", "v100", "--any-region", last="*")
    assert zone.startswith(("us-central1-", "europe-west4-"))


def test_a_failed_up_ends_in_a_table(cloud: LocalCloud) -> None:
    cloud.fault(kind="stockout", gpu="nvidia-tesla-t4", plain=True)
    told = cloud("up", code=6).stderr
    table = told[told.index("\nZONE ") :]
    assert table.splitlines()[1].split() == ["ZONE", "GOOGLE'S", "ANSWER", "WHAT", "TO", "DO"]
    assert [line.split()[0] for line in table.splitlines() if line.startswith("europe")] == [
        ZONE_B,
        ZONE_C,
        ZONE_D,
    ]
    assert "--any-region" in table
    assert table.index(ZONE_D) < table.index("error:")
    last = told[told.index("error:") :]
    assert all(zone in last for zone in (ZONE_B, ZONE_C, ZONE_D))
    assert "--any-region" in last
    assert cloud.machines() == []


def test_a_chosen_zone_without_capacity_is_the_end(cloud: LocalCloud) -> None:
    cloud.fault(kind="stockout", zone=ZONE_C, plain=True)
    assert "vmctl up --region europe-west1" in cloud("up", "--zone", ZONE_C, code=6).stderr
    assert cloud.machines() == []


@pytest.mark.parametrize(
    ("words", "limit"),
    [
        ([], {"metric": "NVIDIA_T4_GPUS", "region": "europe-west1"}),
        (["--any-region"], {"metric": "GPUS_ALL_REGIONS"}),
    ],
)
def test_a_quota_that_holds_in_every_zone_stops_at_once(
    cloud: LocalCloud, words: list[str], limit: dict[str, str]
) -> None:
    said = f"Quota '{limit['metric']}' exceeded.  Limit: 0.0 "
    said += f"in region {limit['region']}." if "region" in limit else "globally."
    cloud.fault(kind="operation", code="QUOTA_EXCEEDED", message=said, httpStatus=403)
    document = run_failing(cloud, *words, code=6)
    assert attempts_of(document) == [(ZONE_B, "quota")]
    assert limit["metric"] in document["message"]
    assert "iam-admin/quotas?project=vmctl-local" in document["hint"]


def test_a_quota_of_the_region_leads_to_the_next_region(cloud: LocalCloud) -> None:
    said = "Quota 'NVIDIA_T4_GPUS' exceeded.  Limit: 0.0 in region europe-west1."
    cloud.fault(kind="operation", code="QUOTA_EXCEEDED", message=said, zone="europe-west1-*")
    seen = attempts_until(cloud, "--any-region", last="us-central1-a")
    assert seen == [(ZONE_B, "quota"), ("us-central1-a", "permanent")]


BILLING = "This API method requires billing to be enabled. Please enable billing on project #p"
API_OFF = "Compute Engine API has not been used in project 7 before or it is disabled."


@pytest.mark.parametrize(
    ("status", "reason", "message", "code"),
    [
        (400, "invalid", "Invalid value for field 'resource.machineType': 'x'.", 2),
        (403, "forbidden", "Required 'compute.instances.create' permission for 'projects/p'", 5),
    ],
)
def test_what_is_the_same_everywhere_stops_at_once(
    cloud: LocalCloud, status: int, reason: str, message: str, code: int
) -> None:
    """Which refusals these are: tests/unit/test_api_errors.py."""
    cloud.fault(
        kind="http",
        method="compute.instances.insert",
        status=status,
        reason=reason,
        message=message,
    )
    document = run_failing(cloud, "--any-region", "--wait", "1h", code=code)
    assert attempts_of(document) == [(ZONE_B, "permanent")]
    assert message.partition("'")[0].strip() in document["attempts"][0]["message"]
    assert document["attempts"][0]["advice"]


@pytest.mark.parametrize(
    ("code", "status", "message", "hint", "exit_code"),
    [
        (
            "CONDITION_NOT_MET",
            412,
            "Constraint constraints/compute.requireOsLogin violated for project 1.",
            "requireOsLogin",
            5,
        ),
        (
            "RESOURCE_NOT_FOUND",
            404,
            "The resource 'projects/p/global/networks/train' was not found",
            "[vm] network",
            3,
        ),
    ],
)
def test_an_operation_that_fails_for_good_is_no_stockout(
    cloud: LocalCloud, code: str, status: int, message: str, hint: str, exit_code: int
) -> None:
    """The refusal comes later than at once, and means the same."""
    cloud.fault(kind="operation", code=code, httpStatus=status, message=message)
    document = run_failing(cloud, "--any-region", code=exit_code)
    assert attempts_of(document) == [(ZONE_B, "permanent")]
    assert hint in document["hint"]


@pytest.mark.parametrize(
    ("reason", "message", "hint"),
    [
        ("SERVICE_DISABLED", API_OFF, "https://console.developers.google.com/apis/api/"),
        ("BILLING_DISABLED", BILLING, "https://console.cloud.google.com/billing/enable?project="),
    ],
)
def test_the_newer_form_of_what_is_switched_off_names_the_page(
    cloud: LocalCloud, reason: str, message: str, hint: str
) -> None:
    page = "https://console.developers.google.com/apis/api/compute.googleapis.com/overview"
    info = {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": reason,
        "domain": "googleapis.com",
        "metadata": {"service": "compute.googleapis.com", "consumer": "projects/7"}
        | ({"activationUrl": f"{page}?project=7"} if reason == "SERVICE_DISABLED" else {}),
    }
    cloud.fault(
        kind="http",
        method="compute.instances.insert",
        status=403,
        reason="forbidden",
        message=message,
        rpcStatus="PERMISSION_DENIED",
        details=[info],
    )
    document = run_failing(cloud, code=5)
    assert attempts_of(document) == [(ZONE_B, "permanent")]
    assert hint in document["hint"]
    assert hint in document["attempts"][0]["advice"]


def test_what_passes_is_sat_out_in_the_same_zone_and_makes_one_machine(cloud: LocalCloud) -> None:
    """Which refusals pass: tests/unit/test_api_errors.py."""
    insert = {"method": "compute.instances.insert", "calls": 1}
    cloud.fault(kind="http", status=503, **insert)
    cloud.fault(kind="http", status=403, reason="rateLimitExceeded", **insert)
    cloud.fault(kind="http", method="compute.instances.get", status=429, calls=1)
    cloud.fault(kind="operation", code="RESOURCE_OPERATION_RATE_EXCEEDED", calls=1)
    cloud.fault(kind="drop", when="after", **insert)  # the answer is lost, the VM is not
    told = cloud("up").stderr
    assert f") in {ZONE_C}" not in told
    assert [(vm["zone"], vm["status"]) for vm in cloud.machines()] == [(ZONE_B, "RUNNING")]
    assert cloud.ask("GET", "/emulator/v1/faults")["faults"] == [], "each has acted"


def test_a_riddle_is_tried_in_one_more_zone_and_shown_as_it_is(cloud: LocalCloud) -> None:
    cloud.fault(kind="operation", code="NEVER_SEEN", message="Flux capacitor. Try 1.21 GW.")
    document = run_failing(cloud, "--any-region", "--wait", "1h", code=2)
    assert attempts_of(document) == [(ZONE_B, "unknown"), (ZONE_C, "unknown")]
    assert document["attempts"][1]["message"] == "NEVER_SEEN: Flux capacitor. Try 1.21 GW."


def test_waiting_has_an_end(cloud: LocalCloud) -> None:
    cloud.fault(kind="stockout", plain=True)
    document = run_failing(cloud, "--zone", ZONE_C, "--wait", "1s", code=6)
    assert [(row["zone"], row["tries"]) for row in document["attempts"]] == [(ZONE_C, 2)]


def test_ctrl_c_while_waiting_leaves_nothing(cloud: LocalCloud) -> None:
    cloud.fault(kind="stockout", plain=True)
    faults = "/emulator/v1/faults"
    waiting = cloud.laptop.start("up", "--zone", ZONE_C, "--wait", "1h", cwd=cloud.folder)
    eventually(lambda: cloud.ask("GET", faults)["faults"][0]["acted"] == 1, what="one attempt")
    eventually(lambda: cloud.machines() == [], what="that attempt is over")
    waiting.send_signal(signal.SIGINT)
    told = waiting.communicate(timeout=20)[1].decode()
    assert waiting.returncode == 130, told
    assert cloud.machines() == []


def test_a_machine_that_is_up_is_compared_in_full_and_off_waits_for_its_own_zone(
    cloud: LocalCloud,
) -> None:
    cloud("up")
    told = cloud(
        "up", "--gpu", "none", "--zone", ZONE_D, "--machine", "n1-standard-8", "--spot"
    ).stderr
    assert (
        f"has T4, n1-standard-4, {ZONE_B}, on demand; you asked for no GPU, n1-standard-8, "
        f"{ZONE_D}, Spot"
    ) in told
    assert "vmctl down --delete" in told
    assert cloud.laptop.json("status", cwd=cloud.folder)["machine"]["usd_per_hour"] == 0.55901

    cloud("down")
    cloud.fault(kind="stockout")
    told = cloud("up", code=6).stderr
    assert "no capacity to start" in told
    assert "vmctl down --delete" in told
    cloud.no_faults()

    cloud.fault(kind="quota", metric="NVIDIA_T4_GPUS", region="europe-west1", limit=0)
    assert "short by 1" in cloud("up", code=6).stderr, "it needs its quota again"
    assert [vm["status"] for vm in cloud.machines()] == ["TERMINATED"]
    cloud.no_faults()

    cloud.fault(kind="stockout", zone=ZONE_B, plain=True, calls=1)
    told = cloud("up", "--wait", "1m", "--max-hours", "3").stderr
    assert "Trying again at" in told
    assert [vm["status"] for vm in cloud.machines()] == ["RUNNING"]
    assert cloud.laptop.json("status", cwd=cloud.folder)["machine"]["max_hours"] == 3


def test_a_wait_that_is_no_time_says_how_to_write_one(one_cloud: LocalCloud) -> None:
    assert "--wait 30m" in one_cloud("up", "--wait", "long", code=2).stderr


# -- the choice before the question -----------------------------------------------------------


def test_the_choice_is_shown_with_both_prices_and_the_order_of_zones(cloud: LocalCloud) -> None:
    cloud.fault(kind="http", method="compute.instances.insert", status=403, reason="forbidden")
    lines = cloud("up", "--any-region", code=5).stderr.splitlines()
    (heading,) = (line for line in lines if "HOST" in line and "ON DEMAND *" in line)
    rows = lines[lines.index(heading) + 1 :]
    assert rows[0].split()[:7] == ["✔", "T4", "n1-standard-4", "4", "15", "GB", "$0.559"]
    assert rows[0].endswith("$10.00      europe-west1-b, europe-west1-c, europe-west1-d")
    assert rows[1].split()[:2] == ["T4", "n1-standard-4"]
    assert "us-central1-a, us-central1-b, us-central1-c, us-central1-f" in rows[1]
