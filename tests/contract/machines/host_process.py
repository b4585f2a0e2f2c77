"""A program that hosts machines, for tests that kill it or run it as another user.

It needs nothing but the machines' package beside it: `python host_process.py PACKAGE_DIR HOME
IMAGES PUBLIC_KEY COUNT` boots COUNT machines, prints one JSON line and lives until its standard
input ends; `prepare:NAME` as COUNT builds an image instead."""

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path


class Answers:
    """Metadata with one key for one user; guest attributes and exits are kept."""

    def __init__(self, key: str, user: str) -> None:
        self.key = key
        self.user = user
        self.attributes: dict[str, dict[str, str]] = {}

    def metadata(self, instance_id: str) -> dict[str, object]:
        attributes = {"ssh-keys": f"{self.user}:{self.key}"}
        return {"instance": {"id": instance_id, "attributes": attributes}, "project": {}}

    def put_guest_attribute(self, instance_id: str, path: str, value: str) -> bool:
        self.attributes.setdefault(instance_id, {})[path] = value
        return True

    def exited(self, instance_id: str, reason: str) -> None:
        print(json.dumps({"exited": instance_id, "reason": reason}), flush=True)


def main(package: str, home: str, images: str, key: str, count: str, user: str = "alice") -> None:
    sys.path.insert(0, str(Path(package).parent))
    machines = importlib.import_module(Path(package).name)
    answers = Answers(key, user)
    host = machines.MachineHost(Path(home), Path(images), answers)
    if count.startswith("prepare:"):
        image = importlib.import_module(f"{machines.__name__}.images.image")
        image.RECIPES["tiny"] = image.Recipe((), ("pip",), 0.1)
        host.prepare_image(count.removeprefix("prepare:"), lambda line: print(line, flush=True))
        return
    booted = []
    for number in range(int(count)):
        identity, disk = str(9000 + number), Path(home) / "machines" / f"disk-{number}"
        spec = machines.MachineSpec(
            identity, f"vm-{number}", f"vm-{number}.internal", disk, "base", None, None, 0
        )
        data = [
            machines.DataDisk(name, disk.with_name(f"{name}-{number}"), 10, False, True)
            for name in ("first", "gone", "later")
        ]
        place = host.boot(replace(spec, data_disks=tuple(data[:2])))
        host.attach(identity, data[2])
        host.detach(identity, "gone")
        public = (disk / "fs/etc/ssh/ssh_host_ed25519_key.pub").read_text().split()[1]
        booted.append([identity, place.nat_ip, place.ssh_port, public])
    print(json.dumps({"mode": host.mode, "note": host.note, "machines": booted}), flush=True)
    sys.stdin.read()
    host.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
