"""What goes wrong in a self-test is one sentence, and what a killed one leaves is no secret."""

from __future__ import annotations

import json

from tests.e2e.holding import Rehearsal


def test_a_connection_that_is_cut_at_its_first_question_is_one_sentence(cloud: Rehearsal) -> None:
    cloud.fault(kind="drop", method="compute.instances.list", when="before")
    told = cloud("selftest", "--trace", "trace.jsonl", "--json", code=7).stderr
    error = json.loads(told.splitlines()[-1])
    assert "does not answer" in error["message"]
    assert error["hint"]
    assert "Traceback" not in told
    assert cloud.all("instances") == []
