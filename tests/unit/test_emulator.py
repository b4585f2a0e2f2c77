"""The emulator's pure parts: schemas, filters, field masks, clocks, the catalogue of offers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.harness.laptop import Laptop
from vmctl.clock import Clock
from vmctl.cloud import emulator_launch, emulator_process
from vmctl.emulator.clock import SteppedClock, make_clock, parse_stamp, stamp
from vmctl.emulator.cloud.catalog import IMAGES, Catalog, find_image
from vmctl.emulator.cloud.metadata import make_metadata, read_attributes, show_ssh_port
from vmctl.emulator.cloud.quotas import Limit, Quotas
from vmctl.emulator.errors import ApiError
from vmctl.emulator.faults.breakpoints import Breakpoints
from vmctl.emulator.http.app import CHECK_VARIABLE
from vmctl.emulator.http.discovery import Discovery
from vmctl.emulator.http.dispatch import PREFIXES, Dispatcher
from vmctl.emulator.http.field_mask import select
from vmctl.emulator.http.filters import compile_filter
from vmctl.emulator.http.urls import Reference, link
from vmctl.emulator.resources import handlers
from vmctl.emulator.store import Key, Record, Store

INSTANCE: dict[str, Any] = {
    "name": "vm1",
    "status": "RUNNING",
    "labels": {"vmctl": "1", "vmctl-owner": "me"},
    "creationTimestamp": "2026-01-01T00:00:00.000+00:00",
    "networkInterfaces": [{"accessConfigs": [{"natIP": "127.0.0.2", "name": "nat"}]}],
    "scheduling": {"preemptible": False},
    "guestCpus": 4,
    "id": "1152921504606846977",
    "family": "debian-12",
    "region": "https://www.googleapis.com/compute/v1/projects/p/regions/europe-west1",
    "description": 'say "hi"',
}


@pytest.fixture(scope="module")
def discovery() -> Discovery:
    return Discovery.load()


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return Catalog.load()


@pytest.mark.parametrize(
    ("method", "path", "wanted"),
    [
        ("POST", "projects/p/zones/z/instances", "compute.instances.insert"),
        ("GET", "projects/p/zones/z/instances/a", "compute.instances.get"),
        ("POST", "projects/p/zones/z/instances/bulkInsert", "compute.instances.bulkInsert"),
        ("POST", "projects/p/zones/z/operations/o/wait", "compute.zoneOperations.wait"),
        ("GET", "projects/p", "compute.projects.get"),
        ("GET", "projects/p/global/images/family/f", "compute.images.getFromFamily"),
        ("GET", "projects/p/aggregated/instances", "compute.instances.aggregatedList"),
    ],
)
def test_routes_come_from_the_document(
    discovery: Discovery, method: str, path: str, wanted: str
) -> None:
    match = discovery.match(method, path)
    assert match is not None
    assert match.method.id == wanted
    assert match.path["project"] == "p"


def test_every_handler_answers_a_method_that_exists() -> None:
    documents = [Discovery.load(api) for api, _ in PREFIXES.values()]
    routes = [found for document in documents for found in document._routes.values()]
    known = {method.id for found in routes for method in found}
    assert set(handlers()) <= known


def test_a_path_that_the_api_lacks_matches_nothing(discovery: Discovery) -> None:
    assert discovery.match("GET", "projects/p/zones/z/instances/a/b/c/d/e/f") is None
    assert discovery.match("BREW", "projects/p") is None


def test_our_own_replies_are_held_to_the_schemas(discovery: Discovery) -> None:
    discovery.check_response("Instance", {"name": "vm1", "id": "77"})
    for wrong in (
        {"id": 77},
        {"status": "ASLEEP"},
        {"vmctl": "1"},
        {"disks": [{"index": "0"}]},
        {"metadata": {"items": [{"key": "a", "value": 1}]}},
    ):
        with pytest.raises(ValueError, match=r"^Instance\."):
            discovery.check_response("Instance", wrong)


def test_a_reply_that_breaks_its_schema_is_found_where_replies_are_checked(
    tmp_path: Path,
) -> None:
    async def wrong(call: Any) -> dict[str, Any]:
        return {"name": "vm1", "colour": "red"}

    cloud: Any = SimpleNamespace(
        breakpoints=Breakpoints(),
        faults=SimpleNamespace(
            latency_s=lambda method: 0.0,
            drops=lambda method, when: False,
            refuse_call=lambda method: None,
        ),
    )
    path = "/compute/v1/projects/p/zones/z/instances/vm1"
    statuses = []
    for checked in (True, False):
        dispatcher = Dispatcher(
            cloud, cloud, {"compute.instances.get": wrong}, check_replies=checked
        )
        statuses.append(asyncio.run(dispatcher.answer("GET", path, "", b"")).status)
    assert statuses == [500, 200]
    assert Laptop(tmp_path, tmp_path).environ[CHECK_VARIABLE], "the tests' emulators check theirs"


def test_quotas_are_counted_again_only_after_a_change(catalog: Catalog, tmp_path: Path) -> None:
    store = Store(tmp_path)
    quotas = Quotas(store, catalog)
    first = quotas.of_region("p", "europe-west1")
    store.save(Record(Key("p", "operations", "zones/europe-west1-b", "o"), {}))
    assert quotas.of_region("p", "europe-west1") is first
    disk = {"sizeGb": "10", "type": "pd-ssd"}
    store.save(Record(Key("p", "disks", "zones/europe-west1-b", "d"), disk))
    usage = {quota["metric"]: quota["usage"] for quota in quotas.of_region("p", "europe-west1")}
    assert usage["SSD_TOTAL_GB"] == 10
    quotas.limits = lambda: [Limit("CPUS", "europe-west1", 8)]
    assert {"metric": "CPUS", "limit": 8.0, "usage": 0.0} in quotas.of_region("p", "europe-west1")


def test_requests_may_carry_64_bit_numbers_as_numbers(discovery: Discovery) -> None:
    for seconds in ("3600", 3600):
        discovery.check_request("Scheduling", {"maxRunDuration": {"seconds": seconds}})
    with pytest.raises(ApiError):
        discovery.check_request("Scheduling", {"maxRunDuration": {"seconds": "an hour"}})


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("", True),
        ("labels.vmctl=1", True),
        ("labels.vmctl-owner=me AND status=RUNNING", True),
        ("labels.vmctl-owner=you OR status=RUNNING", True),
        ("labels.vmctl-owner=you", False),
        ("(labels.vmctl=1) (status=TERMINATED)", False),
        ("status eq RUNNING", True),
        ("status ne RUNNING", False),
        ("status eq 'RUN.*'", True),
        ("status!=RUNNING", False),
        ("NOT status=RUNNING", False),
        ("-name=vm2", True),
        ("name=vm*", True),
        ("labels.vmctl:*", True),
        ("labels.nothing:*", False),
        ("labels:vmctl", True),
        ('name="vm1"', True),
        ("scheduling.preemptible=false", True),
        ("networkInterfaces.accessConfigs.natIP=127.0.0.2", True),
        ('creationTimestamp>"2025-12-31"', True),
        ("creationTimestamp<2025-12-31T00:00:00Z", False),
        ("creationTimestamp<2026-01-01T00:30:00+01:00", False),  # half an hour before, in UTC
        # OR binds tighter than AND
        ('(name = "vm1") OR (name = "vm2") AND (guestCpus = 8)', False),
        ("name=vm1 OR name=vm2 guestCpus=8", False),
        ("guestCpus=8 AND name=vm2 OR name=vm1", False),
        ("guestCpus=4 AND name=vm2 OR name=vm1", True),
        ("(guestCpus=8 AND name=vm2) OR name=vm1", True),
        ("NOT name=vm1 OR name=vm1", True),
        ("-(name=vm1 status=RUNNING)", False),
        ("name=(vm2 OR vm1)", True),
        ("labels.vmctl-owner:(you OR they)", False),
        ('labels."vmctl-owner"=me', True),
        ("guestCpus>=4 guestCpus<10", True),
        ("id>1152921504606846977", False),
        # regular expressions for the whole value, as gcloud sends them
        (r'name eq ".*\bvm1\b.*"', True),
        (r'family eq ".*\bdebian\-12\b.*"', True),
        (r'region eq ".*\beurope\-west1\b.*"', True),
        (r'(name ne ".*\bvm1\b.*")(status eq ".*\bRUNNING\b.*")', False),
        ("(name eq vm[0-9]+) (status ne 'TERM.*')", True),
        ("name eq (vm|web)-?1", True),
        ("(name eq (vm|web)1)", True),
        ("name eq vm", False),
        (r'description eq "say \"hi\""', True),
        (r'description="say \"hi\""', True),
        ("networkInterfaces.accessConfigs.name eq n.t", True),
        ("scheduling.preemptible eq false", True),
    ],
)
def test_filters(text: str, matches: bool) -> None:
    assert compile_filter(text)(INSTANCE) is matches


@pytest.mark.parametrize(
    "text",
    [
        "status",
        "a b c",
        "(name=x",
        "name=x)",
        "name==",
        "=x",
        "a eq (",
        "a=b AND",
        "a=(b",
        "()",
        "a=b OR",
        "NOT",
        'a="b',
        "a eq",
        "a eq [",
    ],
)
def test_malformed_filters_are_refused(text: str) -> None:
    with pytest.raises(ApiError, match="Invalid list filter expression"):
        compile_filter(text)


@pytest.mark.parametrize(
    ("mask", "picked"),
    [
        ("name", {"name": "vm1"}),
        ("name,status", {"name": "vm1", "status": "RUNNING"}),
        ("labels/vmctl", {"labels": {"vmctl": "1"}}),
        (
            "networkInterfaces(accessConfigs/natIP)",
            {"networkInterfaces": [{"accessConfigs": [{"natIP": "127.0.0.2"}]}]},
        ),
        ("labels/*", {"labels": INSTANCE["labels"]}),
        ("nothing", {}),
    ],
)
def test_field_masks(mask: str, picked: dict[str, Any]) -> None:
    assert select(INSTANCE, mask) == picked


@pytest.mark.parametrize("mask", ["a(b", "a)", "/a", "a//b", "a/", "a b-"])
def test_malformed_field_masks_are_refused(mask: str) -> None:
    with pytest.raises(ApiError, match="Invalid field selection"):
        select(INSTANCE, mask)


@pytest.mark.parametrize(
    "text",
    [
        "vm1",
        "zones/z/instances/vm1",
        "/zones/z/instances/vm1",
        "projects/p/zones/z/instances/vm1",
        link("p", "zones/z", "instances", "vm1"),
        "http://127.0.0.1:18080/compute/v1/projects/p/zones/z/instances/vm1",
    ],
)
def test_references_may_be_full_or_partial(text: str) -> None:
    reference = Reference(text)
    assert reference.name == "vm1"
    assert reference.project in (None, "p")
    assert reference.scope in (None, "zones/z")


def test_a_stepped_clock_wakes_sleepers_in_order_and_at_their_time() -> None:
    async def story() -> list[tuple[str, float]]:
        clock = SteppedClock(None)
        begun = clock.now()
        woken: list[tuple[str, float]] = []

        async def sleeper(name: str, *moments_s: float) -> None:
            async with clock.working():
                for moment_s in moments_s:
                    await clock.sleep_until(begun + timedelta(seconds=moment_s))
                    woken.append((name, (clock.now() - begun).total_seconds()))

        tasks = [
            asyncio.create_task(sleeper("late", 60)),
            asyncio.create_task(sleeper("early", 10, 30)),
            asyncio.create_task(sleeper("beyond", 1000)),
        ]
        await asyncio.sleep(0)
        await clock.advance(100)
        assert (clock.now() - begun).total_seconds() == 100
        tasks[2].cancel()
        return woken

    assert asyncio.run(story()) == [("early", 10), ("early", 30), ("late", 60)]


def test_a_scaled_clock_runs_faster() -> None:
    async def story() -> float:
        clock = make_clock("scaled:10000", None)
        begun = clock.now()
        await clock.sleep_until(begun + timedelta(seconds=100))
        return (clock.now() - begun).total_seconds()

    assert asyncio.run(story()) >= 100


@pytest.mark.parametrize("choice", ["stepped", "scaled:60"])
def test_clocks_that_ran_ahead_go_on_from_there(choice: str) -> None:
    ahead = datetime.now(UTC) + timedelta(days=400)
    assert make_clock(choice, ahead).now() >= ahead


@pytest.mark.parametrize(
    "choice", ["", "sundial", "real:2", "scaled:0", "scaled:fast", "stepped:1"]
)
def test_unknown_clocks_are_refused(choice: str) -> None:
    with pytest.raises(ValueError):
        make_clock(choice, None)


def test_time_stamps_read_back_as_they_were_written() -> None:
    moment = datetime(2026, 3, 4, 5, 6, 7, 890000, UTC)
    assert stamp(moment) == "2026-03-04T05:06:07.890+00:00"
    assert parse_stamp(stamp(moment)) == moment
    with pytest.raises(ValueError, match="no offset"):
        parse_stamp("2026-03-04T05:06:07")


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("custom-4-16384", (4, 16384)),
        ("n1-custom-1-1024", (1, 1024)),
        ("custom-2-204800-ext", (2, 204800)),
        ("e2-custom-2-8192", (2, 8192)),
        ("custom-3-8192", None),
        ("custom-4-16385", None),
        ("custom-4-2048", None),
        ("custom-4-65536", None),
        ("custom-128-524288", None),
        ("e2-custom-1-2048", None),
        ("custom-4", None),
    ],
)
def test_custom_machine_types(catalog: Catalog, name: str, size: tuple[int, int] | None) -> None:
    found = catalog.machine_type("europe-west1-b", name)
    assert (found and (found.cpus, found.memory_mb)) == size
    assert found is None or found.series == ("e2" if name.startswith("e2") else "n1")


def offered(catalog: Catalog) -> Iterator[tuple[str, str, list[int]]]:
    for zone in catalog.zones:
        for gpu, counts in catalog.gpus(zone).items():
            yield zone, gpu, counts


def test_the_table_of_offers_fits_the_zones(catalog: Catalog) -> None:
    assert {row.zone for row in catalog.rows} <= set(catalog.zones)
    assert len(list(offered(catalog))) > 40
    counts = {gpu: counts for zone, gpu, counts in offered(catalog) if zone == "europe-west1-b"}
    assert counts["nvidia-tesla-t4"] == [1, 2, 4]
    assert counts["nvidia-l4"] == [1, 2, 4, 8]


def test_a_zone_has_the_gpu_series_of_its_gpus_only(catalog: Catalog) -> None:
    assert "g2-standard-4" in catalog.machine_types("europe-west1-b")
    assert "g2-standard-4" not in catalog.machine_types("europe-west1-d")
    machine = catalog.machine_types("europe-west4-a")["a2-highgpu-2g"]
    assert (machine.gpu, machine.gpu_count, machine.cpus) == ("nvidia-tesla-a100", 2, 24)


def test_every_image_is_found_by_name_and_by_family() -> None:
    for image in IMAGES:
        assert find_image(image.project, image.name) == image
        assert find_image(image.project, f"family/{image.family}") == image
        assert find_image(image.project, image.family) is None


@pytest.mark.parametrize(("port", "shown"), [(22, None), (2222, "2222")])
def test_a_port_other_than_22_stands_in_the_metadata(port: int, shown: str | None) -> None:
    items = [{"key": "mine", "value": "kept"}, {"key": "vmctl-ssh-port", "value": "9"}]
    key = Key("p", "instances", "zones/z", "vm1")
    record = Record(key, {"metadata": make_metadata(items)}, {"ssh_port": port})
    before = record.body["metadata"]["fingerprint"]
    show_ssh_port(record)
    found = read_attributes(record.body["metadata"])
    assert (found["mine"], found.get("vmctl-ssh-port")) == ("kept", shown)
    assert record.body["metadata"]["fingerprint"] != before


def test_ctrl_c_while_the_emulator_starts_leaves_none_running(tmp_path: Path) -> None:
    class Interrupted(Clock):
        def sleep(self, seconds: float) -> None:
            raise KeyboardInterrupt

    home = tmp_path / "emulator"
    with pytest.raises(KeyboardInterrupt):
        emulator_launch.start(home, Interrupted())
    running = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # another process that has ended meanwhile
            running += [file] if os.fsencode(home) in file.read_bytes() else []
    assert running == []
    assert emulator_process.find(home) is None
