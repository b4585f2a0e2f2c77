"""A trace of a self-test, said again to the emulator: same calls, answers of the same form.

What a real service answered holds the emulator to account: the status, the reason of a refusal,
the words of every enumeration, and no field that the real one did not have. Names and numbers that
Google chooses are translated as they appear.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from tests.harness.emulator import Emulator
from vmctl.domain.google.redaction import PROJECT

from .conftest import Key, nat_ip

ANSWER_LIMIT_S = 60.0
GAP_S = 0.05
# what Google chooses anew each time, as far as later calls name it
_CHOSEN = {"id", "targetId", "fingerprint", "labelFingerprint"}
# words out of a list of Google's: they have to be the same
_WORDS = {"kind", "status", "operationType", "reason", "code", "metric", "type", "direction"}
_BY_NAME = {"items"}  # of an aggregated list: one member per zone, all of one form


@dataclass(frozen=True)
class Exchange:
    """One recorded call with its answer, or a remark on what was done otherwise."""

    method: str
    path: str
    query: dict[str, str]
    request: Any
    status: int
    response: Any
    remark: str = ""

    @property
    def asks_the_same_as(self) -> tuple[str, str, str]:
        return self.method, self.path, json.dumps(self.query, sort_keys=True)


def load(file: Path) -> list[Exchange]:
    """The calls of a trace; of a question that was repeated until the answer changed the last."""
    kept: list[Exchange] = []
    head, *lines = file.read_text(encoding="utf-8").splitlines()
    assert json.loads(head)["trace"] == 1, f"{file} is no trace that this replays"
    for line in lines:
        call = json.loads(line)
        if "remark" in call:
            kept.append(Exchange("", "", {}, None, 0, None, call["remark"]))
            continue
        one = Exchange(**call)
        if kept and one.method == "GET" and kept[-1].asks_the_same_as == one.asks_the_same_as:
            kept.pop()
        kept.append(one)
    return kept


def limits(exchanges: list[Exchange]) -> Iterator[dict[str, Any]]:
    """The quotas of the trace's project, less what it used: the first that were told."""
    seen = set()
    for one in exchanges:
        if one.method != "GET" or not isinstance(one.response, dict):
            continue
        region = re.fullmatch(rf"projects/{PROJECT}/regions/([a-z0-9-]+)", one.path)
        for quota in one.response.get("quotas", ()):
            key = (quota["metric"], region[1] if region else None)
            if key not in seen:
                seen.add(key)
                yield {
                    "metric": quota["metric"],
                    "limit": max(0, quota["limit"] - quota.get("usage", 0)),
                    **({"region": region[1]} if region else {}),
                }


@dataclass
class Replay:
    """Says a trace again, in a project of its own."""

    emulator: Emulator
    project: str
    key: Key
    wrong: list[str] = field(default_factory=list)
    absent: set[str] = field(default_factory=set)  # told by the trace and not by the emulator
    _chosen: dict[str, str] = field(default_factory=lambda: {})

    def run(self, exchanges: list[Exchange], otherwise: Callable[[str], None]) -> None:
        """Say everything in order; `otherwise` does what a remark says."""
        for limit in limits(exchanges):
            self.emulator.admin("POST", "faults", {"kind": "quota", **limit})
        for one in exchanges:
            if one.remark:
                otherwise(one.remark)
            else:
                self._say(one)

    def _say(self, one: Exchange) -> None:
        deadline, absent = time.monotonic() + ANSWER_LIMIT_S, set(self.absent)
        while True:
            self.absent = set(absent)
            status, answer = self._send(one)
            wrong: list[str] = []
            if status != one.status:
                wrong.append(f"HTTP {status}, recorded was {one.status}: {answer}")
            else:
                self._compare(one.response, answer, "", wrong)
            # a question is asked again: the recorded answer may be that of another moment
            if not wrong or one.method != "GET" or time.monotonic() > deadline:
                break
            time.sleep(GAP_S)
        self.wrong += [f"{one.method} {one.path}{line}" for line in wrong]
        self._learn(one.response, answer)

    def _send(self, one: Exchange) -> tuple[int, Any]:
        query = {name: self._said(text) for name, text in one.query.items()}
        path = f"/compute/v1/{quote(self._said(one.path))}?{urlencode(query)}"
        body = None if one.request is None else self._body(one.request)
        return self.emulator.send(one.method, path, body)

    def _body(self, request: Any) -> Any:
        body = json.loads(self._said(json.dumps(request)))
        for item in body.get("metadata", body).get("items", ()):
            if item.get("key") == "ssh-keys":  # the recorded one is hidden, and over
                item["value"] = self.key.item["value"]
        return body

    def _said(self, text: str) -> str:
        for recorded, chosen in self._chosen.items():
            text = text.replace(recorded, chosen)
        return re.sub(rf"(?<![a-z0-9-]){PROJECT}(?![a-z0-9-])", self.project, text)

    def _learn(self, recorded: Any, answer: Any) -> None:
        """What Google chose then and what the emulator chose now stand for the same."""
        if isinstance(recorded, list) and isinstance(answer, list):
            for pair in zip(recorded, answer, strict=False):
                self._learn(*pair)
        if not (isinstance(recorded, dict) and isinstance(answer, dict)):
            return
        operation = recorded.get("kind") == "compute#operation"
        for name in recorded.keys() & answer.keys():
            then, now = recorded[name], answer[name]
            if name in _CHOSEN or (operation and name == "name"):
                self._chosen[str(then)] = str(now)
            else:
                self._learn(then, now)

    def _compare(self, then: Any, now: Any, at: str, wrong: list[str]) -> None:
        if _form(then) != _form(now):
            wrong.append(f" {at}: is {_form(now)}, recorded was {_form(then)}")
        elif isinstance(then, dict):
            self._compare_members(then, now, at, wrong)
        elif isinstance(then, list):
            if then and now:
                self._compare(_merged(then), _merged(now), f"{at}[]", wrong)
        elif at.rpartition(".")[2] in _WORDS and _word(then) != _word(now):
            wrong.append(f" {at}: is {now!r}, recorded was {then!r}")

    def _compare_members(
        self, then: dict[str, Any], now: dict[str, Any], at: str, wrong: list[str]
    ) -> None:
        if at.rpartition(".")[2] in _BY_NAME:
            self._compare(list(then.values()), list(now.values()), at, wrong)
            return
        wrong += [
            f" {at}.{name}: the recorded answer has none" for name in now.keys() - then.keys()
        ]
        self.absent |= {f"{at}.{name}" for name in then.keys() - now.keys()}
        for name in sorted(then.keys() & now.keys()):
            self._compare(then[name], now[name], f"{at}.{name}", wrong)


def _word(value: Any) -> str:
    """A word by itself, or the last one of a URL."""
    return str(value).rpartition("/")[2]


def _form(value: Any) -> str:
    """What a value is in JSON, with texts that are numbers told from others."""
    if isinstance(value, bool) or value is None:
        return "null" if value is None else "a truth"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a number's text" if re.fullmatch(r"-?\d+", value) else "text"
    return "a list" if isinstance(value, list) else "an object"


def _merged(values: list[Any]) -> Any:
    """One value with the members of all: the elements of a list have one form, in parts."""
    if not all(isinstance(value, dict) for value in values):
        return values[0]
    merged: dict[str, Any] = {}
    for value in values:
        for name, item in value.items():
            there = merged.get(name)
            if isinstance(there, dict) and isinstance(item, dict):
                merged[name] = _merged([there, item])
            elif isinstance(there, list) and isinstance(item, list):
                merged[name] = [*there, *item]
            else:
                merged.setdefault(name, item)
    return merged


def shut_down(emulator: Emulator, project: str, key: Key) -> None:
    """Shut the project's one running machine down from inside, as its user does."""
    vms = [
        vm
        for scope in _get(emulator, f"projects/{project}/aggregated/instances")["items"].values()
        for vm in scope.get("instances", ())
    ]
    (vm,) = [vm for vm in vms if nat_ip(vm)]
    zone = vm["zone"].rpartition("/")[2]
    attributes = _get(
        emulator,
        f"projects/{project}/zones/{zone}/instances/{vm['name']}/getGuestAttributes",
        queryPath="hostkeys/",
    )
    key.run(vm, attributes["queryValue"]["items"], "sudo -n shutdown -h now")


def _get(emulator: Emulator, path: str, **query: str) -> Any:
    status, answer = emulator.send("GET", f"/compute/v1/{path}?{urlencode(query)}")
    assert status == 200, answer
    return answer
