"""`vmctl doctor` on each set-up that can be broken: it names the check, the fix and the code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.harness.cloud import LocalCloud
from tests.harness.credentials import logged_out
from tests.harness.laptop import BASE, Laptop, project

CHECKS = [
    "settings", "credentials", "project", "api", "billing", "machine", "quota", "network",
    "firewall", "image", "programs",
]  # fmt: skip
INSIDE = CHECKS[5:10]  # what can be looked at only where Compute Engine answers


def found(document: dict[str, Any], status: str) -> list[str]:
    """The checks that ended like this."""
    return [one["check"] for one in document["findings"] if one["status"] == status]


def the(document: dict[str, Any], check: str, status: str = "broken") -> dict[str, Any]:
    (one,) = (
        one for one in document["findings"] if one["check"] == check and one["status"] == status
    )
    return dict(one)


def examine(cloud: LocalCloud, *words: str, code: int, cwd: Path | None = None) -> dict[str, Any]:
    told = cloud.laptop(*words, "doctor", "--json", cwd=cwd or cloud.folder, code=code)
    document: dict[str, Any] = json.loads(told.stdout)
    seen = list(dict.fromkeys(one["check"] for one in document["findings"]))
    assert seen == CHECKS, "every check, in its order"
    assert document["ready"] == (code == 0)
    for one in document["findings"]:
        if one["status"] in ("broken", "warning"):
            assert one["fix"], one
    return document


# -- the embedded Compute Engine, as it is and with faults ------------------------------------


def test_nothing_stands_in_the_way(cloud: LocalCloud) -> None:
    document = examine(cloud, code=0)
    assert found(document, "ok") == CHECKS
    assert document["google_project"] == "vmctl-local"
    assert cloud.machines() == [], "it only looks"


def test_people_read_lines_with_marks(cloud: LocalCloud) -> None:
    cloud.fault(kind="quota", metric="NVIDIA_T4_GPUS", region="europe-west1", limit=0)
    lines = cloud("doctor", code=6).stdout.splitlines()
    assert [line.split()[:2] for line in lines if line[:1] in "✓✗"] == [
        ["✗" if check == "quota" else "✓", check] for check in CHECKS
    ]
    assert "Fix quota first" in lines[-1]
    assert "iam-admin/quotas" in "\n".join(lines)


@pytest.mark.parametrize("metric", ["GPUS_ALL_REGIONS", "IN_USE_ADDRESSES"])
def test_a_quota_of_zero(cloud: LocalCloud, metric: str) -> None:
    where = {} if metric.endswith("ALL_REGIONS") else {"region": "europe-west1"}
    cloud.fault(kind="quota", metric=metric, limit=0, **where)
    quota = the(examine(cloud, code=6), "quota")
    assert f"{metric} " in quota["message"]
    assert f"choose: {metric}" in quota["fix"]


def test_spot_without_its_own_quota_is_a_warning(cloud: LocalCloud, tmp_path: Path) -> None:
    spot = project(tmp_path / "spot", BASE + "spot = true\n")
    here = {"region": "europe-west1", "limit": 0}
    cloud.fault(kind="quota", metric="PREEMPTIBLE_NVIDIA_T4_GPUS", **here)
    cloud.fault(kind="quota", metric="NVIDIA_T4_GPUS", **here)
    assert "Spot" in the(examine(cloud, code=0, cwd=spot), "quota", "warning")["message"]


def test_a_quota_that_google_keeps_elsewhere_is_a_warning(
    cloud: LocalCloud, tmp_path: Path
) -> None:
    newest = project(tmp_path / "newest", '[vm]\ngpu = "h100:8"\n')
    assert "GPU family" in the(examine(cloud, code=0, cwd=newest), "quota", "warning")["fix"]


def test_the_network_is_gone(cloud: LocalCloud) -> None:
    cloud.fault(kind="http", method="compute.networks.get", status=404, reason="notFound")
    document = examine(cloud, code=2)
    assert "networks create default" in the(document, "network")["fix"]
    assert found(document, "not checked") == ["firewall"]
    assert "image" in found(document, "ok")


def test_a_network_of_the_settings_that_is_not_there(cloud: LocalCloud, tmp_path: Path) -> None:
    other = project(tmp_path / "other", BASE + 'network = "lab"\n')
    network = the(examine(cloud, code=2, cwd=other), "network")
    assert "lab" in network["message"]
    assert "vmctl.toml" in network["fix"]


def test_a_subnetwork_brings_its_network(cloud: LocalCloud, tmp_path: Path) -> None:
    inner = project(tmp_path / "inner", BASE + 'subnetwork = "default"\n')
    assert found(examine(cloud, code=0, cwd=inner), "ok") == CHECKS
    other = project(tmp_path / "other", BASE + 'subnetwork = "lab"\n')
    assert "lab in europe-west1" in the(examine(cloud, code=2, cwd=other), "network")["message"]


def test_the_firewall_keeps_ssh_out(cloud: LocalCloud) -> None:
    rules = "/compute/v1/projects/vmctl-local/global/firewalls"
    examine(cloud, code=0)  # gives the project its default rules
    cloud.ask("DELETE", f"{rules}/default-allow-ssh")
    try:
        firewall = the(examine(cloud, code=7), "firewall")
        assert "tcp:22" in firewall["message"]
        assert "firewall-rules create" in firewall["fix"]
        ranges = {"sourceRanges": ["35.235.240.0/20"]}
        ssh = {"allowed": [{"IPProtocol": "tcp", "ports": ["22"]}]}
        cloud.ask("POST", rules, {"name": "iap", **ssh, **ranges})
        assert "IAP" in the(examine(cloud, code=0), "firewall", "warning")["message"]
        cloud.ask("DELETE", f"{rules}/iap")
    finally:
        cloud.ask("POST", rules, {"name": "default-allow-ssh", "priority": 65534, **ssh})
    deny = {"name": "no-ssh", "denied": [{"IPProtocol": "tcp"}]}
    cloud.ask("POST", rules, deny)
    try:
        assert "no-ssh" in the(examine(cloud, code=7), "firewall")["message"]
    finally:
        cloud.ask("DELETE", f"{rules}/no-ssh")


@pytest.mark.parametrize(
    ("toml", "check", "code", "named"),
    [
        ('[vm]\nimage = "debian-cloud/debian-99"\n', "image", 3, "debian-99"),
        ('[vm]\nmachine = "e2-standard-4"\n', "settings", 2, "N1 machine type"),
        ('[vm]\nimage = "pytroch"\n', "settings", 2, "pytorch"),
        ('[vm]\ngpu = "none"\nmachine = "n9-standard-4"\nbudget = 5\n', "settings", 2, "price"),
        ('[vm]\ngpu = "v100"\n', "machine", 2, "europe-west4"),
        ('[vm]\ngpu = "none"\nmachine = "n9-standard-4"\n', "machine", 2, "vmctl gpus"),
    ],
)
def test_settings_that_google_cannot_meet(
    cloud: LocalCloud, tmp_path: Path, toml: str, check: str, code: int, named: str
) -> None:
    document = examine(cloud, code=code, cwd=project(tmp_path / "wish", toml))
    one = the(document, check)
    assert named in one["message"] + one["fix"]


def test_an_image_older_than_the_gpus_needs_is_a_warning(cloud: LocalCloud, tmp_path: Path) -> None:
    old = project(tmp_path / "old", '[vm]\ngpu = "p100"\n')
    assert "P100" in the(examine(cloud, code=0, cwd=old), "image", "warning")["message"]


def test_settings_that_are_wrong_stop_only_what_needs_them(
    cloud: LocalCloud, tmp_path: Path
) -> None:
    wrong = project(tmp_path / "wrong", '[vm]\ngpuu = "t4"\n')
    document = examine(cloud, code=2, cwd=wrong)
    assert "vm.gpuu" in the(document, "settings")["message"]
    assert found(document, "not checked") == INSIDE
    assert {"credentials", "api", "billing", "programs"} <= set(found(document, "ok"))


def test_a_name_that_somebody_else_has_taken(cloud: LocalCloud, tmp_path: Path) -> None:
    body = {
        "name": "tester-taken",
        "machineType": "zones/europe-west1-b/machineTypes/e2-small",
        "disks": [
            {
                "boot": True,
                "autoDelete": True,
                "initializeParams": {
                    "sourceImage": "projects/debian-cloud/global/images/family/debian-12"
                },
            }
        ],
        "networkInterfaces": [{"network": "global/networks/default"}],
    }
    instances = "/compute/v1/projects/vmctl-local/zones/europe-west1-b/instances"
    cloud.fault(kind="slow-boot", seconds=3600)  # only that it is there matters
    cloud.ask("POST", instances, body)
    document = examine(cloud, code=4, cwd=project(tmp_path / "taken", BASE))
    assert "vmctl adopt tester-taken" in the(document, "machine")["fix"]


def test_the_last_answer_is_shown_and_a_running_machine_needs_no_more_quota(
    cloud: LocalCloud,
) -> None:
    cloud.fault(kind="stockout", gpu="nvidia-tesla-t4", zonesAvailable=["us-central1-a"])
    cloud("up", "--zone", "europe-west1-b", code=6)
    last = the(examine(cloud, code=0), "machine", "warning")
    assert "currently unavailable in the europe-west1-b zone" in last["message"]
    assert "us-central1-a" in last["fix"]
    cloud.ask("DELETE", "/emulator/v1/faults")
    cloud("up")
    cloud.fault(kind="quota", metric="NVIDIA_T4_GPUS", region="europe-west1", limit=1)
    document = examine(cloud, code=0)
    assert found(document, "warning") == [], "the last answer was a yes"
    assert "RUNNING" in the(document, "machine", "ok")["message"]
    cloud("down")
    assert "enough" in the(examine(cloud, code=0), "quota", "ok")["message"]


def test_the_project_asks_for_os_login(cloud: LocalCloud) -> None:
    path = "/compute/v1/projects/vmctl-local"
    metadata = cloud.ask("GET", path)["commonInstanceMetadata"]
    items = [{"key": "enable-oslogin", "value": "TRUE"}]
    cloud.ask("POST", f"{path}/setCommonInstanceMetadata", metadata | {"items": items})
    try:
        assert "OS Login" in the(examine(cloud, code=0), "project", "warning")["message"]
    finally:
        metadata = cloud.ask("GET", path)["commonInstanceMetadata"]
        cloud.ask("POST", f"{path}/setCommonInstanceMetadata", metadata | {"items": []})


def test_a_local_program_is_missing(cloud: LocalCloud, tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    environ = {"PATH": str(programs)}
    told = cloud.laptop("doctor", "--json", cwd=cloud.folder, code=2, environ=environ)
    document = json.loads(told.stdout)
    assert "ssh is missing" in the(document, "programs")["message"]
    assert "openssh-client" in the(document, "programs")["fix"]
    assert found(document, "ok") == CHECKS[:-1]


def test_a_vm_without_an_address_needs_more(cloud: LocalCloud, tmp_path: Path) -> None:
    inner = project(tmp_path / "inner", BASE + "external_address = false\n")
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("ssh", "ssh-keygen", "scp", "rsync", "sshd", "tmux", "bwrap", "slirp4netns", "ip"):
        path = shutil.which(name, path="/usr/bin:/bin:/usr/sbin:/sbin")
        assert path is not None
        (programs / name).symlink_to(path)
    told = cloud.laptop("doctor", "--json", cwd=inner, code=2, environ={"PATH": str(programs)})
    document = json.loads(told.stdout)
    assert "gcloud is missing" in the(document, "programs")["message"]
    assert "routers nats create" in the(document, "network", "warning")["fix"]
    assert "IAP" in the(document, "firewall", "ok")["message"]


# -- as if it were Google: the same emulator behind real credentials ----------------------------


@pytest.fixture
def key_file(account: dict[str, str]) -> dict[str, str]:
    """What the key file says, less where its tokens come from."""
    return {**account, "project_id": "from-the-key"}


@pytest.fixture
def google(
    cloud: LocalCloud, tmp_path: Path, key_file: dict[str, str], token_server: str
) -> tuple[LocalCloud, Path]:
    """The cloud as one reached with a key file, and that file."""
    key = tmp_path / "key.json"
    uri = f"{token_server}/token/{cloud.endpoint.secret}"
    key.write_text(json.dumps({**key_file, "token_uri": uri}))
    extra = {
        **logged_out(tmp_path),
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "GOOGLE_APPLICATION_CREDENTIALS": str(key),
        **cloud.endpoint.gcloud,
        "CLOUDSDK_AUTH_ACCESS_TOKEN_FILE": "",
    }
    outside = LocalCloud.__new__(LocalCloud)
    outside.laptop = Laptop(cloud.laptop.home, cloud.laptop.emulator_home, extra)
    outside.folder, outside.endpoint, outside.ask = cloud.folder, cloud.endpoint, cloud.ask
    return outside, key


def test_with_real_credentials_all_is_well(google: tuple[LocalCloud, Path]) -> None:
    cloud, _ = google
    document = examine(cloud, code=0)
    assert document["google_project"] == "from-the-key"
    cloud.laptop.extra["GOOGLE_CLOUD_PROJECT"] = "from-variable"
    said = the(examine(cloud, code=0), "project", "ok")["message"]
    assert said == "from-variable (from GOOGLE_CLOUD_PROJECT)"
    assert "GOOGLE_APPLICATION_CREDENTIALS" in the(document, "credentials", "ok")["message"]


def test_up_says_first_which_project_it_is_and_who_asks(google: tuple[LocalCloud, Path]) -> None:
    """The key's own project is taken, whatever gcloud is set to: before money, that is said."""
    cloud, key = google
    refused = {"code": "PERMISSIONS_ERROR", "message": "As far as here."}
    fault = cloud.endpoint.admin("POST", "faults", {"kind": "operation", **refused})
    cloud.laptop.extra["CLOUDSDK_CORE_PROJECT"] = "from-gcloud"
    try:
        told = cloud("--name", "asked", "up", "--gpu", "none", code=2).stderr
    finally:
        cloud.endpoint.admin("DELETE", f"faults/{fault['id']}")
    line, plan = "Google project from-the-key (from the file that", "Create "
    assert told.index(line) < told.index(plan)
    assert json.loads(key.read_text())["client_email"] in told


@pytest.mark.parametrize(
    ("written", "named"),
    [
        (None, "missing"),
        ("{bad", "key.json"),
        ('{"type": "service_account"}', "GOOGLE_APPLICATION_CREDENTIALS"),
        ('{"type": "unheard_of"}', "key.json"),
        ("revoked", "expired or was revoked"),
        ("unreachable", "does not answer"),
    ],
)
def test_credentials_that_do_not_work(
    google: tuple[LocalCloud, Path],
    key_file: dict[str, str],
    token_server: str,
    written: str | None,
    named: str,
) -> None:
    cloud, key = google
    uris = {"revoked": f"{token_server}/revoked", "unreachable": "http://127.0.0.1:9/token"}
    if written is None:
        key.unlink()
        named = str(key)
    elif written in uris:
        key.write_text(json.dumps({**key_file, "token_uri": uris[written]}))
    else:
        key.write_text(written)
    document = examine(cloud, code=7 if written == "unreachable" else 5)
    one = the(document, "credentials")
    assert named in one["message"] + one["fix"]
    assert found(document, "ok") == ["settings", "programs"]


def test_nobody_is_logged_in(google: tuple[LocalCloud, Path]) -> None:
    cloud, _ = google
    cloud.laptop.extra["GOOGLE_APPLICATION_CREDENTIALS"] = ""
    one = the(examine(cloud, code=5), "credentials")
    assert "gcloud auth application-default login" in one["fix"]


@pytest.mark.gcloud
@pytest.mark.skipif(shutil.which("gcloud") is None, reason="gcloud is not installed")
def test_gclouds_own_login_is_enough(google: tuple[LocalCloud, Path]) -> None:
    cloud, _ = google
    cloud.laptop.extra |= {
        "GOOGLE_APPLICATION_CREDENTIALS": "",
        **cloud.endpoint.gcloud,
        "CLOUDSDK_CORE_PROJECT": "from-gcloud",
    }
    document = examine(cloud, code=0)
    assert the(document, "credentials", "ok")["message"] == "gcloud auth login"
    assert document["google_project"] == "from-gcloud"


def test_no_project_is_chosen(google: tuple[LocalCloud, Path]) -> None:
    cloud, key = google
    written = json.loads(key.read_text())
    del written["project_id"]
    key.write_text(json.dumps(written))
    one = the(examine(cloud, code=2), "project")
    assert "gcloud config set project" in one["fix"]


DISABLED = {
    "@type": "type.googleapis.com/google.rpc.ErrorInfo",
    "reason": "SERVICE_DISABLED",
    "domain": "googleapis.com",
    "metadata": {
        "service": "compute.googleapis.com",
        "consumer": "projects/1",
        "activationUrl": "https://console.developers.google.com/apis/api/x?project=1",
    },
}
UNBILLED = {**DISABLED, "reason": "BILLING_DISABLED", "metadata": {}}
OFF = "Compute Engine API has not been used in project 1 before or it is disabled. Enable it by"
PAGE = "https://console.developers.google.com"
REFUSALS: list[tuple[str, dict[str, Any], str, int, str]] = [
    ("the older form", {"status": 403, "reason": "accessNotConfigured",
      "message": f"{OFF} visiting {PAGE}/apis/api/y?project=1 then retry."}, "api", 5, "api/y"),
    ("the newer form", {"status": 403, "reason": "forbidden", "rpcStatus": "PERMISSION_DENIED",
      "message": OFF, "details": [DISABLED]}, "api", 5, "api/x"),
    ("billing", {"status": 403, "reason": "forbidden", "message": "This API method requires "
      f"billing to be enabled. Please enable billing on project #1 by visiting {PAGE}/billing/"
      "enable?project=1 then retry."}, "billing", 5, "billing/enable"),
    ("billing, newer", {"status": 403, "reason": "forbidden", "message": "Billing is off.",
      "details": [UNBILLED]}, "billing", 5, "billing/enable"),
    ("no permission", {"status": 403, "reason": "forbidden", "message": "Required "
      "'compute.projects.get' permission for 'projects/x'"}, "project", 5, "iam-admin/iam"),
    ("does not know this project", {"status": 404, "reason": "notFound", "message": "The resource "
      "'projects/x' was not found"}, "project", 2, "gcloud projects list"),
    ("a bad token", {"status": 401}, "api", 5, "login"),
    ("scopes", {"status": 403, "reason": "insufficientPermissions", "message": "Request had "
      "insufficient authentication scopes.", "details": [{**DISABLED, "metadata": {},
      "reason": "ACCESS_TOKEN_SCOPE_INSUFFICIENT"}]}, "api", 5, "login"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("fault", "check", "code", "named"),
    [row[1:] for row in REFUSALS],
    ids=[row[0] for row in REFUSALS],
)
def test_google_refuses(
    google: tuple[LocalCloud, Path], fault: dict[str, Any], check: str, code: int, named: str
) -> None:
    cloud, _ = google
    cloud.fault(kind="http", method="compute.*", **fault)
    document = examine(cloud, code=code)
    one = the(document, check)
    assert named in one["fix"]
    assert found(document, "broken") == [check]
    assert set(INSIDE) <= set(found(document, "not checked"))
    before = CHECKS[: CHECKS.index(check)]
    assert found(document, "ok")[: len(before)] == before


def test_a_moment_of_too_many_requests_is_waited_out(google: tuple[LocalCloud, Path]) -> None:
    cloud, _ = google
    for status in (429, 503):
        cloud.fault(kind="http", method="compute.projects.get", status=status, calls=1)
    assert found(examine(cloud, code=0), "ok") == CHECKS


def test_one_question_refused_leaves_the_others(google: tuple[LocalCloud, Path]) -> None:
    cloud, _ = google
    for method in ("compute.regions.list", "compute.firewalls.list"):
        cloud.fault(kind="http", method=method, status=403, reason="forbidden")
    document = examine(cloud, code=5)
    assert found(document, "broken") == ["quota"]
    assert found(document, "warning") == ["firewall"]
    assert {"machine", "network", "image"} <= set(found(document, "ok"))
