"""The tags that say how a value was encoded, and how large it may be in a message.

tag  form         carries
1    msgpack      None, bool, int (64 bits), float, str, bytes, and lists and dicts of these
2    pickle       whatever plain pickle restores on any machine: builtin types, types of installed packages
3    cloudpickle  the rest: what `__main__`, notebooks and the user's own modules define goes along by value
4    json         values from and for callers without Python; see `headrace.bus.data.json_values`
5    object       what stands for a value too large for a message; see `headrace.bus.data.payloads`
"""

from __future__ import annotations

from typing import Final

MSGPACK: Final = 1
PICKLE: Final = 2
CLOUDPICKLE: Final = 3
JSON: Final = 4
OBJECT: Final = 5

ENCODING_NAMES: Final = {
    MSGPACK: "msgpack",
    PICKLE: "pickle",
    CLOUDPICKLE: "cloudpickle",
    JSON: "json",
    OBJECT: "object",
}

INLINE_BYTES: Final = 4 * 1024 * 1024
"""What is encoded in more bytes than this goes through the object store; see `inline_bytes`."""


def inline_bytes(max_payload: int) -> int:
    """How many bytes of a value go in a message, where the bus takes messages of `max_payload` bytes."""
    return min(INLINE_BYTES, max_payload // 2)
