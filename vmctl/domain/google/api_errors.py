"""What a refusal by Google means for the next step: try elsewhere, try again, or stop.

The same refusals arrive in two ways: at once as an HTTP error, or later as the `error` of an
operation that ended with HTTP 200. Both become one Failure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from vmctl.domain.errors import (
    AccessDenied,
    Conflict,
    InvalidInput,
    NoCapacity,
    NotFound,
    Unreachable,
    VmctlError,
)


class Kind(StrEnum):
    """What to do about a failure."""

    STOCKOUT = "stockout"  # another zone may have one
    NOT_OFFERED = "not offered"  # the zone does not offer it at all, perhaps no more; another may
    QUOTA = "quota"  # another region may have quota left
    PERMANENT = "permanent"  # the same everywhere: stop
    TRANSIENT = "transient"  # the same request may succeed in a moment
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Quota:
    """A limit of the user's project that a request would exceed."""

    metric: str
    limit: float | None = None
    region: str | None = None  # None: over all regions
    family: str = ""  # of GPUs, where one metric counts several: NVIDIA_H100

    @property
    def where(self) -> str:
        """ "in europe-west1" or "over all regions", for a family of GPUs where one is meant."""
        place = f"in {self.region}" if self.region else "over all regions"
        return f"{place} for {self.family}" if self.family else place


@dataclass(frozen=True, slots=True)
class ApiError:
    """One refusal: its kind, Google's code for it and Google's own words."""

    kind: Kind
    code: str
    message: str
    http_status: int | None = None
    zones_available: tuple[str, ...] = ()
    quota: Quota | None = None
    url: str = ""  # the page that Google names to put it right

    @property
    def is_quota_everywhere(self) -> bool:
        """Whether a limit over all regions is the cause: no other region can help."""
        return self.kind is Kind.QUOTA and self.quota is not None and self.quota.region is None

    @property
    def first_sentence(self) -> str:
        """Google's own words, as far as the first full stop."""
        return self.message.partition(". ")[0].rstrip(".")


_STOCKOUT_CODES = (
    "ZONE_RESOURCE_POOL_EXHAUSTED",  # also …_WITH_DETAILS
    "REGION_RESOURCE_POOL_EXHAUSTED",
    "GPU_STOCKOUT",
)
_ELSEWHERE_CODES = {  # preempted while being created, or the zone cannot do it now
    "UNSUPPORTED_OPERATION",
    "RESOURCE_NOT_FOUND",
}
_QUOTA_CODES = {"QUOTA_EXCEEDED", "quotaExceeded", "QUOTA_EXCEEDED_WITH_DETAILS"}
_TRANSIENT_CODES = {
    "rateLimitExceeded",
    "userRateLimitExceeded",
    "RATE_LIMIT_EXCEEDED",
    "RESOURCE_OPERATION_RATE_EXCEEDED",
    "resourceNotReady",
    "RESOURCE_NOT_READY",
    "backendError",
    "internalError",
    "INTERNAL_ERROR",
}
_PERMANENT_CODES = {
    "INVALID_FIELD_VALUE",
    "INVALID_USAGE",
    "INVALID_ARGUMENT",
    "FAILED_PRECONDITION",
    "PERMISSIONS_ERROR",
    "CONDITION_NOT_MET",
    "OPERATION_CANCELED_BY_USER",
}
# "Accelerator type with name 'X' does not exist in zone 'Z'.", and other forms of it
_ABSENT = re.compile(
    r"(machineType|acceleratorType)'.*(does not exist|cannot be found)"
    r"|/(machineTypes|acceleratorTypes)/\S+ was not found",
    re.DOTALL,
)
# what no zone has for itself: a network, an image, a snapshot
_SHARED = re.compile(r"/(global|regions)/|/subnetworks/")
_API_DISABLED = {"accessNotConfigured", "SERVICE_DISABLED"}


def classify(
    code: str,
    message: str,
    *,
    http_status: int | None = None,
    details: tuple[Mapping[str, object], ...] = (),
) -> ApiError:
    """One refusal from its code, its text and its details, of either form."""
    reasons = {code, *_reasons(details)}
    metadata = _merged_metadata(details)
    quota = _quota(message, details)
    url = _link(message, metadata)
    kind = _kind(code, reasons, message, http_status, quota)
    zones = str(metadata.get("zonesAvailable", ""))
    return ApiError(
        kind=kind,
        code="BILLING_DISABLED" if _is_billing(reasons, message) else code,
        message=" ".join(message.split()),
        http_status=http_status,
        zones_available=tuple(zone.strip() for zone in zones.split(",") if zone.strip()),
        quota=quota,
        url=url,
    )


def _kind(
    code: str, reasons: set[str], message: str, http_status: int | None, quota: Quota | None
) -> Kind:
    if code.startswith(_STOCKOUT_CODES) or "STOCKOUT" in message:
        return Kind.STOCKOUT
    if reasons & _QUOTA_CODES or quota:
        return Kind.QUOTA
    if reasons & _TRANSIENT_CODES:
        return Kind.TRANSIENT
    if code == "RESOURCE_NOT_FOUND" and _SHARED.search(message):
        return Kind.PERMANENT
    if code in _ELSEWHERE_CODES:
        return Kind.STOCKOUT
    if http_status in {429, 500, 502, 503, 504}:
        return Kind.TRANSIENT
    if _ABSENT.search(message):
        return Kind.NOT_OFFERED
    if code in _PERMANENT_CODES:
        return Kind.PERMANENT
    if http_status == 400 and re.fullmatch(r"[A-Z][A-Z0-9_]+", code):
        return Kind.UNKNOWN  # an operation's own code: what it means elsewhere is not known
    if http_status is not None and 400 <= http_status < 500:
        return Kind.PERMANENT
    return Kind.UNKNOWN


def as_error(failure: ApiError, *, project: str, doing: str = "") -> VmctlError:
    """The failure as an error of vmctl's tree; `doing` says what was refused."""
    text = f"{doing}: {failure.message}" if doing else failure.message
    if failure.kind is Kind.QUOTA:
        return _quota_error(failure, project)
    if failure.kind is Kind.STOCKOUT:
        return NoCapacity(text, hint="Try another zone or region: vmctl up --region REGION")
    if failure.code == "BILLING_DISABLED":
        page = failure.url or f"https://console.cloud.google.com/billing/enable?project={project}"
        return AccessDenied(
            f"Billing is off for the project {project}.", hint=f"Turn it on at {page}"
        )
    if failure.code in _API_DISABLED:
        page = failure.url or (
            "https://console.cloud.google.com/apis/library/compute.googleapis.com"
            f"?project={project}"
        )
        return AccessDenied(
            f"The Compute Engine API is off in the project {project}.",
            hint=f"Turn it on at {page} and try again after a minute or two.",
        )
    if failure.http_status == 401:
        return AccessDenied(
            "Google did not accept the credentials: they are wrong or have expired.",
            hint="Log in again: gcloud auth application-default login",
        )
    if failure.code == "ACCESS_TOKEN_SCOPE_INSUFFICIENT":
        return AccessDenied(
            "The credentials do not include access to Compute Engine.",
            hint="Log in again: gcloud auth application-default login",
        )
    if failure.http_status == 403 and failure.kind is Kind.PERMANENT:
        return AccessDenied(
            text,
            hint=(
                "Ask for the role Compute Instance Admin: "
                f"https://console.cloud.google.com/iam-admin/iam?project={project}"
            ),
        )
    if failure.kind is Kind.TRANSIENT:
        return Unreachable(
            f"Compute Engine is temporarily unable to do this: {text}",
            hint="Try again in a minute.",
        )
    return _by_status(failure, text)


def advice(failure: ApiError, project: str) -> str:
    """What to do about one zone's refusal, in a few words."""
    if failure.kind is Kind.STOCKOUT:
        if failure.zones_available:
            return f"Google names {', '.join(failure.zones_available)}"
        return "try later (--wait 2h) or elsewhere (--any-region)"
    if failure.kind is Kind.QUOTA:
        where = "" if failure.is_quota_everywhere else ", or go elsewhere (--any-region)"
        return f"request more: {quota_page(project)}{where}"
    if failure.kind is Kind.NOT_OFFERED:
        return "see where it is offered: vmctl gpus"
    if failure.kind is Kind.UNKNOWN:
        return "unrecognised error: see Google's message"
    return as_error(failure, project=project).hint or "change the request"


def _by_status(failure: ApiError, text: str) -> VmctlError:
    if failure.http_status == 404 or failure.code == "RESOURCE_NOT_FOUND":
        hint = _about(failure.message) if _SHARED.search(failure.message) else ""
        return NotFound(text, hint=hint or "See what there is: vmctl ls")
    if failure.code in {"conditionNotMet", "CONDITION_NOT_MET"} and "onstraint" in failure.message:
        return _policy_error(failure.message)
    if failure.http_status in {409, 412}:
        return Conflict(text, hint="See what there is: vmctl status")
    if failure.http_status is not None and 400 <= failure.http_status < 500:
        return InvalidInput(f"Google refused the request: {text}", hint=_about(failure.message))
    return VmctlError(f"Google answered: {text} ({failure.code})", hint="vmctl status")


def _policy_error(message: str) -> AccessDenied:
    """An organisation's policy, and what to change for the ones that are met most."""
    if "requireOsLogin" in message:
        return AccessDenied(
            "Your organisation requires OS Login, and vmctl logs in with a key in the VM's "
            f"metadata: {message}",
            hint="Ask its administrator for an exception for this project: gcloud resource-manager "
            "org-policies disable-enforce compute.requireOsLogin --project PROJECT",
        )
    if "vmExternalIpAccess" in message:
        return AccessDenied(
            f"Your organisation does not allow this VM an external address: {message}",
            hint="Use none: vmctl up --no-external-address",
        )
    return AccessDenied(
        f"Your organisation's policy forbids this: {message}",
        hint="Ask its administrator for an exception for this project.",
    )


def quota_page(project: str) -> str:
    """Where a project's quotas are seen and raised."""
    return f"https://console.cloud.google.com/iam-admin/quotas?project={project}"


def _quota_error(failure: ApiError, project: str) -> NoCapacity:
    page = quota_page(project)
    if failure.quota is None:
        return NoCapacity(
            f"A quota of the project {project} is too small: {failure.message}",
            hint=f"Request more at {page}",
        )
    quota = failure.quota
    limit = "" if quota.limit is None else f" (limit {quota.limit:g} {quota.where})"
    return NoCapacity(
        f"The quota {quota.metric} of the project {project} is too small{limit}.",
        hint=f"Request more at {page} (a free trial cannot; upgrade it to a paid account first).",
    )


def _about(message: str) -> str:
    """The setting that a 400 most likely means."""
    for word, hint in (
        ("machineType", "Check --machine and --zone."),
        ("acceleratorType", "Check --gpu and --zone: not every zone has every GPU."),
        ("features are not compatible", "This machine type, GPU and disk cannot be combined."),
        ("sourceImage", "Check --image."),
        ("/images/", "Check --image."),
        ("network", "Check [vm] network and subnetwork in vmctl.toml."),
        ("diskSizeGb", "Check --disk-gb: it must be at least the image's size."),
        ("axRunDuration", "Check --max-hours."),
    ):
        if word in message:
            return hint
    return ""


def _is_billing(reasons: set[str], message: str) -> bool:
    return "BILLING_DISABLED" in reasons or "requires billing to be enabled" in message


# -- the details: {"errorInfo": {…}} in operations, {"@type": …} in HTTP errors ---------------


def _infos(details: tuple[Mapping[str, object], ...]) -> list[Mapping[str, object]]:
    infos: list[Mapping[str, object]] = []
    for detail in details:
        inner = detail.get("errorInfo")
        if isinstance(inner, Mapping):
            infos.append(inner)
        if "reason" in detail:
            infos.append(detail)
    return infos


def _reasons(details: tuple[Mapping[str, object], ...]) -> set[str]:
    return {str(info["reason"]) for info in _infos(details) if info.get("reason")}


def _merged_metadata(details: tuple[Mapping[str, object], ...]) -> dict[str, object]:
    merged: dict[str, object] = {}
    for info in _infos(details):
        for key in ("metadata", "metadatas"):
            found = info.get(key)
            if isinstance(found, Mapping):
                merged.update(found)
    return merged


def _quota(message: str, details: tuple[Mapping[str, object], ...]) -> Quota | None:
    """From `quotaInfo` where there is one, else from "Quota 'X' exceeded.  Limit: 1.0 in …"."""
    spoken = re.search(
        r"Quota '([A-Z0-9_-]+)' exceeded\.\s+Limit: ([0-9.]+)(?: in region ([a-z0-9-]+))?", message
    )
    for detail in details:
        info = detail.get("quotaInfo")
        if not isinstance(info, Mapping):
            continue
        dimensions = info.get("dimensions")
        dimensions = dimensions if isinstance(dimensions, Mapping) else {}
        region, family = dimensions.get("region"), dimensions.get("gpu_family")
        limit = info.get("limit")
        short = str(info.get("metricName", "")).rpartition("/")[2].upper()
        return Quota(
            metric=spoken[1] if spoken else short,
            limit=float(limit) if isinstance(limit, (int, float)) else None,
            region=str(region) if region else None,
            family=str(family) if family else "",
        )
    if spoken:
        return Quota(spoken[1], float(spoken[2].rstrip(".")), spoken[3])
    return None


def _link(message: str, metadata: Mapping[str, object]) -> str:
    activation = metadata.get("activationUrl")
    if activation:
        return str(activation)
    found = re.search(r"(?:visiting|visit) (https://\S+)", message)
    return found[1].rstrip(".,") if found else ""
