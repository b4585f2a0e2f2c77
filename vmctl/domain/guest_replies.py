"""The shape of every reply of a VM's helpers; see reply_shapes.py for the check."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vmctl.domain.limits import LARGEST, LISTED
from vmctl.domain.reply_shapes import (
    Shape,
    checked,
    either,
    flag,
    many,
    matching,
    number,
    numbered,
    one_of,
    path,
    ranges,
    record,
    row,
    run_id,
    table,
    text,
    whole,
)

MOMENT = number()
SIZE = whole()
SHA256 = matching(r"[0-9a-f]{64}", "a SHA-256")
WORD = text(4096)
PATHS = many(path, LISTED)

RUN = record(
    {"id": run_id},
    {
        "spec": record(
            {},
            {
                "project": WORD,
                "job": WORD,
                "directory": path,
                "command": text(),
                "args": many(text()),
                "outputs": many(path),
                "created_at": MOMENT,
            },
        ),
        "phase": record({}, {"phase": WORD}),
        "exit": record(
            {},
            {
                "code": whole(-255, 255),
                "cancelled": flag,
                "interrupted": flag,
                "ended_at": MOMENT,
            },
        ),
        "cancel_asked": flag,
        "session": flag,
        "log_bytes": SIZE,
        "now": MOMENT,
        "slurm": record(
            {"job_id": text(40), "state": text(40), "reason": text(300)},
            {"start": MOMENT, "errors": WORD},
        ),
    },
)
_MACHINE = record(
    {"python": path, "version": text(200), "missing": many(text(200), 100)},
    {"added": many(text(200), 100), "trouble": text(), "done_before": flag},
)
_ROOM = record({"free": SIZE, "total": SIZE})
_GPU = record(
    {
        "name": text(200),
        "percent": whole(0, 100),
        "used_mb": SIZE,
        "total_mb": SIZE,
        "users": many(text(100), 32),
    }
)
_PARTITIONS = table(
    text(200),
    record(
        {"time": text(100), "gres": many(text(1000), 1000), "nodes": whole(0), "idle": whole(0)}
    ),
    1000,
)
_REFUSED = record(
    {
        "stderr": text(2000),
        "accounts": many(text(200), 100),
        "partitions": _PARTITIONS,
        "default": text(200),
    }
)
REPLIES: Mapping[str, Shape] = {
    "prepare": _MACHINE,
    "start": either(
        record({"unprepared": one_of(True)}),
        record({"refused": _REFUSED}),
        record({"id": run_id, "existing": flag}),
    ),
    "runs": record({"runs": many(RUN, 100_000)}),
    "follow": record({"run": RUN}),
    "cancel": record({"run": RUN, "already": flag}),
    "push-accept": record({"accepted": PATHS, "tree": SHA256}),
    "service": record(
        {"started": flag, "token": matching(r"[A-Za-z0-9_-]{0,256}", "a token")},
        {"host": matching(r"[A-Za-z0-9._-]{1,253}", "a host"), "port": whole(1, 65535)},
    ),
    "server": record(
        {
            "host": text(300),
            "python": path,
            "version": text(200),
            "tmux": flag,
            "rsync": flag,
            "cores": whole(1, 1 << 20),
            "load": number(),
            "gpus": many(_GPU, 64),
            "driver_trouble": text(300),
            "torch": record(
                {}, {"version": text(200), "available": flag, "count": whole(0, 64), "said": text()}
            ),
            "room": _ROOM,
            "partitions": _PARTITIONS,
        },
        {"quota": _ROOM},
    ),
    "service-state": record({"running": flag, "tail": text()}),
}

ERROR = record({}, {"kind": text(100), "message": text(), "hint": text()})
REFUSAL = record({"error": ERROR})

# of the stream of a fetch or a pull
WAITING = record({"waiting": WORD})
HEADER = record({"number": whole(0, 1 << 31), "offset": SIZE, "bytes": SIZE})
TRAILER = record({"sha256": SHA256, "changed": flag, "mtime_ns": whole(-LARGEST), "mode": SIZE})
END = record({"end": one_of(True)})


def listing_length(most: int) -> Shape:
    """The bytes of a packed listing that follow, or the reason for a wait."""
    return either(WAITING, record({"listing": whole(0, most)}))


def push_reply(files: int) -> Shape:
    """A reply in a push of that many files: what the VM asks for, or what it did."""
    numbers = ranges(files)
    each = numbered(files - 1)
    conflicts = many(row(path, one_of("changed", "made")), files)
    placed = record({"folder": path, "older": many(path, 2)})
    want = record(
        {
            "files": numbers,
            "held": table(each, SIZE, files),
            "older": table(each, path, files),
            "placed": placed,
        }
    )
    summary = {"put": numbers, "deleted": PATHS, "kept": PATHS, "conflicts": conflicts}
    return either(
        record({"ask": one_of("tree")}),
        record({"want": want}),
        record({"plan": record(summary)}),
        record({"done": record({**summary, "tree": SHA256})}),
        record({"conflicts": conflicts}),
    )


# -- a VM that boots ---------------------------------------------------------------------------

_TORCH = record(
    {},
    {
        "python": text(4096),
        "version": text(200),
        "cuda": text(200),
        "driver_cuda": text(200),
        "said": text(),
        "available": flag,
        "simulated": flag,
        "count": whole(0, 10_000),
    },
)
BOOT_REPORT = record(
    {"starting": flag},
    {
        "startup": text(200),
        "lock": text(4096),
        "cards": whole(0, 10_000),
        "log": many(text(), 100),
        "driver": record({}, {"code": whole(-255, 255), "said": text()}),
        "torch": _TORCH,
    },
)
WATCH_SETTINGS = record(
    {}, {"idle_s": MOMENT, "max_run_s": MOMENT, "stop_at": MOMENT, "keep_until": MOMENT}
)
WATCH_REPORT = record(
    {"at": number(1.0), "busy": many(text(), 1000)},
    {
        "idle_from": MOMENT,
        "stops_at": MOMENT,
        "stops_why": text(),
        "stopped": text(),
        "missing": text(),
    },
)


def reply(verb: str, value: Any) -> Any:
    """A helper's checked reply to a verb."""
    return checked(REPLIES[verb], value, verb)
