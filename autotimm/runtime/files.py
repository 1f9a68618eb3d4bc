"""Writing files so that nothing half-written is ever left under the name that was asked for."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autotimm.runtime.errors import AutoTimmError


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` when the block ends well, delete it otherwise.

    Raises:
        AutoTimmError: the folder is missing or not writable, or the disk is full.
    """
    target = Path(path)
    temporary: Path | None = None
    try:
        _make_folder(target)
        if target.is_dir():
            raise AutoTimmError(f"{target}: is a folder; give the name of a file to write")
        temporary = target.with_name(f".{target.stem}-{uuid.uuid4().hex[:8]}{target.suffix}")
        yield temporary
        temporary.replace(target)
    except OSError as error:
        raise AutoTimmError(f"{target}: could not be written: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _make_folder(target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise AutoTimmError(f"{target}: could not be written: {target.parent} is not a folder") from error


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
