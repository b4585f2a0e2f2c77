"""How much a VM may say, and how long it may be silent."""

from __future__ import annotations

REPLY_BYTES = 16 << 20  # of one answer
VALUES = 1 << 20  # in one answer
PUSH_BYTES, PUSH_VALUES = 64 << 20, 4 << 20  # a push's names every path of a large tree
TEXT = 1 << 16  # signs of one text
MANY = 10_000  # things in a list that is no list of files
LISTED = 500_000  # files, folders and links of one listing
NAME_BYTES = 255
PATH_BYTES = 4095
DEPTH = 128  # folders on a path; no tree of people's has so many
LARGEST = 1 << 62  # of any whole number: sizes in bytes, times in ns
LATEST_S = 4_102_444_800.0  # 2100: a later moment is none that a clock shows

SILENCE_S = 60.0  # a dead link is noticed sooner, by ssh itself; helpers at work say so
WORK_LIMIT_S = 3600.0  # of one step on the VM, however alive it says it is
