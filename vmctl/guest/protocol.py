"""What both ends of a conversation with a helper agree on; imported by the helpers and by vmctl.

Standard library only, and little of it: every start of a helper is waited for.
"""

import struct

# exit codes of a helper; the shell line that starts it ends with ABSENT where there is none
ABSENT = 97
REFUSED = 96  # standard error ends with {"error": {"kind", "message", "hint"}}
NOT_INSTALLED = 95
BROKEN = 94  # it cannot be imported: a full disk or a power cut has cut a file short

# push: a frame is one letter, the length of its payload, the payload; see receiver.py
FRAME = struct.Struct(">cI")
CHUNK = struct.Struct(">32sQQI")  # SHA-256, whole size, offset, length; then so many bytes

# Whoever works long says so by an empty line between two records: silence is a fault.
BEAT_S = 5.0

# fetch and pull: what a listing may hold
LISTED = 500_000  # files, folders and links
LISTING_BYTES = 64 << 20  # of its JSON
