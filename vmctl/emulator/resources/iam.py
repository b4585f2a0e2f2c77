"""Access to single resources: the caller owns the project, and none has a policy of its own."""

from __future__ import annotations

import re

from ..cloud.call import Call, Handler
from ..errors import Json, invalid_field

_PERMISSION = re.compile(r"compute\.[a-z]+[A-Za-z]*\.[a-z]+[A-Za-z]*")


def get_policy(collection: str) -> Handler:
    """Return the handler of COLLECTION.getIamPolicy: Google's answer without bindings."""

    async def get(call: Call) -> Json:
        call.find(collection, call.path["resource"])
        return {"etag": "ACAB"}

    return get


def test_permissions(collection: str) -> Handler:
    """Return the handler of COLLECTION.testIamPermissions: those of the collection, all granted."""

    async def ask(call: Call) -> Json:
        call.find(collection, call.path["resource"])
        asked = call.body.get("permissions", [])
        for index, permission in enumerate(asked):
            known = permission.startswith(f"compute.{collection}.")
            if not known or not _PERMISSION.fullmatch(permission):
                raise invalid_field(
                    f"permissions[{index}]",
                    permission,
                    f"Permission {permission} is not valid for this resource.",
                )
        return {"permissions": asked} if asked else {}

    return ask


METHODS: dict[str, Handler] = {
    "compute.instances.getIamPolicy": get_policy("instances"),
    "compute.instances.testIamPermissions": test_permissions("instances"),
}
