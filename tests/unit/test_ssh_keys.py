"""Login keys with an end, in Google's format."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

from vmctl.domain.login.ssh_keys import expiry_of, key_entry, merged_keys, time_left

NOW = datetime(2026, 11, 30, 10, 0, tzinfo=UTC)
KEY = "ssh-ed25519 AAAAC3Nz me@laptop"


def test_an_entry_is_googles_format_to_the_letter() -> None:
    berlin = timezone(timedelta(hours=1))
    entry = key_entry("ada", KEY, datetime(2026, 12, 1, 11, 0, tzinfo=berlin))
    assert entry == (
        "ada:ssh-ed25519 AAAAC3Nz google-ssh "
        '{"userName":"ada","expireOn":"2026-12-01T10:00:00+0000"}'
    )
    assert expiry_of(entry) == datetime(2026, 12, 1, 10, 0, tzinfo=UTC)


def test_renewing_replaces_the_same_key_and_drops_expired_ones() -> None:
    old = key_entry("ada", KEY, NOW + timedelta(hours=1))
    over = key_entry("bob", "ssh-ed25519 BBBB", NOW - timedelta(hours=1))
    forever = "eve:ssh-rsa CCCC eve@pc"
    new = key_entry("ada", KEY, NOW + timedelta(hours=24))
    assert merged_keys("\n".join([old, over, forever, ""]), new, NOW) == f"{forever}\n{new}"


def test_time_left_of_a_key() -> None:
    entry = key_entry("ada", KEY, NOW + timedelta(hours=3))
    assert time_left(entry, "ada", KEY, NOW) == timedelta(hours=3)
    assert time_left(entry, "bob", KEY, NOW) == timedelta(0)
    assert time_left(entry, "ada", "ssh-ed25519 OTHER", NOW) == timedelta(0)
    assert time_left("", "ada", KEY, NOW) == timedelta(0)
    assert time_left("ada:ssh-ed25519 AAAAC3Nz x", "ada", KEY, NOW) == timedelta.max
    assert time_left("ada:ssh-ed25519 AAAAC3Nz google-ssh {broken", "ada", KEY, NOW) == (
        timedelta.max
    )
