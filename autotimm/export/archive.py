"""The zip archive that a TorchScript file is: taken apart, hashed, and written again with a manifest.

Torch's own writer keeps beside the code where each line of it came from, which is a good part of a small
file and names folders of the machine; here that is left out.
"""

from __future__ import annotations

import hashlib
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from autotimm.runtime.manifest import Manifest
from autotimm.runtime.torchscript_archive import MANIFEST_FILE, inside

Parts = Mapping[str, bytes]
"""The entries of an archive without its debugging records and extra files, by their names in its folder."""
_ALIGNMENT = 64
"""Of the contents in the file, as torch's own writer has it for those who map it into memory."""


def read_parts(file: Path | BinaryIO) -> Parts:
    """Take an archive apart.

    Raises:
        zipfile.BadZipFile: it is damaged.
    """
    with zipfile.ZipFile(file) as archive:
        return {
            inside(name): archive.read(name)
            for name in archive.namelist()
            if not name.endswith(".debug_pkl") and not inside(name).startswith("extra/")
        }


def archive_digest(parts: Parts) -> str:
    """SHA-256 of the code and the weights, without the manifest, which later verifications change.

    Two processes that export one model get one digest. Within a process they differ: torch numbers the classes of
    what it has traced, and goes on counting.
    """
    digest = hashlib.sha256()
    for name in sorted(parts):
        if not name.startswith(".data/"):  # a checksum of its own
            digest.update(name.encode() + b"\0" + hashlib.sha256(parts[name]).digest())
    return digest.hexdigest()


def write_archive(parts: Parts, manifest: Manifest, path: Path) -> None:
    """Write a TorchScript file with this manifest among its extra files."""
    entries = {**parts, f"extra/{MANIFEST_FILE}": manifest.to_json().encode()}
    with path.open("wb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, content in entries.items():
            entry = zipfile.ZipInfo(f"archive/{name}")  # its time is 1980, so that equal exports are equal files
            entry.extra = _padding(file.tell(), entry.filename)
            archive.writestr(entry, content)


def _padding(offset: int, name: str) -> bytes:
    """An extra field of the entry's header that moves its content to a multiple of the alignment."""
    header = 30 + len(name.encode()) + 4  # of zip, APPNOTE 4.3.7, and of the extra field itself
    length = -(offset + header) % _ALIGNMENT
    return struct.pack("<HH", 0x4246, length) + b"\0" * length  # torch's own mark, "FB"
