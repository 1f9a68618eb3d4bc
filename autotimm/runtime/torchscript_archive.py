"""The manifest of a TorchScript file, read without torch.

Such a file is a zip archive in which everything lies in one folder
(https://github.com/pytorch/pytorch/blob/main/torch/csrc/jit/docs/serialization.md): ``code/`` and ``data/``, and under
``extra/`` whatever the exporter added. A file of ``torch.save``, which users call ``.pt`` as well, has no ``code/``.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable
from pathlib import Path

from autotimm.runtime.errors import ArtifactError
from autotimm.runtime.files import check_file

MANIFEST_FILE = "autotimm.json"
"""Name of the manifest among a TorchScript file's extra files."""


def read_extra_file(path: str | os.PathLike[str]) -> str | None:
    """The manifest in a TorchScript file as text; ``None`` where it has none.

    Raises:
        ArtifactError: the file is missing, empty, cut off or no TorchScript.
    """
    file = Path(path)
    check_file(file)
    try:
        with zipfile.ZipFile(file) as archive:
            entries = {inside(name): name for name in archive.namelist()}
            if not _has_code(entries):
                raise ArtifactError(
                    f"{file}: is no TorchScript file; if it holds the weights of a model, make an artifact of it with: "
                    "autotimm export CHECKPOINT --format torchscript"
                )
            manifest = entries.get(f"extra/{MANIFEST_FILE}")
            return None if manifest is None else archive.read(manifest).decode("utf-8")
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError) as error:
        raise ArtifactError(
            f"{file}: is not a whole TorchScript file ({error}); copy it again, or export the model again"
        ) from error


def is_torchscript(path: str | os.PathLike[str]) -> bool:
    """Whether a file is one of TorchScript, by what it holds."""
    try:
        with zipfile.ZipFile(path) as archive:
            return _has_code(map(inside, archive.namelist()))
    except (zipfile.BadZipFile, OSError):
        return False


def inside(name: str) -> str:
    """The name of an entry without the folder that all lie in."""
    return name.partition("/")[2]


def _has_code(names: Iterable[str]) -> bool:
    return any(name.startswith("code/") for name in names)
