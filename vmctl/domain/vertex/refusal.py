"""What a refusal by Cloud Storage or Vertex AI means, in words, with the next command."""

from __future__ import annotations

import re

from vmctl.domain.errors import AccessDenied, InvalidInput, NoCapacity, NotFound, VmctlError
from vmctl.domain.google.api_errors import ApiError, as_error, quota_page
from vmctl.domain.settings.vertex_settings import VertexSettings

ROLES = "Vertex AI User, Storage Object Admin and Service Account User"
_QUOTA = re.compile(r"aiplatform\.googleapis\.com/(\w+)")
_OFF = {"accessNotConfigured", "SERVICE_DISABLED"}
STORAGE, VERTEX = "Cloud Storage", "Vertex AI"


def explain(
    failure: ApiError, project: str, settings: VertexSettings, service: str = VERTEX
) -> VmctlError:
    """A refusal as an error of vmctl's tree; what is not known here is said in Google's words."""
    name = "storage" if service == STORAGE else "aiplatform"
    if failure.code in _OFF:
        return AccessDenied(
            f"The {service} API is off in the project {project}.",
            hint=f"Turn it on: gcloud services enable {name}.googleapis.com --project {project}",
        )
    quota = _QUOTA.search(failure.message)
    if quota:
        return _quota_error(quota[1], project, settings.region)
    if failure.http_status == 403 and failure.code != "BILLING_DISABLED":
        return AccessDenied(
            f"{service} refuses this account: {failure.message}",
            hint=f"It needs the roles {ROLES} in {project}: gcloud projects add-iam-policy-binding",
        )
    if service == STORAGE and failure.http_status == 404:
        return bucket_missing(settings)
    if service == VERTEX and failure.http_status == 400:
        return _bad_request(failure, settings)
    return as_error(failure, project=project)


def bucket_missing(settings: VertexSettings) -> NotFound:
    """The target's bucket does not exist."""
    return NotFound(
        f"The bucket gs://{settings.bucket} does not exist.",
        hint=f"Make it: gcloud storage buckets create gs://{settings.bucket} "
        f"--location {settings.region}",
    )


def check_location(location: str, settings: VertexSettings) -> None:
    """Raises InvalidInput for a bucket in another region, whose data would travel at a price.

    A multi-region such as EU is near each region in it.
    """
    place, region = location.lower(), settings.region
    continents = {"eu": "europe-", "us": "us-", "asia": "asia-"}
    if place == region or region.startswith(continents.get(place, "-")):
        return
    if len(place) <= 6 and place[-1:].isdigit():
        return  # a pair of regions, such as EUR4
    raise InvalidInput(
        f"The bucket gs://{settings.bucket} is in {place}, the jobs run in {region}.",
        hint=f'Write region = "{place}", or make a bucket there: gcloud storage buckets create '
        f"gs://NAME --location {region}",
    )


def _quota_error(metric: str, project: str, region: str) -> NoCapacity:
    return NoCapacity(
        f"The quota {metric} of the project {project} is too small in {region}: it starts at 0.",
        hint=f"Ask for more at {quota_page(project)} (filter: {metric}). Google takes about two "
        "working days to answer, and up to five more until it counts. Meanwhile: "
        'gpu = "none", or a VM: vmctl --on vm up',
    )


def _bad_request(failure: ApiError, settings: VertexSettings) -> VmctlError:
    text = failure.message
    gpu = settings.gpu
    if gpu is not None and re.search(r"[Aa]ccelerator|[Mm]achine type", text):
        return NoCapacity(
            f"Vertex AI has no {gpu.title} with {settings.machine} in {settings.region}: {text}",
            hint="Choose another region, gpu or machine in vmctl.toml, and a bucket there.",
        )
    if re.search(r"[Ii]mage", text):
        return NotFound(
            f"Vertex AI cannot read the container's image: {text}",
            hint="Choose another tag: gcloud artifacts docker tags list "
            "europe-docker.pkg.dev/vertex-ai/training/pytorch-gpu.2-4.py310",
        )
    return InvalidInput(f"Vertex AI refused the request: {text}", hint="Check [targets] there.")
