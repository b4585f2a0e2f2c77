"""Google's GPUs: what each is called, how many fit, and on which hosts they go."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from vmctl.domain.errors import InvalidInput
from vmctl.domain.names import find_nearest


@dataclass(frozen=True, slots=True)
class HostLimit:
    """The largest N1 host that a number of GPUs may be attached to."""

    vcpus: int
    mem_gb: float


@dataclass(frozen=True, slots=True)
class GpuModel:
    """One kind of GPU: attached to an N1 host of one's choice, or built into a machine type."""

    name: str
    title: str
    accelerator: str
    n1_limits: Mapping[int, HostLimit] = field(default_factory=dict)
    machines: Mapping[int, tuple[str, ...]] = field(default_factory=dict)  # smallest first
    capability: tuple[int, int] = (7, 5)
    listed: bool = True  # in the shipped table; else Google is asked where it is

    @property
    def counts(self) -> tuple[int, ...]:
        """How many of it one machine can have."""
        return tuple(sorted(self.n1_limits or self.machines))

    @property
    def attaches_to_n1(self) -> bool:
        """Whether it goes on an N1 host rather than coming with a machine type of its own."""
        return bool(self.n1_limits)


def _n1(**limits: tuple[int, float]) -> dict[int, HostLimit]:
    return {int(count[1:]): HostLimit(*limit) for count, limit in limits.items()}


def _by_count(pattern: str, *counts: int) -> dict[int, tuple[str, ...]]:
    return {count: (pattern.format(count),) for count in counts}


_L4_ALONE = tuple(f"g2-standard-{vcpus}" for vcpus in (4, 8, 12, 16, 32))

MODELS: Mapping[str, GpuModel] = {
    model.name: model
    for model in (
        GpuModel(
            "t4",
            "T4",
            "nvidia-tesla-t4",
            n1_limits=_n1(x1=(48, 312), x2=(48, 312), x4=(96, 624)),
        ),
        GpuModel(
            "p4",
            "P4",
            "nvidia-tesla-p4",
            n1_limits=_n1(x1=(24, 156), x2=(48, 312), x4=(96, 624)),
            capability=(6, 1),
        ),
        GpuModel(
            "p100",
            "P100",
            "nvidia-tesla-p100",
            n1_limits=_n1(x1=(16, 104), x2=(32, 208), x4=(96, 624)),
            capability=(6, 0),
        ),
        GpuModel(
            "v100",
            "V100",
            "nvidia-tesla-v100",
            n1_limits=_n1(x1=(12, 78), x2=(24, 156), x4=(48, 312), x8=(96, 624)),
            capability=(7, 0),
        ),
        GpuModel(
            "l4",
            "L4",
            "nvidia-l4",
            machines={
                1: _L4_ALONE,
                2: ("g2-standard-24",),
                4: ("g2-standard-48",),
                8: ("g2-standard-96",),
            },
            capability=(8, 9),
        ),
        GpuModel(
            "a100",
            "A100 40 GB",
            "nvidia-tesla-a100",
            machines=_by_count("a2-highgpu-{}g", 1, 2, 4, 8) | {16: ("a2-megagpu-16g",)},
            capability=(8, 0),
        ),
        GpuModel(
            "a100-80gb",
            "A100 80 GB",
            "nvidia-a100-80gb",
            machines=_by_count("a2-ultragpu-{}g", 1, 2, 4, 8),
            capability=(8, 0),
        ),
        GpuModel(
            "h100",
            "H100 80 GB",
            "nvidia-h100-80gb",
            machines=_by_count("a3-highgpu-{}g", 1, 2, 4, 8),
            capability=(9, 0),
        ),
        GpuModel(
            "h100-mega",
            "H100 80 GB (mega)",
            "nvidia-h100-mega-80gb",
            machines=_by_count("a3-megagpu-{}g", 8),
            capability=(9, 0),
        ),
        GpuModel(
            "h200",
            "H200 141 GB",
            "nvidia-h200-141gb",
            machines=_by_count("a3-ultragpu-{}g", 8),
            capability=(9, 0),
        ),
        GpuModel(
            "b200",
            "B200",
            "nvidia-b200",
            machines=_by_count("a4-highgpu-{}g", 8),
            capability=(10, 0),
        ),
        GpuModel(
            "gb200",
            "GB200",
            "nvidia-gb200",
            machines=_by_count("a4x-highgpu-{}g", 4),
            capability=(10, 0),
            listed=False,
        ),
        GpuModel(
            "rtx-pro-6000",
            "RTX PRO 6000",
            "nvidia-rtx-pro-6000",
            machines={count: (f"g4-standard-{48 * count}",) for count in (1, 2, 4, 8)},
            capability=(12, 0),
            listed=False,
        ),
    )
}

_ALIASES = {
    "a100-40gb": "a100",
    "h100-80gb": "h100",
    "h100-mega-80gb": "h100-mega",
    "h200-141gb": "h200",
    **{model.accelerator: name for name, model in MODELS.items()},
}


@dataclass(frozen=True, slots=True)
class Gpu:
    """A number of GPUs of one kind, by Google's accelerator name."""

    accelerator: str
    count: int = 1

    @property
    def model(self) -> GpuModel | None:
        """What is known of this kind; None for one that Google added later."""
        return MODELS.get(_ALIASES.get(self.accelerator, ""))

    @property
    def name(self) -> str:
        """The short name that a user types, such as "t4"."""
        return self.model.name if self.model else self.accelerator

    @property
    def title(self) -> str:
        """For people: "T4", or "2 x L4"."""
        title = self.model.title if self.model else self.accelerator
        return title if self.count == 1 else f"{self.count} x {title}"

    def __str__(self) -> str:
        return self.name if self.count == 1 else f"{self.name}:{self.count}"

    @staticmethod
    def parse(text: str) -> Gpu | None:
        """ "t4", "t4:2" or "none" (None); raises InvalidInput naming what there is instead."""
        word, colon, number = text.strip().lower().partition(":")
        if word in {"none", "no", ""} and not colon:
            return None
        model = MODELS.get(_ALIASES.get(word, word))
        if model is None:
            close = find_nearest(word, [*MODELS, *_ALIASES])
            known = f"GPUs: {', '.join(MODELS)}; or none."
            raise InvalidInput(
                f"There is no GPU '{word}' on Compute Engine.",
                hint=f"Did you mean '{close}'? {known}" if close else known,
            )
        if colon and not re.fullmatch(r"[1-9][0-9]{0,2}", number):
            raise InvalidInput(
                f"'{number}' is not a number of GPUs.",
                hint=f"Write the number after the colon: --gpu {model.name}:{model.counts[0]}",
            )
        if not colon and 1 not in model.counts:
            # H200 and B200 come eight at a time: silently choosing eight would cost a fortune
            raise InvalidInput(
                f"A machine cannot have a single {model.title}: it comes "
                f"{_choice(model.counts)} at a time.",
                hint=f"If that is what you want: --gpu {model.name}:{model.counts[0]}",
            )
        count = int(number) if colon else 1
        if count not in model.counts:
            raise InvalidInput(
                f"One machine cannot have {count} x {model.title}: it can have "
                f"{_choice(model.counts)}.",
                hint=f"For example: --gpu {model.name}:{_closest(count, model.counts)}",
            )
        return Gpu(model.accelerator, count)


def _choice(counts: tuple[int, ...]) -> str:
    *most, last = map(str, counts)
    return f"{', '.join(most)} or {last}" if most else last


def _closest(count: int, counts: tuple[int, ...]) -> int:
    return min(counts, key=lambda other: abs(other - count))
