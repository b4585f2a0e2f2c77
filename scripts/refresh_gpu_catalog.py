"""Makes vmctl/data/gpu_catalog.csv from its public sources, and checks it before it is shipped.

Two sources, because neither has it all (see vmctl/data/README.md):

* skypilot-catalog's `vms.csv`: which zone has which GPU, and the price per GPU of those that are
  attached to N1 hosts. Its prices of newer machines are mixed with other products: not used.
* Cyclenerd's `pricing.yml`: the list price of every machine type per region; those of the G2, A2
  and A3 series include their GPUs.

A price that neither has stays empty. Nothing is written unless every check passes.
"""

from __future__ import annotations

import argparse
import csv
import os
import re
import sys
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from vmctl.domain.errors import InvalidInput
from vmctl.domain.machine.gpu import MODELS, Gpu
from vmctl.domain.machine.machine_type import MachineType, built_in_gpu, choose_machine
from vmctl.domain.machine.zone_order import region_of

TABLE = Path(__file__).resolve().parents[1] / "vmctl" / "data" / "gpu_catalog.csv"
RAW = "https://raw.githubusercontent.com"
VMS_URL = f"{RAW}/skypilot-org/skypilot-catalog/master/catalogs/v8/gcp/vms.csv"
PRICING_URL = f"{RAW}/Cyclenerd/google-cloud-pricing-cost-calculator/master/pricing.yml"

REGIONS = {
    "europe-central2", "europe-north1", "europe-west1", "europe-west2", "europe-west3",
    "europe-west4", "europe-west6", "europe-west9", "us-central1",
}  # fmt: skip
# as skypilot-catalog calls them
ACCELERATORS = {
    "T4": "t4", "P4": "p4", "P100": "p100", "V100": "v100", "L4": "l4", "A100": "a100",
    "A100-80GB": "a100-80gb", "H100": "h100", "H100-MEGA": "h100-mega", "H200": "h200",
    "B200": "b200",
}  # fmt: skip
N1_HOSTS = tuple(
    f"n1-{kind}-{vcpus}"
    for kind in ("standard", "highmem")
    for vcpus in (1, 2, 4, 8, 16, 32, 64, 96)
    if vcpus > 1 or kind == "standard"
)
# sizes that a machine type's name does not tell
SIZES = {
    **{f"a2-highgpu-{n}g": (12 * n, 85.0 * n) for n in (1, 2, 4, 8)},
    **{f"a2-ultragpu-{n}g": (12 * n, 170.0 * n) for n in (1, 2, 4, 8)},
    **{f"a3-highgpu-{n}g": (26 * n, 234.0 * n) for n in (1, 2, 4, 8)},
    "a2-megagpu-16g": (96, 1360.0),
    "a3-megagpu-8g": (208, 1872.0),
    "a3-ultragpu-8g": (224, 2952.0),
    "a4-highgpu-8g": (224, 3968.0),
}
# zones whose hosts with that number of GPUs may be smaller than elsewhere: vCPUs and GB
SMALLER_HOSTS = {
    (zone, "nvidia-tesla-p100", 4): (64, 208.0) for zone in ("europe-west1-b", "europe-west1-d")
}
# a rise or fall beyond this is shown line by line
NOTABLE = 0.05


@dataclass(frozen=True, order=True)
class Row:
    """One line of the table; a price of None is written as nothing."""

    zone: str
    accelerator: str
    machine_type: str
    gpu_count: int
    vcpus: int
    mem_gb: float
    price_ondemand_usd_h: float | None
    price_spot_usd_h: float | None

    @property
    def key(self) -> tuple[str, str, str, int]:
        return self.zone, self.accelerator, self.machine_type, self.gpu_count


HEADINGS = [item.name for item in fields(Row)]
Prices = tuple[float | None, float | None]  # on demand, spot


# -- reading ------------------------------------------------------------------------------------


def read_table(lines: Iterable[str]) -> list[Row]:
    """The rows of a table; raises ValueError that names the line."""
    reader = csv.DictReader(lines)
    if reader.fieldnames != HEADINGS:
        raise ValueError(f"the columns are {reader.fieldnames}, not {HEADINGS}")
    rows = []
    for number, line in enumerate(reader, 2):
        try:
            rows.append(
                Row(
                    line["zone"],
                    line["accelerator"],
                    line["machine_type"],
                    int(line["gpu_count"]),
                    int(line["vcpus"]),
                    float(line["mem_gb"]),
                    _number(line["price_ondemand_usd_h"]),
                    _number(line["price_spot_usd_h"]),
                )
            )
        except (ValueError, TypeError) as error:
            raise ValueError(f"line {number}: {error}") from None
    return rows


def read_gpus(lines: Iterable[str]) -> dict[tuple[str, str], Prices]:
    """By zone and vmctl's name of a GPU: the price of one; where there is a row, there is one."""
    found: dict[tuple[str, str], Prices] = {}
    for line in csv.DictReader(lines):
        name = ACCELERATORS.get(line["AcceleratorName"])
        if name is None or line["InstanceType"] or line["Region"] not in REGIONS:
            continue
        count = float(line["AcceleratorCount"])
        prices = (_each(line["Price"], count), _each(line["SpotPrice"], count))
        found.setdefault((line["AvailabilityZone"], name), prices)
    if not found:
        raise ValueError("vms.csv has no row of a GPU that vmctl knows")
    return found


def read_machines(lines: Iterable[str]) -> dict[tuple[str, str], Prices]:
    """By region and machine type: the list prices in `compute: instance:` of pricing.yml.

    Only that part is read, by its indentation, so that no YAML library is needed.
    """
    found: dict[tuple[str, str], Prices] = {}
    path: list[str] = []
    for line in lines:
        match = re.fullmatch(r"( *)([\w.-]+):\s*(\S.*)?", line.rstrip())
        if not match or len(match[1]) % 2:
            continue
        depth = len(match[1]) // 2
        path = [*path[:depth], match[2]]
        if len(path) == 6 and path[:2] == ["compute", "instance"] and path[3] == "cost":
            machine, region, what = path[2], path[4], path[5]
            on_demand, spot = found.get((region, machine), (None, None))
            if what == "hour":
                on_demand = _number(match[3] or "")
            elif what == "hour_spot":
                spot = _number(match[3] or "")
            if region in REGIONS:
                found[region, machine] = (on_demand, spot)
    if not found:
        raise ValueError("pricing.yml has no machine type of a region that vmctl knows")
    return found


# -- making -------------------------------------------------------------------------------------


def make_table(
    gpus: Mapping[tuple[str, str], Prices], machines: Mapping[tuple[str, str], Prices]
) -> list[Row]:
    """Every GPU in every zone that has it, on every host that may carry it."""
    rows = []
    for (zone, name), each in gpus.items():
        model, region = MODELS[name], region_of(zone)
        for count in model.counts:
            gpu = Gpu(model.accelerator, count)
            for machine in _hosts(gpu, zone):
                price = machines.get((region, machine.name), (None, None))
                if model.attaches_to_n1:
                    price = _plus(price[0], each[0], count), _plus(price[1], each[1], count)
                rows.append(
                    Row(
                        zone,
                        model.accelerator,
                        machine.name,
                        count,
                        machine.vcpus or 0,
                        machine.mem_gb or 0.0,
                        *price,
                    )
                )
    return sorted(rows, key=lambda row: row.key)


def _hosts(gpu: Gpu, zone: str) -> Iterator[MachineType]:
    assert gpu.model is not None
    vcpus, mem_gb = SMALLER_HOSTS.get((zone, gpu.accelerator, gpu.count), (1000, 1e6))
    names = N1_HOSTS if gpu.model.attaches_to_n1 else gpu.model.machines[gpu.count]
    for name in names:
        try:
            machine = choose_machine(gpu, name)
        except InvalidInput:
            continue
        machine = MachineType(name, *SIZES[name]) if name in SIZES else machine
        if (machine.vcpus or 0) <= vcpus and (machine.mem_gb or 0) <= mem_gb:
            yield machine


# -- checking -----------------------------------------------------------------------------------


def complaints(rows: Sequence[Row]) -> list[str]:
    """What is wrong with a table; [] when it may be shipped."""
    found = []
    seen: set[tuple[str, str, str, int]] = set()
    by_region: dict[tuple[str, str, str, int], set[Prices]] = {}
    for row in rows:
        name = " ".join(map(str, row.key))
        if row.key in seen:
            found.append(f"{name}: twice")
        seen.add(row.key)
        found += [f"{name}: {what}" for what in _row_complaints(row)]
        place = (region_of(row.zone), *row.key[1:])
        prices = by_region.setdefault(place, set())
        prices.add((row.price_ondemand_usd_h, row.price_spot_usd_h))
    found += [
        f"{' '.join(map(str, place))}: prices differ within a region"
        for place, prices in by_region.items()
        if len(prices) > 1
    ]
    have = {row.accelerator for row in rows}
    listed = [model for model in MODELS.values() if model.listed]
    found += [f"no zone has a {m.title}" for m in listed if m.accelerator not in have]
    if "europe-west1" not in {region_of(row.zone) for row in rows}:
        found.append("nothing is known of europe-west1")
    return found


def _row_complaints(row: Row) -> Iterator[str]:
    gpu = Gpu(row.accelerator, row.gpu_count)
    if gpu.model is None:
        yield "no GPU that vmctl knows"
        return
    try:
        choose_machine(gpu, row.machine_type)
    except InvalidInput as error:
        yield error.message
    inside = built_in_gpu(row.machine_type)
    if inside is not None and inside != gpu:
        yield f"has {inside.title}"
    size = MachineType.parse(row.machine_type)
    expected = SIZES.get(row.machine_type, (size.vcpus, size.mem_gb))
    if expected != (row.vcpus, row.mem_gb):
        yield f"has {expected[0]} vCPUs and {expected[1]} GB"
    if not re.fullmatch(r"[a-z]+-[a-z]+\d+-[a-z]", row.zone):
        yield "no zone's name"
    on_demand, spot = row.price_ondemand_usd_h, row.price_spot_usd_h
    for usd in (on_demand, spot):
        if usd is not None and not 0.01 <= usd <= 500:
            yield f"${usd} an hour cannot be"
    if on_demand is not None and spot is not None and spot >= on_demand:
        yield f"Spot (${spot}) is not cheaper than on demand (${on_demand})"


def changes(before: Sequence[Row], after: Sequence[Row]) -> list[str]:
    """What a new table changes, for the eyes of the one who ships it."""
    old, new = ({row.key: row for row in rows} for rows in (before, after))
    lines = [f"- {' '.join(map(str, key))}" for key in sorted(old.keys() - new.keys())]
    lines += [f"+ {' '.join(map(str, key))}" for key in sorted(new.keys() - old.keys())]
    for key in sorted(old.keys() & new.keys()):
        for what, was, now in (
            ("on demand", old[key].price_ondemand_usd_h, new[key].price_ondemand_usd_h),
            ("spot", old[key].price_spot_usd_h, new[key].price_spot_usd_h),
        ):
            if was is not None and now is not None and abs(now - was) <= NOTABLE * was:
                continue
            if was != now:
                lines.append(f"  {' '.join(map(str, key))}: {what} {was} -> {now}")
    return lines


# -- writing ------------------------------------------------------------------------------------


def write_table(rows: Sequence[Row], file: Path) -> None:
    """Replace the table as a whole."""
    fresh = file.with_suffix(".new")
    with fresh.open("w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(HEADINGS)
        writer.writerows(["" if v is None else v for v in astuple(row)] for row in rows)
        out.flush()
        os.fsync(out.fileno())
    fresh.replace(file)


def _number(text: str) -> float | None:
    return float(text) if text.strip() else None


def _each(text: str, count: float) -> float | None:
    number = _number(text)
    return None if number is None else number / count


def _plus(host: float | None, each: float | None, count: int) -> float | None:
    return None if host is None or each is None else round(host + each * count, 5)


def _lines(file: str | None, url: str) -> list[str]:
    if file is not None:
        return Path(file).read_text(encoding="utf-8").splitlines()
    print(f"Fetching {url}", file=sys.stderr)
    with urllib.request.urlopen(url, timeout=60) as answer:
        return str(answer.read().decode("utf-8")).splitlines()


def main(argv: Sequence[str] | None = None) -> int:
    """0: all is well; 1: the table, or what would be made, must not be shipped."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--fetch", action="store_true", help="download the sources")
    parser.add_argument("--vms", metavar="FILE", help="skypilot-catalog's vms.csv")
    parser.add_argument("--pricing", metavar="FILE", help="Cyclenerd's pricing.yml")
    parser.add_argument("--table", metavar="FILE", default=str(TABLE), help="the table")
    parser.add_argument("--write", action="store_true", help="replace the table if it is sound")
    wanted = parser.parse_args(argv)
    table = Path(wanted.table)
    try:
        before = read_table(table.read_text(encoding="utf-8").splitlines())
        if not (wanted.fetch or wanted.vms or wanted.pricing):
            return _verdict(before, f"{table.name}, {len(before)} rows")
        if not wanted.fetch and not (wanted.vms and wanted.pricing):
            parser.error("both --vms and --pricing are needed, or --fetch")
        gpus = read_gpus(_lines(wanted.vms, VMS_URL))
        after = make_table(gpus, read_machines(_lines(wanted.pricing, PRICING_URL)))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for line in changes(before, after):
        print(line)
    verdict = _verdict(after, f"The new table, {len(after)} rows instead of {len(before)}")
    if verdict == 0 and wanted.write:
        write_table(after, table)
        print(
            f"Written. Put the new dates into {table.with_name('README.md').name} and "
            "vmctl/cloud/price_table.py."
        )
    return verdict


def _verdict(rows: Sequence[Row], what: str) -> int:
    found = complaints(rows)
    for complaint in found:
        print(f"wrong: {complaint}")
    print(f"{what}: {'sound' if not found else f'{len(found)} things are wrong'}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
