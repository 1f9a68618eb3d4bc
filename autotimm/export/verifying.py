"""``autotimm.export.verify``: each kind of artifact by the module that can; only what that one needs is imported."""

from __future__ import annotations

from pathlib import Path

from autotimm.export.tensorrt import SUFFIXES as ENGINES
from autotimm.runtime.errors import ConfigError
from autotimm.runtime.manifest import Verification


def verify(
    artifact: str | Path,
    against: str | Path | None = None,
    *,
    golden: str | Path | None = None,
    images: str | Path | None = None,
) -> Verification:
    """Compare an artifact with what it was made from, and write the record into its manifest.

    Args:
        artifact: the artifact; the record is written whether it passed or failed.
        against: an AutoTimm checkpoint, an official YOLOX ``.pth``, or an ``.onnx`` artifact of the same model.
        golden: engines: the folder ``golden`` of an edge kit, in place of ``against``, where there is no ONNX Runtime.
        images: folder of images to compare on.

    Raises:
        VerificationError: the two are not the same model, or there was nothing to compare.
        ArtifactError: the artifact cannot be read, or an engine cannot run here.
        CheckpointError: the checkpoint cannot be read.
        ConfigError: nothing to compare with.
    """
    if Path(artifact).suffix.lower() in ENGINES:
        from autotimm.export.engine_verification import verify_engine

        return verify_engine(artifact, against, golden=golden, images=images)
    if golden is not None:
        raise ConfigError(f"{artifact}: --golden is for engines; give --against")
    if against is None:
        raise ConfigError(f"{artifact}: say what to compare it with: --against CHECKPOINT or X.onnx")
    from autotimm.export.reverification import verify as verify_file

    return verify_file(artifact, against, images=images)
