"""Files of another content under a valid checksum, so that the content reaches the parser."""

from __future__ import annotations

import hashlib
import json
import re

from sparseq.files.container import NO_DIGEST, read_index

FIELD = re.compile(rb'(\\"sha256\\":\\")([0-9a-f]{64})(\\")')


def parts(data):
    """(index of the tensors, sparseq's metadata, bytes of the tensors) of a file."""
    index, start = read_index(data, "file", "parts")
    return index, json.loads(index.pop("__metadata__")["sparseq"]), data[start:]


def joined(index, metadata, tensors):
    """The inverse of `parts`, with a valid checksum."""
    text = json.dumps({**metadata, "sha256": NO_DIGEST}, separators=(",", ":"))
    header = json.dumps(
        {"__metadata__": {"sparseq": text}, **index}, separators=(",", ":")
    ).encode()
    header += b" " * (-len(header) % 8)
    return resigned(len(header).to_bytes(8, "little") + header + tensors)


def resigned(data):
    """The bytes of a file with the checksum that they have now."""
    blank = FIELD.sub(lambda field: field[1] + NO_DIGEST.encode() + field[3], data, count=1)
    digest = hashlib.sha256(blank).hexdigest().encode()
    return FIELD.sub(lambda field: field[1] + digest + field[3], blank, count=1)
