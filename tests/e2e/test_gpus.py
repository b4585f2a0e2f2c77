"""`vmctl gpus`: what there is, where, at what price; with and without an account."""

from __future__ import annotations

from pathlib import Path

from tests.harness.laptop import Laptop, rows


def test_without_credentials_the_table_answers_and_says_so(anonymous: Laptop, folder: Path) -> None:
    bare = {"PATH": "/usr/bin:/bin"}
    words = ("gpus", "--region", "europe-west1")
    done = anonymous(*words, cwd=folder, environ=bare)
    first, *lines = rows(done.stdout)
    assert first == ["GPU", "ZONE", "MACHINE", "ON", "DEMAND", "SPOT"]
    assert ["t4", "europe-west1-b", "n1-standard-4", "$0.559/h", "$0.227/h"] in lines
    assert not [line for line in lines if line[0] in {"v100", "a100"}]
    assert "without asking Google" in done.stderr
    assert "2026-07-30" in done.stderr
    told = anonymous.json(*words, cwd=folder, environ=bare)
    assert told["asked_google"] is False
    assert {offer["offered"] for offer in told["offers"]} == {None}


def test_with_an_account_offers_and_quotas_are_google_s(laptop: Laptop, folder: Path) -> None:
    told = laptop.json("gpus", "--gpu", "l4:2", cwd=folder)
    assert told["asked_google"] is True
    assert told["all_regions_limit"] == 128
    assert {offer["machine_type"] for offer in told["offers"]} == {"g2-standard-24"}
    assert {offer["quota_metric"] for offer in told["offers"]} == {"NVIDIA_L4_GPUS"}
    assert {offer["quota_limit"] for offer in told["offers"]} == {64}
    assert all(offer["offered"] for offer in told["offers"])
    prices = [offer["usd_per_hour"] for offer in told["offers"]]
    known = [usd for usd in prices if usd is not None]
    assert known == sorted(known)
    assert prices[: len(known)] == known


def test_spot_is_sorted_by_spot_and_shows_its_quota(laptop: Laptop, folder: Path) -> None:
    done = laptop("gpus", "--gpu", "t4", "--spot", cwd=folder)
    assert "SPOT QUOTA" in done.stdout
    told = laptop.json("gpus", "--gpu", "t4", "--spot", cwd=folder)
    prices = [offer["spot_usd_per_hour"] for offer in told["offers"]]
    assert prices == sorted(prices)
    assert told["offers"][0]["quota_metric"] == "PREEMPTIBLE_NVIDIA_T4_GPUS"


def test_what_does_not_exist_names_what_does(laptop: Laptop, folder: Path) -> None:
    assert "Did you mean 'a100'" in laptop("gpus", "--gpu", "a1000", cwd=folder, code=2).stderr
    gone = laptop("gpus", "--gpu", "v100", "--region", "europe-west1", cwd=folder, code=2).stderr
    assert "europe-west4" in gone
    assert "Did you mean europe-west1?" in (
        laptop("gpus", "--region", "europe-wset1", cwd=folder, code=2).stderr
    )
