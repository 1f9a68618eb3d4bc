"""Writing files so that nothing half-written is ever left under the name that was asked for."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autotimm.runtime.errors import ArtifactError, AutoTimmError


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` when the block ends well.

    Otherwise it is deleted, and so are the folders that were made for it. Failures of other files inside the block
    pass through.

    Raises:
        AutoTimmError: the folder is missing or not writable, or the disk is full.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.stem}-{uuid.uuid4().hex[:8]}{target.suffix}")
    made: list[Path] = []
    try:
        made = _make_folder(target)
        if target.is_dir():
            raise AutoTimmError(f"{target}: is a folder; give the name of a file to write")
        temporary.touch()  # what cannot be written is said before the work, not after it
        yield temporary
        temporary.replace(target)
    except BaseException as error:
        with contextlib.suppress(OSError):  # a read-only file system deletes nothing, not even what is absent
            temporary.unlink(missing_ok=True)
        for folder in made:
            if not any(folder.iterdir()):
                folder.rmdir()
        if isinstance(error, OSError) and _is_about(error, target, temporary):
            raise AutoTimmError(f"{target}: could not be written: {error.strerror or error}") from error
        raise


def _is_about(error: OSError, target: Path, temporary: Path) -> bool:
    """Whether it was the output that could not be written, and not some input that could not be read."""
    if error.filename is None or error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
        return True
    return Path(error.filename) in (target, temporary, *target.parents)


def _make_folder(target: Path) -> list[Path]:
    """Make the folder of a file; returns what was made, innermost first."""
    absent = [folder for folder in target.parents if not folder.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise AutoTimmError(f"{target}: could not be written: {target.parent} is not a folder") from error
    return absent


def check_file(path: Path) -> None:
    """Refuse what cannot be an artifact.

    Raises:
        ArtifactError: no such file, a folder, or an empty file.
    """
    if not path.is_file():
        raise ArtifactError(f"{path}: {'is a folder, not an artifact' if path.is_dir() else 'no such file'}")
    if path.stat().st_size == 0:
        raise ArtifactError(f"{path}: is empty (0 bytes); export the model again")


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
