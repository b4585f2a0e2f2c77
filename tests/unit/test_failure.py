"""Why pip failed, in words with the next command: by what it wrote."""

from __future__ import annotations

import pytest

from vmctl.guest.runs.failure import explain_pip

REFUSED = (
    "WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError('<…>: "
    "Failed to establish a new connection: [Errno 111] Connection refused')': /simple/cowsay/\n"
    "ERROR: Could not find a version that satisfies the requirement cowsay (from versions: none)\n"
    "ERROR: No matching distribution found for cowsay\n"
)
OUTPUTS = {
    "no network": (REFUSED, "", False, "cannot be reached from there", "vmctl exec --"),
    "no network on a node": (REFUSED, "", True, "from the cluster's node", "pip download"),
    "no such package": (
        "ERROR: No matching distribution found for nosuch>=3\n", "", False,
        "pip finds no nosuch>=3 for Python 3.9.2", "requirements in [jobs.hello]",
    ),
    "no such package of a package": (
        "ERROR: No matching distribution found for nosuch\n", "p", False,
        "pip finds no nosuch", "what p/ requires, then: vmctl push && vmctl run hello",
    ),
    "conflict": (
        "ERROR: ResolutionImpossible: for help visit https://pip.pypa.io\n", "", False,
        "Nothing fits all", "requirements in [jobs.hello]",
    ),
    "full disk": (
        "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device\n",
        "", False, "disk there is full", "vmctl exec 'du",
    ),
    "package": (
        "error: metadata-generation-failed\n", "p", False,
        "p/ cannot be built and installed", "vmctl push && vmctl run hello",
    ),
    "requirement": (
        "ERROR: Failed building wheel for x\n", "", False, "cannot be installed", "vmctl run hello",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", OUTPUTS)
def test_pips_end_is_explained(case: str) -> None:
    told, package, on_cluster, why, what_next = OUTPUTS[case]
    text = explain_pip(told, "hello", package, "3.9.2", on_cluster)
    assert why in text
    assert what_next in text
