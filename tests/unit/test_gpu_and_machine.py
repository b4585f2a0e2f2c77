"""Which GPU, how many of it, on which host: what is accepted and what is said otherwise."""

from __future__ import annotations

import pytest

from vmctl.cloud import price_table
from vmctl.domain.errors import InvalidInput
from vmctl.domain.google.quota import needs
from vmctl.domain.machine.gpu import MODELS, Gpu
from vmctl.domain.machine.image import Image
from vmctl.domain.machine.instance_spec import cautions
from vmctl.domain.machine.machine_type import (
    MachineType,
    built_in_gpu,
    choose_machine,
    unknown_machine,
)


@pytest.mark.parametrize(
    ("text", "accelerator", "count", "machine"),
    [
        ("t4", "nvidia-tesla-t4", 1, "n1-standard-4"),
        ("T4:2", "nvidia-tesla-t4", 2, "n1-standard-8"),
        ("nvidia-tesla-t4", "nvidia-tesla-t4", 1, "n1-standard-4"),
        ("t4:4", "nvidia-tesla-t4", 4, "n1-standard-16"),
        ("p4", "nvidia-tesla-p4", 1, "n1-standard-4"),
        ("p100", "nvidia-tesla-p100", 1, "n1-standard-4"),
        ("v100:8", "nvidia-tesla-v100", 8, "n1-standard-32"),
        ("l4", "nvidia-l4", 1, "g2-standard-4"),
        ("l4:2", "nvidia-l4", 2, "g2-standard-24"),
        ("a100", "nvidia-tesla-a100", 1, "a2-highgpu-1g"),
        ("a100-40gb:16", "nvidia-tesla-a100", 16, "a2-megagpu-16g"),
        ("a100-80gb", "nvidia-a100-80gb", 1, "a2-ultragpu-1g"),
        ("h100:8", "nvidia-h100-80gb", 8, "a3-highgpu-8g"),
        ("h100-mega:8", "nvidia-h100-mega-80gb", 8, "a3-megagpu-8g"),
        ("h200:8", "nvidia-h200-141gb", 8, "a3-ultragpu-8g"),
        ("b200:8", "nvidia-b200", 8, "a4-highgpu-8g"),
    ],
)
def test_a_gpu_gets_the_smallest_sensible_machine(
    text: str, accelerator: str, count: int, machine: str
) -> None:
    gpu = Gpu.parse(text)
    assert gpu == Gpu(accelerator, count)
    chosen = choose_machine(gpu, None)
    assert chosen.name == machine
    assert price_table.zones_with(gpu, chosen.name), "the table knows a zone that has it"


@pytest.mark.parametrize(
    ("text", "says", "hint"),
    [
        ("t5", "no GPU 't5'", "t4, p4"),
        ("a1000", "no GPU 'a1000'", "Did you mean 'a100'?"),
        ("rtx4090", "no GPU 'rtx4090'", "t4, p4"),
        ("t4:3", "3 x T4: it can have 1, 2 or 4", "--gpu t4:2"),
        ("t4:0", "'0' is not a number", "--gpu t4:1"),
        ("t4:", "'' is not a number", "--gpu t4:1"),
        ("t4:two", "'two' is not a number", "--gpu t4:1"),
        ("h200", "a single H200", "--gpu h200:8"),
        ("l4:16", "16 x L4: it can have 1, 2, 4 or 8", "--gpu l4:8"),
        ("none:2", "no GPU 'none'", "none"),
    ],
)
def test_what_does_not_exist_names_what_does(text: str, says: str, hint: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        Gpu.parse(text)
    assert says in refusal.value.message
    assert hint in refusal.value.hint


@pytest.mark.parametrize(
    ("gpu", "machine", "says", "hint"),
    [
        ("t4", "e2-standard-4", "needs an N1 machine type", "--machine n1-standard-4"),
        ("t4", "g2-standard-8", "needs an N1 machine type", "--gpu l4"),
        ("t4", "n1-standard-64", "at most 48 vCPUs", "--gpu t4:2"),
        ("p100", "n1-highmem-32", "at most 16 vCPUs and 104 GB", "n1-standard-4"),
        ("v100", "n1-custom-12-81920-ext", "12 vCPUs and 78 GB", "n1-standard-4"),
        ("l4", "g2-standard-24", "has 2 x L4, not 1", "--gpu l4:2"),
        ("l4", "n1-standard-8", "only with g2-standard-4", "--machine g2-standard-4"),
        ("a100:2", "a2-highgpu-1g", "has 1 x A100", "--machine a2-highgpu-2g"),
        ("none", "g2-standard-4", "comes with L4", "--gpu l4"),
        ("t4", "custom-64-65536", "at most 48 vCPUs", "n1-standard-4"),
        ("t4", "custom-3-16384", "an even number up to 96", "custom-4-16384"),
        ("t4", "custom-4-16000", "a multiple of 256", "custom-4-16384"),
        ("t4", "custom-2-49152", "1.8 to 13 GB; more with -ext", "VCPUS-MB"),
        ("t4", "n1-standrd-4", "no machine type n1-standrd-4", "Did you mean n1-standard-4?"),
        ("t4", "n1-standard-5", "no machine type n1-standard-5", "N = 1, 2, 4, 8"),
        ("none", "e2-standard-6", "no machine type e2-standard-6", "N = 2, 4, 8"),
        ("gb200:4", "a4-highgpu-8g", "comes only with a4x-highgpu-4g", "a4x"),
        ("t4", "big", "not a machine type's name", "n1-standard-8"),
    ],
)
def test_a_machine_that_cannot_carry_the_gpu_is_refused(
    gpu: str, machine: str, says: str, hint: str
) -> None:
    with pytest.raises(InvalidInput) as refusal:
        choose_machine(Gpu.parse(gpu), machine)
    assert says in refusal.value.message
    assert hint in refusal.value.hint


@pytest.mark.parametrize(
    ("gpu", "machine"),
    [
        ("t4", "n1-highmem-8"),
        ("t4", "n1-custom-6-20480"),
        ("t4", "custom-4-16384"),
        ("t4", "custom-2-49152-ext"),
        ("rtx-pro-6000:2", "g4-standard-96"),
        ("gb200:4", "a4x-highgpu-4g"),
        ("t4:4", "n1-standard-96"),
        ("l4", "g2-standard-32"),
        ("none", "n2-standard-8"),
        ("none", "e2-micro"),
    ],
)
def test_a_chosen_machine_that_fits_is_taken(gpu: str, machine: str) -> None:
    assert choose_machine(Gpu.parse(gpu), machine).name == machine


def test_no_gpu_is_a_small_cpu_machine() -> None:
    assert Gpu.parse("none") is None
    assert choose_machine(None, None).name == "e2-standard-4"


@pytest.mark.parametrize(
    ("name", "vcpus", "mem_gb"),
    [
        ("n1-standard-8", 8, 30.0),
        ("n1-highmem-16", 16, 104.0),
        ("g2-standard-12", 12, 48.0),
        ("n1-custom-4-16384", 4, 16.0),
        ("custom-4-16384", 4, 16.0),
        ("custom-2-49152-ext", 2, 48.0),
        ("g4-standard-48", 48, 180.0),
        ("custom-3-1", 3, 1 / 1024),  # of a VM that is there: taken as it is
        ("c3-standard-8", None, None),
    ],
)
def test_size_is_read_from_the_name(name: str, vcpus: int | None, mem_gb: float | None) -> None:
    machine = MachineType.parse(name)
    assert (machine.vcpus, machine.mem_gb) == (vcpus, mem_gb)


def test_every_row_of_the_table_is_a_machine_that_the_rules_allow() -> None:
    names = {model.accelerator for model in MODELS.values()}
    for offer in price_table.offers():
        assert offer.accelerator in names
        gpu = Gpu(offer.accelerator, offer.gpu_count)
        assert choose_machine(gpu, offer.machine).name == offer.machine
        inside = built_in_gpu(offer.machine)
        assert inside is None or inside == gpu


@pytest.mark.parametrize("name", ["custom-4-15360", "n1-custom-4-15360", "custom-2-49152-ext"])
def test_a_custom_host_has_the_zones_and_quota_of_n1_and_no_invented_price(name: str) -> None:
    t4 = Gpu("nvidia-tesla-t4")
    machine = MachineType.parse(name)
    assert machine.family == "n1"
    assert "europe-west1-b" in price_table.rows(t4, name)
    for gpu in (t4, None):
        for spot in (False, True):
            priced = price_table.price("europe-west1-b", name, gpu, spot=spot)
            assert priced.usd_per_hour is None
        wanted = {need.metric: need.amount for need in needs(gpu, machine, spot=False)}
        assert wanted["CPUS"] == machine.vcpus


def test_what_the_table_does_not_list_has_no_invented_price() -> None:
    for model in MODELS.values():
        gpu = Gpu(model.accelerator, model.counts[0])
        host = choose_machine(gpu, None).name
        assert bool(price_table.zones_with(gpu, host)) is model.listed
        if not model.listed:
            assert str(price_table.price("us-central1-b", host, gpu, spot=False)) == "price unknown"


def test_a_name_that_no_zone_has_gets_the_nearest_one() -> None:
    assert unknown_machine("e2-standrd-4", ()).hint == "Did you mean e2-standard-4?"
    assert "machine-types list" in unknown_machine("zz-top-9", ()).hint
    asked = {"c3-standard-8", "e2-micro", "e2-standrd-4"}
    known = {"custom-4-16384", "n2-custom-4-16384", "n1-standard-4", "a2-highgpu-1g", "f1-micro"}
    assert {n for n in asked | known if price_table.knows_machine(MachineType.parse(n))} == known


def test_prices_carry_their_date_and_unknown_ones_say_so() -> None:
    t4 = Gpu.parse("t4")
    price = price_table.price("europe-west1-b", "n1-standard-4", t4, spot=False)
    assert price.usd_per_hour == pytest.approx(0.55901)
    assert "2026" in str(price)
    spot = price_table.price("europe-west1-b", "n1-standard-4", t4, spot=True)
    assert spot.usd_per_hour == pytest.approx(0.22716)
    assert "spot" in str(spot)
    h200 = Gpu.parse("h200:8")
    blank = price_table.price("europe-west1-b", "a3-ultragpu-8g", h200, spot=False)
    assert str(blank) == "price unknown"
    assert (
        str(price_table.price("asia-east1-a", "n1-standard-4", t4, spot=False)) == "price unknown"
    )
    assert str(price_table.price("europe-west1-b", "e2-standard-4", None, spot=False)) == (
        "price unknown"
    )


@pytest.mark.parametrize(
    ("text", "source"),
    [
        (
            "pytorch",
            "projects/deeplearning-platform-release/global/images/family/"
            "pytorch-2-9-cu129-ubuntu-2404-nvidia-580",
        ),
        (
            "ubuntu-2404-lts-amd64",
            "projects/ubuntu-os-cloud/global/images/family/ubuntu-2404-lts-amd64",
        ),
        ("debian-cloud/debian-12", "projects/debian-cloud/global/images/family/debian-12"),
    ],
)
def test_an_image_is_a_family_of_a_project(text: str, source: str) -> None:
    assert Image.parse(text).source == source


@pytest.mark.parametrize("text", ["pytroch", "a/b/c", "/x", "x/", ""])
def test_an_unknown_image_names_the_known_ones(text: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        Image.parse(text)
    assert "pytorch" in refusal.value.hint


def test_an_old_gpu_under_a_new_pytorch_is_warned_about() -> None:
    pytorch = Image.parse("pytorch")
    machine = MachineType.parse("n1-standard-4")
    assert "P100" in cautions(Gpu.parse("p100"), machine, pytorch, spot=False)[0]
    assert cautions(Gpu.parse("t4"), machine, pytorch, spot=False) == []
    a3 = MachineType.parse("a3-highgpu-1g")
    assert "--spot" in cautions(Gpu.parse("h100"), a3, pytorch, spot=False)[0]
    assert cautions(Gpu.parse("h100"), a3, pytorch, spot=True) == []
