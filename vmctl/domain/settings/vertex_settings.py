"""A target of kind "vertex": the region, the bucket and the machine of Vertex AI's custom jobs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vmctl.domain.duration import parse_duration
from vmctl.domain.errors import InvalidInput
from vmctl.domain.machine.gpu import Gpu
from vmctl.domain.machine.machine_type import choose_machine
from vmctl.domain.settings.toml_values import check_table, check_type, refuse_unknown

TEXTS = ("region", "bucket", "gpu", "machine", "image", "service_account", "experiment", "timeout")
KEYS = {"kind", *TEXTS, "spot", "labels"}
DEFAULT_TIMEOUT_S = 24 * 3600.0
_LABEL = r"[a-z0-9_-]{0,63}"
_FORMS = {
    "region": (r"[a-z]+-[a-z]+\d{1,2}", "europe-west4"),
    "bucket": (r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]", "gs://my-bucket"),
    "image": (r"[a-z0-9.-]+/[A-Za-z0-9._/-]+([:@][A-Za-z0-9._:-]+)?", "HOST/PROJECT/NAME:TAG"),
    "service_account": (r"[a-z0-9-]+@[a-z0-9.-]+", "trainer@my-project.iam.gserviceaccount.com"),
    "experiment": (r"[a-z0-9][a-z0-9-]{0,127}", "colorize"),
}


@dataclass(frozen=True, slots=True)
class VertexSettings:
    """What a custom job runs on; None leaves it to vmctl or to Google."""

    region: str
    bucket: str  # without gs://
    gpu: Gpu | None = None
    machine: str = "n1-standard-4"
    image: str | None = None
    service_account: str | None = None
    experiment: str | None = None
    timeout_s: float = DEFAULT_TIMEOUT_S
    spot: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)


def parse_vertex(name: str, table: dict[str, Any], file: str) -> VertexSettings:
    """A target's table; raises InvalidInput that names the key."""
    prefix = f"targets.{name}"
    refuse_unknown(table, KEYS, file=file, prefix=f"{prefix}.")
    for key, example in (("region", "europe-west4"), ("bucket", "gs://my-bucket")):
        if key not in table:
            raise InvalidInput(
                f"The target '{name}' in {file} has no {key}.",
                hint=f'Add to [{prefix}]: {key} = "{example}"',
            )
    text = {
        key: check_type(table[key], str, f"{prefix}.{key}", file) for key in TEXTS if key in table
    }
    text["bucket"] = text["bucket"].removeprefix("gs://").rstrip("/")
    for key, (form, example) in _FORMS.items():
        if key in text and not re.fullmatch(form, text[key]):
            raise InvalidInput(
                f"{prefix}.{key} in {file} cannot be {text[key][:80]!r}.",
                hint=f'Such as: {key} = "{example}"',
            )
    gpu = Gpu.parse(text.get("gpu", "none"))
    timeout = text.get("timeout")
    return VertexSettings(
        region=text["region"],
        bucket=text["bucket"],
        gpu=gpu,
        machine=_machine(gpu, text.get("machine")),
        image=text.get("image"),
        service_account=text.get("service_account"),
        experiment=text.get("experiment"),
        timeout_s=parse_duration(timeout, of=f"{prefix}.timeout") if timeout else DEFAULT_TIMEOUT_S,
        spot=check_type(table.get("spot", False), bool, f"{prefix}.spot", file),
        labels=_labels(table.get("labels", {}), f"{prefix}.labels", file),
    )


def _machine(gpu: Gpu | None, wanted: str | None) -> str:
    """The machine type; without a GPU and a wish the one of the courses."""
    if gpu is None and wanted is None:
        return "n1-standard-4"
    return choose_machine(gpu, wanted).name


def _labels(value: object, key: str, file: str) -> dict[str, str]:
    labels = check_table(value, key, file)
    for name, text in labels.items():
        fits = re.fullmatch(rf"(?!vmctl)[a-z]{_LABEL}", name) and isinstance(text, str)
        if not fits or not re.fullmatch(_LABEL, text):
            raise InvalidInput(
                f"{key} in {file} holds {name[:70]!r}, which is not a label of your own.",
                hint='Small letters, digits, "_" and "-": labels = { course = "dl-2026" }',
            )
    return labels
