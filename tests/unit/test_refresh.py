"""The table of prices: what is shipped is sound, and a new one is made and checked as it says."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from vmctl.cloud import price_table
from vmctl.domain.machine.gpu import MODELS, Gpu

ROOT = Path(__file__).resolve().parents[2]


def load() -> ModuleType:
    path = ROOT / "scripts" / "refresh_gpu_catalog.py"
    spec = importlib.util.spec_from_file_location("refresh_gpu_catalog", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


refresh: Any = load()
SHIPPED = refresh.read_table(refresh.TABLE.read_text(encoding="utf-8").splitlines())
VMS_HEAD = (
    "InstanceType,vCPUs,MemoryGiB,AcceleratorName,AcceleratorCount,GpuInfo,Region,"
    "AvailabilityZone,Price,SpotPrice"
)
# lines as the two sources have them
VMS = f"""{VMS_HEAD}
a2-highgpu-1g,12.0,85.0,,,,europe-west4,europe-west4-a,0.81406,0.31824
,,,T4,2.0,"{{'Gpus': [{{'Name': 'T4', 'Count': 2.0}}]}}",europe-west1,europe-west1-b,0.7,0.28
,,,A100,1,A100,europe-west4,europe-west4-a,9.9,9.9
,,,T4,1.0,T4,asia-east1,asia-east1-a,0.35,0.14
,,,tpu-v6e-1,1,tpu-v6e-1,europe-west4,europe-west4-a,2.97,1.03748
"""
PRICING = """---
about:
  timestamp: 1741233236
compute:
  instance:
    a2-highgpu-1g:
      a100: 1
      cost:
        asia-east1:
          hour: 3.790142
        europe-west4:
          hour: 3.747972
          hour_spot: 1.44587
          month: 2736.01956
      cpu: 12
    n1-standard-8:
      cost:
        europe-west1:
          hour: 0.418
          hour_spot: 0.1744
  storage:
    bucket:
      cost:
        europe-west1:
          hour: 99
"""


def made() -> dict[tuple[str, str, str, int], Any]:
    gpus = refresh.read_gpus(VMS.splitlines())
    rows = refresh.make_table(gpus, refresh.read_machines(PRICING.splitlines()))
    return {row.key: row for row in rows}


def test_what_is_shipped_is_sound(capsys: pytest.CaptureFixture[str]) -> None:
    assert refresh.main([]) == 0
    assert f"{len(price_table.offers())} rows: sound" in capsys.readouterr().out


def test_a_row_is_a_host_and_its_gpus() -> None:
    row = made()["europe-west1-b", "nvidia-tesla-t4", "n1-standard-8", 1]
    assert (row.price_ondemand_usd_h, row.price_spot_usd_h) == (0.768, 0.3144)
    two = made()["europe-west1-b", "nvidia-tesla-t4", "n1-standard-8", 2]
    assert two.price_ondemand_usd_h == pytest.approx(0.418 + 0.7)
    assert (two.vcpus, two.mem_gb) == (8, 30.0)


def test_a_machine_with_gpus_inside_costs_what_the_machine_costs() -> None:
    row = made()["europe-west4-a", "nvidia-tesla-a100", "a2-highgpu-1g", 1]
    assert (row.price_ondemand_usd_h, row.price_spot_usd_h) == (3.747972, 1.44587)
    assert (row.vcpus, row.mem_gb) == (12, 85.0)
    unknown = made()["europe-west4-a", "nvidia-tesla-a100", "a2-highgpu-2g", 2]
    assert unknown.price_ondemand_usd_h is None


def test_only_zones_that_have_the_gpu_and_hosts_that_may_carry_it() -> None:
    assert {key[0] for key in made()} == {"europe-west1-b", "europe-west4-a"}
    hosts = {key[2] for key in made() if key[1:4:2] == ("nvidia-tesla-t4", 1)}
    assert "n1-standard-32" in hosts
    assert "n1-standard-64" not in hosts


def sources() -> tuple[dict[Any, Any], dict[Any, Any]]:
    """The shipped table taken apart into what its two sources must have said."""
    gpus: dict[Any, Any] = {}
    machines: dict[Any, Any] = {}
    for row in SHIPPED:
        gpu = Gpu(row.accelerator, row.gpu_count)
        assert gpu.model is not None
        region = price_table.region_of(row.zone)
        prices = row.price_ondemand_usd_h, row.price_spot_usd_h
        if gpu.model.attaches_to_n1:
            hosts = [
                price_table.price(row.zone, row.machine_type, None, spot=spot).usd_per_hour
                for spot in (False, True)
            ]
            machines[region, row.machine_type] = tuple(hosts)
            prices = tuple(
                (usd - host) / row.gpu_count for usd, host in zip(prices, hosts, strict=True)
            )
        else:
            machines[region, row.machine_type] = prices
        gpus.setdefault((row.zone, gpu.model.name), prices)
    return gpus, machines


def test_the_shipped_table_is_what_is_made_of_its_sources() -> None:
    after = refresh.make_table(*sources())
    assert [row.key for row in after] == sorted(row.key for row in SHIPPED)
    assert refresh.changes(SHIPPED, after) == []
    assert refresh.complaints(after) == []


ONE = SHIPPED[0]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"accelerator": "nvidia-x"}, "no GPU that vmctl knows"),
        ({"machine_type": "n1-standard-96"}, "at most 48 vCPUs"),
        ({"machine_type": "g2-standard-4"}, "needs an N1 machine type"),
        ({"vcpus": 3}, "vCPUs and"),
        ({"zone": "europe"}, "no zone's name"),
        ({"price_ondemand_usd_h": 4000.0}, "cannot be"),
        ({"price_spot_usd_h": 9.0}, "not cheaper than on demand"),
        ({"price_ondemand_usd_h": None}, "differ within a region"),
    ],
)
def test_a_row_that_must_not_be_shipped_is_named(change: dict[str, Any], says: str) -> None:
    broken = [replace(ONE, **change), *SHIPPED[1:]]
    assert any(says in complaint for complaint in refresh.complaints(broken))


def test_a_row_twice_and_a_missing_gpu_are_named() -> None:
    assert "twice" in refresh.complaints([ONE, *SHIPPED])[0]
    without = [row for row in SHIPPED if row.accelerator != "nvidia-b200"]
    assert refresh.complaints(without) == ["no zone has a B200"]


def test_nothing_unsound_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "table.csv"
    table.write_bytes(refresh.TABLE.read_bytes())
    (tmp_path / "vms.csv").write_text(VMS, encoding="utf-8")
    (tmp_path / "pricing.yml").write_text(PRICING, encoding="utf-8")
    words = ["--table", str(table), "--vms", str(tmp_path / "vms.csv")]
    words += ["--pricing", str(tmp_path / "pricing.yml"), "--write"]
    assert refresh.main(words) == 1  # most GPUs are in no zone of these few lines
    assert "wrong: no zone has a" in capsys.readouterr().out
    assert table.read_bytes() == refresh.TABLE.read_bytes()


def test_a_table_is_written_as_it_was_read(tmp_path: Path) -> None:
    refresh.write_table(SHIPPED, tmp_path / "table.csv")
    again = refresh.read_table((tmp_path / "table.csv").read_text(encoding="utf-8").splitlines())
    assert again == SHIPPED
    listed = {model.accelerator for model in MODELS.values() if model.listed}
    assert listed == {row.accelerator for row in again}


def test_a_notable_change_of_price_is_shown() -> None:
    assert ONE.price_spot_usd_h is not None
    small = replace(ONE, price_spot_usd_h=ONE.price_spot_usd_h * 1.04)
    large = replace(ONE, price_spot_usd_h=ONE.price_spot_usd_h * 1.06)
    assert refresh.changes([ONE], [small]) == []
    (line,) = refresh.changes([ONE], [large])
    assert "spot" in line
    assert refresh.changes([ONE], []) == [f"- {' '.join(map(str, ONE.key))}"]
