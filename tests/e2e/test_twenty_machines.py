"""Twenty machines at once on this computer: each is itself, all answer at the same time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from scripts.bench_machines import COUNT, Room, machines_of
from scripts.own_emulator import VMCTL, finished

NAMES = [f"m{number:02d}" for number in range(COUNT)]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def room() -> Iterator[Room]:
    with Room.opened() as made:
        made.fill(NAMES)
        yield made


def test_each_answers_for_itself_while_all_are_asked(room: Room) -> None:
    assert room.ask_all(NAMES, "hostname") == [f"bench-{name}" for name in NAMES]


def test_each_keeps_its_own_files_and_its_own_port(room: Room) -> None:
    write = "echo $(hostname) > ~/mine; cd ~; (python3 -m http.server 8080 --bind 127.0.0.1 "
    write += ">/dev/null 2>&1 </dev/null &); cat ~/mine"
    assert room.ask_all(NAMES, "sh", "-c", write) == [f"bench-{name}" for name in NAMES]
    read = "for i in $(seq 100); do curl -sf http://127.0.0.1:8080/mine && exit; sleep 0.1; done"
    assert room.ask_all(NAMES, "sh", "-c", read) == [f"bench-{name}" for name in NAMES]


def test_each_has_a_sandbox_and_a_network_of_its_own(room: Room) -> None:
    machines = machines_of(room.emulator)
    assert len(machines) == COUNT
    for inside in machines:
        programs = [one.words[0].rpartition("/")[2] for one in inside]
        assert programs.count("bwrap") >= 1
        assert programs.count("slirp4netns") <= 1
        assert sum(one.pss_mib for one in inside) > 0


def test_all_go_at_once(room: Room) -> None:
    going = [room.start(VMCTL, "-n", name, "down", "--delete", "--yes") for name in NAMES]
    for process in going:
        finished(process)
    assert machines_of(room.emulator) == []
