"""Images: Google's public ones, and a project's own, made from disks, snapshots and images."""

from __future__ import annotations

from ..clock import stamp
from ..cloud import disk_copies
from ..cloud.call import Call, Handler
from ..cloud.catalog import IMAGES, Image, find_image
from ..cloud.metadata import fingerprint
from ..errors import (
    ApiError,
    Json,
    bad_request,
    in_use,
    invalid_field,
    not_found,
    not_ready,
)
from ..http import paging, urls
from ..store import Key, Record
from . import instance_body, snapshots, stored

_SOURCES = ("sourceDisk", "sourceImage", "sourceSnapshot", "rawDisk")
_ON = ("PROVISIONING", "STAGING", "RUNNING", "STOPPING", "SUSPENDING", "SUSPENDED")
_PASSED_ON = ("description", "guestOsFeatures", "licenses")


async def insert(call: Call) -> Json:
    """images.insert: from a disk that no running instance uses, unless forced."""
    key = call.new_key("images")
    instance_body.check_name("resource.name", key.name)
    if "family" in call.body:
        instance_body.check_name("resource.family", call.body["family"])
    given = [name for name in _SOURCES if call.body.get(name)]
    if len(given) != 1:
        raise bad_request(
            "Exactly one of rawDisk.source, sourceDisk, sourceImage and sourceSnapshot must be "
            "specified."
        )
    if given == ["rawDisk"]:
        raise ApiError(400, "notImplemented", "The emulator has no images from rawDisk.")
    labels = instance_body.check_labels(call.body.get("labels", {}))
    field, text = f"resource.{given[0]}", call.body[given[0]]
    shown, content, machine, image = _read_source(call, field, text)
    least = int(shown.pop("diskSizeGb"))
    size = int(call.body.get("diskSizeGb", least))
    if size < least:
        raise invalid_field(
            "resource.diskSizeGb", size, f"Cannot be smaller than the source's size ({least} GB)."
        )
    body: Json = {
        "kind": "compute#image",
        "id": urls.new_id(),
        "creationTimestamp": stamp(call.cloud.clock.now()),
        "name": key.name,
        "sourceType": "RAW",
        "status": "PENDING",
        "archiveSizeBytes": "0",
        "diskSizeGb": str(size),
        "architecture": "X86_64",
        "storageLocations": call.body.get("storageLocations", ["eu"]),
        "selfLink": urls.ROOT + key.path,
        "labelFingerprint": fingerprint(labels),
    } | shown
    body |= {name: call.body[name] for name in (*_PASSED_ON, "family") if name in call.body}
    if labels:
        body["labels"] = labels
    private: Json = {"machine": machine, "image": image}
    if content is not None:
        private["fill_from"] = content
    record = Record(key, body, private)
    call.cloud.store.save(record)
    return call.start(
        "insert", key, body["id"], lambda op: disk_copies.fill_image(call.cloud, record)
    )


def _read_source(call: Call, field: str, text: str) -> tuple[Json, str | None, str, str]:
    """Return what an image shows of its source, whose content it has, and what boots from it."""
    try:
        reference = urls.Reference(text)
    except ValueError:
        raise invalid_field(field, text, "The URL is malformed.") from None
    if field == "resource.sourceImage":
        image = find(call, reference.project or call.project, reference.name)
        if image is None:
            raise invalid_field(field, text, "The referenced image resource cannot be found.")
        shown: Json = {"sourceImage": urls.ROOT + image.path, "sourceImageId": image.id}
        shown["diskSizeGb"] = image.size_gb
        return shown, image.content, image.machine, image.path
    if field == "resource.sourceSnapshot":
        source = snapshots.resolve(call, field, text)
        size = source.body["diskSizeGb"]
    else:
        key = Key(call.project, "disks", reference.scope or "", reference.name)
        disk = call.cloud.store.look_up(key)
        if disk is None:
            raise not_found(key.path)
        if disk.body["status"] != "READY":
            raise not_ready(disk.key.path)
        if call.query.get("forceCreate") != "true":
            _check_unused(call, disk)
        source, size = disk, disk.body["sizeGb"]
    name = field.removeprefix("resource.")
    shown = {name: source.body["selfLink"], f"{name}Id": source.body["id"], "diskSizeGb": size}
    return shown, source.body["id"], source.private["machine"], source.private["image"]


def _check_unused(call: Call, disk: Record) -> None:
    for instance in call.cloud.store.find("instances", disk.key.project, disk.key.scope):
        uses = instance.body["selfLink"] in disk.body.get("users", ())
        if uses and instance.body["status"] in _ON:
            raise in_use("disk", disk.key.path, instance.key.path)


def find(call: Call, project: str, name: str) -> Image | None:
    """Return an image by name, numeric id or `family/FAMILY`: a project's own, or a public one."""
    store = call.cloud.store
    if family := name.removeprefix("family/") if name.startswith("family/") else None:
        found = [r for r in store.find("images", project) if r.body.get("family") == family]
        found = [record for record in found if record.body["status"] == "READY"]
        own = max(found, key=lambda record: str(record.body["creationTimestamp"]), default=None)
    else:
        own = store.look_up(Key(project, "images", urls.GLOBAL, name))
    if own is None:
        return find_image(project, name)
    if own.body["status"] != "READY":
        raise not_ready(own.key.path)
    return Image(
        project,
        own.key.name,
        own.body.get("family", ""),
        own.body.get("description", ""),
        int(own.body["diskSizeGb"]),
        own.body["creationTimestamp"],
        own.private["machine"],
        content=own.body["id"],
    )


async def get(call: Call) -> Json:
    """images.get."""
    return _show(call, call.path["image"])


async def get_from_family(call: Call) -> Json:
    """images.getFromFamily: the newest."""
    return _show(call, f"family/{call.path['family']}")


async def get_family_view(call: Call) -> Json:
    """imageFamilyViews.get: the family's newest image as seen from a zone."""
    return {"image": _show(call, f"family/{call.path['family']}")}


async def list_images(call: Call) -> Json:
    """images.list: the public images or the own ones of the project that is asked."""
    found = [_describe(image) for image in IMAGES if image.project == call.project]
    found += [record.body for record in call.cloud.store.find("images", call.project)]
    return paging.make_page("compute#imageList", call.url_path, found, call.query)


def _show(call: Call, name: str) -> Json:
    if not name.startswith("family/"):
        own = call.cloud.store.look_up(Key(call.project, "images", urls.GLOBAL, name))
        if own is not None:
            return own.body
    image = find(call, call.project, name)
    if image is None:
        raise not_found(f"projects/{call.project}/global/images/{name}")
    if image.content is not None:
        return call.find("images", image.name).body
    return _describe(image)


def _describe(image: Image) -> Json:
    return {
        "kind": "compute#image",
        "id": image.id,
        "creationTimestamp": image.created,
        "name": image.name,
        "description": image.title,
        "sourceType": "RAW",
        "status": "READY",
        "archiveSizeBytes": str(image.size_gb * 100_000_000),
        "diskSizeGb": str(image.size_gb),
        "family": image.family,
        "architecture": "X86_64",
        "storageLocations": ["us", "eu", "asia"],
        "selfLink": urls.ROOT + image.path,
    }


METHODS: dict[str, Handler] = {
    "compute.images.insert": insert,
    "compute.images.delete": stored.delete_source("images", "image"),
    "compute.images.get": get,
    "compute.images.getFromFamily": get_from_family,
    "compute.images.list": list_images,
    "compute.images.setLabels": stored.set_labels("images"),
    "compute.imageFamilyViews.get": get_family_view,
}
