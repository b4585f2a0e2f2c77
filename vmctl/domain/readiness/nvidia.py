"""What is asked of NVIDIA's driver on a VM, and what its answer means."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Driver:
    """What nvidia-smi reports: one name per GPU, and the driver's version."""

    names: tuple[str, ...]
    version: str

    @property
    def is_simulated(self) -> bool:
        """Whether the stand-in of the embedded Compute Engine answered, which says so itself."""
        return any("simulated" in name for name in self.names) or "simulated" in self.version

    @staticmethod
    def parse(answer: str) -> Driver | None:
        """From lines like "Tesla T4, 580.95.05"; None when there is no such line."""
        rows = [line.rsplit(",", 1) for line in answer.splitlines() if "," in line]
        if not rows:
            return None
        return Driver(tuple(name.strip() for name, _ in rows), rows[0][1].strip())
