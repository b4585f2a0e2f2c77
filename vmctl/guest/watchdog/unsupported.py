"""A VM whose Python is too old for the watchdog says so, in words that any Python 3 reads.

Reported regularly, like the watchdog's own report: an old report does not count.
"""

import json
import sys
import time
import urllib.request

ATTRIBUTE = "http://169.254.169.254/computeMetadata/v1/instance/guest-attributes/vmctl/watchdog"
STEP_S = 60


def main() -> int:
    """Report it until the VM stops."""
    version = "Python {}.{}".format(*sys.version_info[:2])
    print(f"vmctl watchdog: none: {version} is older than 3.10", flush=True)
    while True:
        tell(f"its {version} is older than 3.10")
        time.sleep(STEP_S)


def tell(why: str) -> None:
    """Write why no watchdog runs to the guest attribute in which it would report."""
    request = urllib.request.Request(
        ATTRIBUTE,
        data=json.dumps({"at": round(time.time()), "busy": [], "missing": why}).encode(),
        headers={"Metadata-Flavor": "Google"},
        method="PUT",
    )
    nobody = urllib.request.ProxyHandler({})  # the metadata server is not on the internet
    try:
        urllib.request.build_opener(nobody).open(request, timeout=10).close()
    except OSError:
        pass  # it may come up later, or be forbidden
