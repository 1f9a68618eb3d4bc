"""The one file of a form (RFC 7578), found in the bytes of its body."""

from __future__ import annotations

import re

from autotimm.serving.request_errors import RequestError

_BOUNDARY = re.compile(r'boundary=(?:"([^"\r\n]{1,70})"|([^\s;,"]{1,70}))', re.IGNORECASE)
_MOST_FIELDS = 100
_NAME = re.compile(rb'[; ]name="?(?:image|file)"?(?:;|\s*$)', re.IGNORECASE)


def file_of_form(body: bytes, content_type: str) -> bytes:
    """The content of the field ``image`` or ``file``, else of the only field.

    Args:
        body: of a ``multipart/form-data`` request.
        content_type: its header, which names the boundary.

    Raises:
        RequestError: 400, the form cannot be read, or it is not clear which field is meant.
    """
    found = _BOUNDARY.search(content_type)
    if found is None:
        raise RequestError(400, "the multipart form names no boundary")
    delimiter = b"\r\n--" + (found[1] or found[2]).encode("latin-1")
    # what is before the first delimiter and behind the last one belongs to no field (RFC 2046, section 5.1.1)
    parts = (b"\r\n" + body).split(delimiter, _MOST_FIELDS)[1:]
    if len(parts) < 2 or not parts[-1].startswith(b"--"):
        raise RequestError(400, "the multipart form is cut off: its last boundary is missing")
    fields: list[tuple[bytes, bytes]] = []
    for part in parts[:-1]:
        head, blank, content = part.partition(b"\r\n\r\n")
        if not blank:
            raise RequestError(400, "a field of the multipart form has no headers")
        disposition = [line for line in head.split(b"\r\n") if line.lower().startswith(b"content-disposition:")]
        fields.append((disposition[0] if disposition else b"", content))
    named = [content for disposition, content in fields if _NAME.search(disposition)]
    candidates = named or [content for _, content in fields]
    if len(candidates) != 1:
        raise RequestError(400, f"the form has {len(candidates)} fields that may be the image; send one, named 'image'")
    return candidates[0]
