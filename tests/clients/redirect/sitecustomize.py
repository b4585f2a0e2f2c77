"""Sends to the emulator what a client of Python's `requests` asks of Compute Engine, unchanged.

libcloud follows each operation's own link, and in Ansible's modules Google's address is written
out: neither can be given another. Only the connection is led elsewhere; what bodies and replies say
of www.googleapis.com stays. With this folder in PYTHONPATH every Python does so from its start.
"""

from __future__ import annotations

import os
import re

import requests

_GOOGLE = re.compile(r"https://(?:www|compute)\.googleapis\.com(?::443)?/+(?=compute/v1/)")


def lead_to(emulator: str) -> None:
    """From now on, in this process; `emulator` is its address without a path."""
    prepare = requests.Session.prepare_request

    def prepare_request(self, request):  # type: ignore[no-untyped-def]
        url = _GOOGLE.sub(f"{emulator.rstrip('/')}/", request.url)
        if url != request.url:
            request.url = url
            request.headers.pop("Host", None)
        return prepare(self, request)

    requests.Session.prepare_request = prepare_request  # type: ignore[method-assign]


if "VMCTL_EMULATOR_URL" in os.environ:
    lead_to(os.environ["VMCTL_EMULATOR_URL"])
