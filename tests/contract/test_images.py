"""A project's own images: made from disks, found by name and family, booted from, deleted."""

from __future__ import annotations

from typing import Any

import pytest
from googleapiclient.errors import HttpError

from .conftest import GUEST_ATTRIBUTES, ZONE, Cloud, Key, host_keys

Json = dict[str, Any]


def insert(cloud: Cloud, **body: Any) -> Json:
    forced = body.pop("forceCreate", False)
    request = cloud.api.images().insert(project=cloud.project, body=body, forceCreate=forced)
    return cloud.wait(request.execute())


def listed(cloud: Cloud) -> list[str]:
    found = cloud.api.images().list(project=cloud.project).execute().get("items", ())
    return [image["name"] for image in found]


def from_image(cloud: Cloud, image: str, **more: Any) -> Json:
    disk = {"boot": True, "autoDelete": True, "initializeParams": {"sourceImage": image}}
    return cloud.body("vm2", "europe-west4-a", disks=[disk], **more)


def test_what_is_on_a_disk_is_on_the_machines_of_its_image(cloud: Cloud, key: Key) -> None:
    items = {"items": [key.item, GUEST_ATTRIBUTES]}
    vm = cloud.create(cloud.body(metadata=items))
    assert key.run(vm, host_keys(cloud), "echo kept > file").returncode == 0
    disk = f"zones/{ZONE}/disks/vm1"
    with pytest.raises(HttpError, match="is already being used by") as refused:
        insert(cloud, name="mine-1", sourceDisk=disk)
    assert refused.value.status_code == 400
    assert "error" not in insert(
        cloud, name="mine-1", sourceDisk=disk, family="mine", forceCreate=True
    )
    cloud.do("stop")
    ended = insert(
        cloud, name="mine-2", sourceDisk=vm["disks"][0]["source"], family="mine",
        labels={"a": "b"}, description="second",
    )  # fmt: skip
    assert "error" not in ended, ended
    assert listed(cloud) == ["mine-1", "mine-2"]
    images, where = cloud.api.images(), {"project": cloud.project}
    newest = images.getFromFamily(**where, family="mine").execute()
    assert newest == images.get(**where, image="mine-2").execute()
    assert newest == images.get(**where, image=newest["id"]).execute()
    assert (newest["status"], newest["diskSizeGb"], newest["labels"]) == ("READY", "10", {"a": "b"})
    assert newest["sourceDisk"] == vm["disks"][0]["source"]
    assert int(newest["archiveSizeBytes"]) > 0

    body = from_image(cloud, "global/images/family/mine", metadata=items)
    again = cloud.create(body, "europe-west4-a")
    keys = cloud.api.instances().getGuestAttributes(
        **where, zone="europe-west4-a", instance="vm2", queryPath="hostkeys/"
    )
    published = keys.execute()["queryValue"]["items"]
    assert key.run(again, published, "cat file").stdout == "kept\n"
    disks = cloud.api.disks().list(**where, zone="europe-west4-a").execute()["items"]
    assert [one["sourceImageId"] for one in disks] == [newest["id"]]

    cloud.wait(images.delete(**where, image="mine-2").execute())
    assert images.getFromFamily(**where, family="mine").execute()["name"] == "mine-1"
    assert "error" not in insert(cloud, name="copy", sourceImage="global/images/mine-1")
    for name in ("mine-1", "copy"):
        cloud.wait(images.delete(**where, image=name).execute())
    assert listed(cloud) == []
    with pytest.raises(HttpError, match="was not found"):
        images.get(**where, image="mine-1").execute()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"name": "i"}, "Exactly one of"),
        ({"name": "i", "sourceDisk": "zones/x/disks/d", "sourceImage": "i"}, "Exactly one of"),
        ({"sourceDisk": f"zones/{ZONE}/disks/d"}, "Required field|resource.name"),
        ({"name": "I", "sourceDisk": f"zones/{ZONE}/disks/d"}, "name"),
        ({"name": "i", "sourceDisk": f"zones/{ZONE}/disks/none"}, "was not found"),
        ({"name": "i", "sourceDisk": f"zones/{ZONE}/disks/d", "family": "A b"}, "family"),
        ({"name": "i", "sourceDisk": f"zones/{ZONE}/disks/d", "diskSizeGb": "5"}, "smaller"),
        ({"name": "i", "sourceDisk": f"zones/{ZONE}/disks/d", "labels": {"A": "b"}}, "Label keys"),
        ({"name": "i", "sourceImage": "global/images/none"}, "cannot be found"),
        ({"name": "i", "rawDisk": {"source": "gs://b/o"}}, "does not implement|has no images"),
    ],
)
def test_what_is_no_image_is_refused_and_not_saved(cloud: Cloud, body: Json, words: str) -> None:
    disk = {"name": "d", "sizeGb": "10"}
    where = {"project": cloud.project, "zone": ZONE}
    cloud.wait(cloud.api.disks().insert(**where, body=disk).execute())
    with pytest.raises(HttpError, match=words) as refused:
        insert(cloud, **body)
    assert refused.value.status_code in (400, 404)
    assert listed(cloud) == []
    cloud.wait(cloud.api.disks().delete(**where, disk="d").execute())


def test_nobody_makes_or_deletes_googles_images(cloud: Cloud) -> None:
    images, where = cloud.api.images(), {"project": "debian-cloud"}
    name = images.getFromFamily(**where, family="debian-12").execute()["name"]
    for request in (
        images.delete(**where, image=name),
        images.insert(**where, body={"name": "i", "sourceImage": f"global/images/{name}"}),
    ):
        with pytest.raises(HttpError, match="permission") as refused:
            request.execute()
        assert refused.value.status_code == 403
