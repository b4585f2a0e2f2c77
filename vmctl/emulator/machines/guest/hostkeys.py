"""A machine's SSH host keys: made once per instance id, published through guest attributes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .processes import Processes

# As an image makes them whose guest agent has `host_key_types = ecdsa,ed25519`: Google's default
# has RSA, too, which cost half a second of processor time at a creation, as much as all the rest.
TYPES = ("ed25519", "ecdsa")


class HostKeys:
    """Keys in `folder`, as ssh-keygen makes them; a file there names their instance."""

    def __init__(self, folder: Path, instance_id: str, comment: str, processes: Processes) -> None:
        self._folder = folder
        self._comment = comment
        self._processes = processes
        self._owner = folder / "ssh_host_keys.instance"
        self._instance_id = instance_id

    def make_first(self) -> None:
        """Makes this instance's Ed25519 key; removes keys of another instance (a copied disk)."""
        self._folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        known = self._owner.read_text().strip() if self._owner.exists() else ""
        if known != self._instance_id:
            for old in self._folder.glob("ssh_host_*_key*"):
                old.unlink()
            self._make(TYPES[0])
            self._owner.write_text(self._instance_id + "\n")

    def make_rest_and_publish(
        self, publish: Callable[[str, str], bool], say: Callable[[str], None]
    ) -> None:
        """Publishes each type once per instance id, then prints the keys on the serial port."""
        marker = self._folder / "ssh_host_keys.published"
        fresh = not marker.exists() or marker.read_text().strip() != self._instance_id
        lines = []
        for kind in TYPES:
            self._make(kind)
            line = self._public(kind).read_text().strip()
            lines.append(line)
            name, blob = line.split()[:2]
            if fresh:
                publish(f"hostkeys/{name}", blob)
        marker.write_text(self._instance_id + "\n")
        say("-----BEGIN SSH HOST KEY FINGERPRINTS-----")
        for kind in TYPES:
            status, output = self._processes.run(
                ["ssh-keygen", "-l", "-f", str(self._public(kind))]
            )
            if status == 0:
                say(output.strip())
        say("-----END SSH HOST KEY FINGERPRINTS-----")
        say("-----BEGIN SSH HOST KEY KEYS-----")
        for line in lines:
            say(line)
        say("-----END SSH HOST KEY KEYS-----")

    def _public(self, kind: str) -> Path:
        return self._folder / f"ssh_host_{kind}_key.pub"

    def _make(self, kind: str) -> None:
        public = self._public(kind)
        if public.exists():
            return
        # Made under another name: a kill in the middle must not leave half a pair.
        partial = self._folder / f".new_{kind}"
        for leftover in (partial, Path(f"{partial}.pub")):
            leftover.unlink(missing_ok=True)
        status, output = self._processes.run(
            ["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", self._comment,
             "-f", str(partial)]
        )  # fmt: skip
        if status != 0:
            raise OSError(f"ssh-keygen -t {kind} failed: {output.strip()}")
        partial.rename(public.with_suffix(""))
        Path(f"{partial}.pub").rename(public)
