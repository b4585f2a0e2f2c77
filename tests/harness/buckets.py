"""Objects of the embedded Cloud Storage, by plain HTTP."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from tests.harness.endpoint import Endpoint


def upload(cloud: Endpoint, bucket: str, name: str, content: bytes) -> dict[str, Any]:
    """Put an object there; what the service says of it."""
    path = f"/upload/storage/v1/b/{bucket}/o?uploadType=media&name={quote(name, safe='')}"
    status, _, _, answer = cloud.exchange("POST", path, content, {})
    assert status == 200, answer
    return dict(json.loads(answer))


def read_object(cloud: Endpoint, bucket: str, name: str) -> bytes:
    """An object's content."""
    path = f"/storage/v1/b/{bucket}/o/{quote(name, safe='')}?alt=media"
    status, _, _, answer = cloud.exchange("GET", path, None, {})
    assert status == 200, answer
    return answer
