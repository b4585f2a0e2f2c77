"""Images: short names for the families that vmctl knows, or any `project/family`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from vmctl.domain.errors import InvalidInput
from vmctl.domain.names import find_nearest


@dataclass(frozen=True, slots=True)
class Image:
    """The newest image of a family, which Google resolves when the disk is made."""

    project: str
    family: str

    @property
    def source(self) -> str:
        """What `initializeParams.sourceImage` takes."""
        return f"projects/{self.project}/global/images/family/{self.family}"

    @staticmethod
    def parse(text: str) -> Image:
        """ "pytorch", another known name or family, or "project/family"; raises InvalidInput."""
        word = text.strip()
        if word in NAMED:
            return NAMED[word]
        if word in _PROJECT_OF:
            return Image(_PROJECT_OF[word], word)
        project, slash, family = word.partition("/")
        if (
            slash
            and re.fullmatch(r"[a-z0-9.:-]+", project)
            and re.fullmatch(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", family)
        ):
            return Image(project, family)
        close = find_nearest(word, NAMED)
        meant = f"Did you mean '{close}'? " if close else ""
        raise InvalidInput(
            f"vmctl knows no image '{word}'.",
            hint=f"{meant}Known: {', '.join(NAMED)}; or write PROJECT/FAMILY.",
        )


NAMED = {
    "pytorch": Image("deeplearning-platform-release", "pytorch-2-9-cu129-ubuntu-2404-nvidia-580"),
    "ubuntu": Image("ubuntu-os-cloud", "ubuntu-2404-lts-amd64"),
    "debian": Image("debian-cloud", "debian-12"),
    "slurm": Image("vmctl-emulator", "slurm"),  # a login node of two compute nodes
}
_PROJECT_OF = {image.family: image.project for image in NAMED.values()}

# PyTorch's builds for CUDA 12.8 and later have no code for GPUs older than this.
OLDEST_CAPABILITY_OF_PYTORCH_IMAGE = (7, 5)


def brings_torch(image: Image) -> bool:
    """Whether torch is in the image."""
    if image == NAMED["slurm"]:
        return True
    return image.project == "deeplearning-platform-release" and image.family.startswith("pytorch")


def brings_driver(image: Image) -> bool:
    """Whether NVIDIA's driver is in the image, or is installed by it at the first boot."""
    return image.project == "deeplearning-platform-release" or "nvidia" in image.family
