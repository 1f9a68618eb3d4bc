"""The one exception tree of AutoTimm, top to bottom.

Every message says what happened, where, and what to do about it; the command line prints it without a traceback.
"""

from __future__ import annotations

from collections.abc import Iterable


def one_line(error: BaseException) -> str:
    """The message of somebody else's exception on one line; the name of its class where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


class AutoTimmError(Exception):
    """Any failure that the user of AutoTimm can understand and mend."""


class ConfigError(AutoTimmError):
    """An argument or a configuration file that cannot be used as it stands."""

    @classmethod
    def unknown(cls, kind: str, name: str, known: Iterable[str]) -> ConfigError:
        """Say that a name is not one of those known: the near matches first, else all of them where they are few.

        Args:
            kind: what the name was meant to be, as it starts a sentence: ``optimizer``, ``[trainer] option``.
            name: what the user wrote.
            known: the names that would have been understood.
        """
        import difflib

        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=4)
        message = f"there is no {kind} {name!r}"
        if near:
            message += f"; did you mean {' or '.join(near)}?"
        if not near or len(names) <= 16:
            shown = ", ".join(names[:40]) + (f", ... ({len(names)} in all)" if len(names) > 40 else "")
            message += f"{'' if near else ';'} Known: {shown}"
        return cls(message)


class DataError(AutoTimmError):
    """A data set whose folders, annotations or labels cannot be used."""


class DataWarning(UserWarning):
    """Something about a data set that a user should know, and that the work goes on with."""


class ImageError(AutoTimmError):
    """One image that cannot be decoded, that is refused before it is decoded, or that an engine was not built for."""


class CheckpointError(AutoTimmError):
    """A checkpoint that is corrupt, foreign, or of another version."""


class ExportError(AutoTimmError):
    """A model that could not be written as an artifact."""


class VerificationError(ExportError):
    """An artifact that does not give the answers of the model it was made from."""


class ArtifactError(AutoTimmError):
    """An artifact that cannot be read, or whose manifest is missing, broken or too new."""


class BackendUnavailableError(AutoTimmError):
    """A package, an engine or a device that was asked for and is not there."""

    @classmethod
    def missing_package(cls, package: str, extra: str, purpose: str) -> BackendUnavailableError:
        """Say which package is missing, what for, and the pip command that brings it.

        Args:
            package: importable name of the package that is absent.
            extra: the extra of this distribution that installs it.
            purpose: what the user was about to do, completing the sentence "... needs".
        """
        return cls(f"{purpose} needs {package}, which is not installed: pip install 'autotimm-deploy[{extra}]'")

    @classmethod
    def from_import_error(cls, error: ModuleNotFoundError, purpose: str) -> BackendUnavailableError:
        """The same for an import that failed: the extra is looked up by the package's name.

        Raises:
            ModuleNotFoundError: the very error, where the package is in none of the extras (a bug, then).
        """
        package = (error.name or "").split(".")[0]
        if package not in _EXTRA_OF:
            raise error
        return cls.missing_package(package, _EXTRA_OF[package], purpose)


_EXTRA_OF = {
    "anyio": "serve",
    "httptools": "serve",
    "matplotlib": "train",
    "onnx": "export",
    "onnxruntime": "cpu",
    "onnxscript": "export",
    "pycocotools": "train",
    "pytorch_lightning": "train",
    "starlette": "serve",
    "timm": "train",
    "torch": "train",
    "torchmetrics": "train",
    "torchvision": "train",
    "uvicorn": "serve",
    "yaml": "train",
}
