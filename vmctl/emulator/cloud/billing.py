"""The actual bill: what every resource has cost, by the second, as Google would charge it.

Derived from the stored resources, independent of the client that changed them: one line of JSON
for each change of what is billed. `emulator/v1/books` adds them up.
"""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path

from ..clock import Clock, parse_stamp, stamp
from ..errors import Json
from ..http import urls
from ..http.urls import region_of
from ..store import Record

KINDS = ("instances", "disks", "snapshots", "addresses")
MONTH_H = 730
# USD: disks and snapshots by GB and month, addresses by hour
DISK_RATES = {
    "europe-west1": {"pd-standard": 0.04, "pd-balanced": 0.10, "pd-ssd": 0.17},
}
SNAPSHOT_RATES = {"europe-west1": 0.05}
IDLE_ADDRESS_RATE, BUSY_ADDRESS_RATE = 0.01, 0.005
SHORTEST_START = timedelta(minutes=1)

log = logging.getLogger("vmctl.emulator")


@dataclass(slots=True)
class BillLine:
    """A period in which a resource had one hourly price."""

    kind: str
    path: str
    begin: datetime
    rate: float | None  # USD an hour; None without a known price
    what: str
    end: datetime | None = None


class Billing:
    """Follows the store's changes; each line is on disk before the next change."""

    KINDS = KINDS

    def __init__(self, file: Path, clock: Clock) -> None:
        self._file = file
        self._clock = clock
        self._lines: list[BillLine] = []
        self._open: dict[str, dict[str, BillLine]] = {}  # by resource id and billed part
        self._read()

    def update(self, record: Record, *, deleted: bool = False) -> None:
        """Record what a saved or deleted resource costs from now on."""
        if record.key.collection not in KINDS:
            return
        id_ = record.body["id"]
        costs = {} if deleted else dict(self._costs(record, id_))
        for what, known in list(self._open.get(id_, {}).items()):
            if what not in costs or known.rate != costs[what]:
                self._write((id_, what), None, record)
        for what, rate in costs.items():
            if what not in self._open.get(id_, {}):
                self._write((id_, what), rate, record, begins=True)

    def sum_costs(self, since: datetime | None, until: datetime) -> Json:
        """Return the cost between two moments by resource; from the beginning without `since`."""
        by_path: dict[str, float] = {}
        unpriced = set()
        for bill in self._lines:
            begin = max(bill.begin, since) if since else bill.begin
            end = min(bill.end or until, until)
            if end < begin or begin > until:
                continue
            lasted = end - begin
            if bill.kind == "instances" and begin == bill.begin:
                lasted = max(lasted, SHORTEST_START)
            if bill.rate is None:
                unpriced.add(f"{bill.path} ({bill.what})")
            else:
                usd = bill.rate * lasted.total_seconds() / 3600
                by_path[bill.path] = by_path.get(bill.path, 0.0) + usd
        return {
            "until": stamp(until),
            "usd": sum(by_path.values()),
            "resources": {path: round(usd, 6) for path, usd in sorted(by_path.items())},
            "unpriced": sorted(unpriced),
        }

    def list_starts(self) -> list[Json]:
        """Return every period in which an instance was running."""
        return [
            {"path": e.path, "begin": stamp(e.begin), "end": stamp(e.end) if e.end else None}
            for e in self._lines
            if e.what == "machine"
        ]

    def _costs(self, record: Record, id_: str) -> Iterator[tuple[str, float | None]]:
        body, scope = record.body, urls.last(record.key.scope)
        match record.key.collection:
            case "instances":
                on = body["status"] == "RUNNING"
                # billed until it has stopped; one that is being deleted may have been off before
                on = on or (
                    body["status"] in ("STOPPING", "SUSPENDING")
                    and "machine" in self._open.get(id_, {})
                )
                if on:
                    yield "machine", find_machine_rate(body, scope)
                    if any(nic.get("accessConfigs") for nic in body["networkInterfaces"]):
                        yield "address", BUSY_ADDRESS_RATE
            case "disks":
                by_type = DISK_RATES.get(region_of(scope), {})
                rate = by_type.get(urls.last(body["type"]))
                yield "disk", None if rate is None else rate * int(body["sizeGb"]) / MONTH_H
            case "snapshots":
                source = urls.Reference(body["sourceDisk"]).scope or ""
                rate = SNAPSHOT_RATES.get(region_of(urls.last(source)))
                stored_gb = int(body.get("storageBytes", 0)) / 2**30
                yield "snapshot", None if rate is None else rate * stored_gb / MONTH_H
            case "addresses":
                yield "address", IDLE_ADDRESS_RATE

    def _write(
        self, key: tuple[str, str], rate: float | None, record: Record, *, begins: bool = False
    ) -> None:
        line = {
            "at": stamp(self._clock.now()),
            "id": key[0],
            "what": key[1],
            "kind": record.key.collection,
            "path": record.key.path,
            "begins": begins,
            "rate": rate,
        }
        self._apply(line)
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(line) + "\n")
        except OSError as error:
            log.error("the bill could not be written: %s", error)

    def _apply(self, line: Json) -> None:
        id_, what = str(line["id"]), str(line["what"])
        at = parse_stamp(line["at"])
        if line["begins"]:
            bill = BillLine(line["kind"], line["path"], at, line["rate"], what)
            self._lines.append(bill)
            self._open.setdefault(id_, {})[what] = bill
        elif (ended := self._open.get(id_, {}).pop(what, None)) is not None:
            ended.end = at
            if not self._open[id_]:
                del self._open[id_]

    def _read(self) -> None:
        try:
            lines = self._file.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return
        for line in lines:
            try:
                self._apply(json.loads(line))
            except (ValueError, KeyError, TypeError):
                log.error("a line of the bill is malformed: %r", line[:200])


def find_machine_rate(body: Json, zone: str) -> float | None:
    """Return the price of processors, memory and GPUs, in USD an hour; None if it is unknown."""
    machine = urls.last(body["machineType"])
    gpus = body.get("guestAccelerators", ())
    if not gpus:
        return None
    wanted = (machine, urls.last(gpus[0]["acceleratorType"]), gpus[0]["acceleratorCount"])
    spot = body["scheduling"]["provisioningModel"] == "SPOT"
    prices = _prices()
    here = prices.get((zone, *wanted), (None, None))[spot]
    if here is not None:
        return here
    for (other, *what), pair in prices.items():  # prices apply to a whole region
        if tuple(what) == wanted and region_of(other) == region_of(zone) and pair[spot] is not None:
            return pair[spot]
    return None


@cache
def _prices() -> dict[tuple[str, str, str, int], tuple[float | None, float | None]]:
    """On demand and Spot by zone, machine type, GPU and count."""

    def usd(text: str) -> float | None:
        return float(text) if text else None

    file = Path(__file__).parents[2] / "data" / "gpu_catalog.csv"
    with file.open(newline="", encoding="utf-8") as stream:
        return {
            (row["zone"], row["machine_type"], row["accelerator"], int(row["gpu_count"])): (
                usd(row["price_ondemand_usd_h"]),
                usd(row["price_spot_usd_h"]),
            )
            for row in csv.DictReader(stream)
        }
