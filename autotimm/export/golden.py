"""Golden input and output: what an artifact answered where it was made, to compare an engine with on its device."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autotimm.runtime.artifact import load
from autotimm.runtime.errors import ArtifactError
from autotimm.runtime.files import replacing
from autotimm.runtime.manifest import Manifest
from autotimm.runtime.pictures import Pictures
from autotimm.runtime.predictor import Predictor

INPUT, OUTPUT, MANIFEST = "input.npy", "output.npz", "manifest.json"
LIMIT = 4
"""Pictures kept: uint8 pixels at the size of the network, some 5 MB for four of 640 x 640."""


class RecordedBackend:
    """Gives the recorded answers for the recorded pictures, behind :class:`autotimm.runtime.backends.Backend`."""

    def __init__(
        self, name: str, manifest: Manifest, pictures: NDArray[np.uint8], outputs: dict[str, NDArray[np.generic]]
    ) -> None:
        self.name = name
        self.inputs, self.outputs = manifest.inputs, manifest.outputs
        self._outputs = outputs
        self._row_of = {_digest(pixels): row for row, pixels in enumerate(_each(pictures))}

    def run(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.generic]]:
        """The answers, by name; zeros where a batch is filled up with empty pictures."""
        if images.ndim == 3:
            self._row(images)  # is there
            return self._outputs
        rows = [self._row(pixels, may_be_empty=True) for pixels in images]
        return {
            name: np.stack([np.zeros_like(value[0]) if row is None else value[row] for row in rows])
            for name, value in self._outputs.items()
        }

    def close(self) -> None:
        """Nothing is held."""

    def _row(self, pixels: NDArray[np.uint8], *, may_be_empty: bool = False) -> int | None:
        row = self._row_of.get(_digest(pixels))
        if row is None and (pixels.any() or not may_be_empty):
            raise ArtifactError("this picture is not one of the golden ones, so its answer is not known")
        return row


def write_golden(artifact: str | os.PathLike[str], folder: Path, pictures: Pictures) -> None:
    """Run an artifact on pictures, and keep the prepared pixels, the outputs and its manifest.

    Args:
        artifact: an ``.onnx`` artifact, run by ONNX Runtime.
        folder: to write ``input.npy`` (uint8 ``[N, H, W, 3]``, or one ``[H, W, 3]`` where the artifact takes any size),
            ``output.npz`` (its outputs by name) and ``manifest.json`` into.
        pictures: the first few are used.
    """
    with load(artifact) as predictor:
        manifest = predictor.manifest
        if manifest.input_mode == "image":
            pixels = predictor.prepare(pictures.images[0])[0]
            outputs = predictor.run(pixels)
        else:
            pixels = np.stack([predictor.prepare(picture)[0] for picture in pictures.images[:LIMIT]])
            outputs = _outputs_of(predictor, pixels)
        name = predictor.backend.name
    with replacing(folder / INPUT) as temporary:
        np.save(temporary, pixels)
    with replacing(folder / OUTPUT) as temporary:
        np.savez_compressed(temporary, **outputs, backend=np.array(name))  # type: ignore[arg-type]
    with replacing(folder / MANIFEST) as temporary:
        temporary.write_text(manifest.to_json(), encoding="utf-8")


def open_golden(folder: str | os.PathLike[str]) -> tuple[Predictor, Pictures]:
    """A predictor that gives the recorded answers, and the pictures it has them for.

    Raises:
        ArtifactError: the folder lacks a file, or one is damaged.
    """
    root = Path(folder)
    try:
        pixels = np.load(root / INPUT, allow_pickle=False)
        with np.load(root / OUTPUT, allow_pickle=False) as archive:
            outputs = {name: archive[name] for name in archive.files}
        text = (root / MANIFEST).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ArtifactError(
            f"{root}: has no {Path(str(error.filename)).name}; --golden is the folder 'golden' of an edge kit, made by "
            "autotimm export CHECKPOINT --format trt --kit DIR"
        ) from error
    except (OSError, ValueError, EOFError) as error:
        raise ArtifactError(f"{root}: cannot be read ({error}); copy the kit again") from error
    manifest = as_prepared(Manifest.from_json(text, str(root / MANIFEST)))
    name = str(outputs.pop("backend", "the machine of the export"))
    backend = RecordedBackend(f"{name}, recorded", manifest, pixels, outputs)
    count = len(pixels) if pixels.ndim == 4 else 1
    return Predictor(backend, manifest), Pictures(_each(pixels), f"{count} golden pictures of {root.resolve().name}")


def as_prepared(manifest: Manifest) -> Manifest:
    """The manifest for pictures that have the size of the network already: nothing is left to resize or crop."""
    if manifest.input_mode == "image":
        return manifest
    return replace(manifest, preprocess=replace(manifest.preprocess, fit="stretch", crop_fraction=1.0))


def _outputs_of(predictor: Predictor, pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.generic]]:
    """One picture at a time, or as many as the artifact takes."""
    size = predictor.fixed_batch or 1
    parts = []
    for start in range(0, len(pixels), size):
        batch = np.zeros((size, *pixels.shape[1:]), np.uint8)
        part = pixels[start : start + size]
        batch[: len(part)] = part
        parts.append({name: value[: len(part)] for name, value in predictor.run(batch).items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _each(pixels: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    return list(pixels) if pixels.ndim == 4 else [pixels]


def _digest(pixels: NDArray[np.uint8]) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).digest()
