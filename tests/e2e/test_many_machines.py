"""Many machines at once on this computer: each is itself, all answer at the same time."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.harness.cloud import LocalCloud
from tests.harness.machine_processes import machines_of

COUNT = 20
ABREAST = 4  # commands that bring machines up side by side

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


class Room:
    """So many machines, each of a project of its own."""

    def __init__(self, cloud: LocalCloud, count: int) -> None:
        self._cloud = cloud
        self.names = [f"m{number:02d}" for number in range(count)]

    def for_all(self, *words: str, abreast: int | None = None) -> list[str]:
        """Run a command for every machine side by side; what each printed."""
        with ThreadPoolExecutor(abreast or len(self.names)) as hands:
            done = hands.map(lambda name: self._cloud("-n", name, *words), self.names)
            return [one.stdout.strip() for one in done]

    @property
    def emulator(self) -> int:
        return int(self._cloud.endpoint.about["pid"])


@pytest.fixture(
    scope="module", params=[3, pytest.param(COUNT, marks=pytest.mark.exhaustive)], ids=str
)
def room(request: pytest.FixtureRequest) -> Iterator[Room]:
    toml = '[vm]\nimage = "debian-cloud/debian-12"\ngpu = "none"\n'
    with LocalCloud.opened("room", toml=toml) as cloud:
        made = Room(cloud, request.param)
        made.for_all("up", abreast=ABREAST)
        yield made


def test_each_answers_for_itself_while_all_are_asked(room: Room) -> None:
    assert room.for_all("exec", "hostname") == [f"tester-{name}" for name in room.names]


def test_each_keeps_its_own_files_and_its_own_port(room: Room) -> None:
    write = "echo $(hostname) > ~/mine; cd ~; (python3 -m http.server 8080 --bind 127.0.0.1 "
    write += ">/dev/null 2>&1 </dev/null &); cat ~/mine"
    own = [f"tester-{name}" for name in room.names]
    assert room.for_all("exec", "--", "sh", "-c", write) == own
    read = "for i in $(seq 300); do curl -sf http://127.0.0.1:8080/mine && exit; sleep 0.1; done"
    assert room.for_all("exec", "--", "sh", "-c", read) == own


def test_each_has_a_sandbox_and_a_network_of_its_own(room: Room) -> None:
    machines = machines_of(room.emulator)
    assert len(machines) == len(room.names)
    for inside in machines:
        programs = [one.words[0].rpartition("/")[2] for one in inside]
        assert programs.count("bwrap") >= 1
        assert programs.count("slirp4netns") <= 1
        assert sum(one.pss_mib for one in inside) > 0


def test_all_go_at_once(room: Room) -> None:
    room.for_all("down", "--delete", "--yes")
    assert machines_of(room.emulator) == []
