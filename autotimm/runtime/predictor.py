"""Images in, results out: decode, resize, run, assemble."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from types import TracebackType
from typing import Any, Literal, get_args, overload

import numpy as np
from numpy.typing import NDArray

from autotimm.runtime.assemble import assemble
from autotimm.runtime.backends import Backend
from autotimm.runtime.errors import ArtifactError, ConfigError, ImageError
from autotimm.runtime.images import ImageSource, load_image
from autotimm.runtime.manifest import InputMode, Manifest, TensorSpec
from autotimm.runtime.preprocess import Placement
from autotimm.runtime.resize import fit_image
from autotimm.runtime.results import Result

OnError = Literal["raise", "return"]


class Predictor:
    """An artifact ready to predict; a context manager.

    Between calls it keeps no state of its own, so it is as thread-safe as its engine.

    Args:
        backend: the engine with the model loaded.
        manifest: what the artifact says about itself.
        lists_best: list the artifact's own k best labels of a multi-label model too, not those above its threshold.

    Raises:
        ArtifactError: the manifest describes other inputs or outputs than the engine sees, or needs a newer version.
    """

    def __init__(self, backend: Backend, manifest: Manifest, *, lists_best: bool = False) -> None:
        if manifest.input_mode not in get_args(InputMode):
            raise ArtifactError(
                f"the artifact takes its input as {manifest.input_mode!r}, which needs a newer version: "
                "pip install --upgrade autotimm-deploy, or export with --input batch"
            )
        _check_specs("input", manifest.inputs, backend.inputs)
        _check_specs("output", manifest.outputs, backend.outputs)
        _check_classes(manifest, backend.outputs)
        self.takes_image = manifest.input_mode == "image"
        """Whether a run takes one image of any size, and not a batch at the size of the network."""
        _check_input(manifest, backend.inputs)
        self.backend = backend
        self.manifest = manifest
        batch = 1 if self.takes_image else backend.inputs[0].shape[0]
        self.fixed_batch: int | None = batch if isinstance(batch, int) else None
        """How many images every run takes; ``None`` where any number will do."""
        self.least_batch = self.fixed_batch or _least_batch(manifest)
        """The fewest images that a run takes; fewer are filled up."""
        multi_label = manifest.task == "classification" and manifest.postprocessing.get("activation") == "sigmoid"
        by_threshold = multi_label and not lists_best
        self._threshold = manifest.thresholds.get("score", 0.5) if by_threshold else None

    def __enter__(self) -> Predictor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the engine; the predictor cannot be used afterwards."""
        self.backend.close()

    @overload
    def predict(
        self,
        images: list[Any] | tuple[Any, ...],
        *,
        batch_size: int | None = None,
        on_error: Literal["raise"] = "raise",
    ) -> list[Result]: ...
    @overload
    def predict(
        self, images: list[Any] | tuple[Any, ...], *, batch_size: int | None = None, on_error: OnError
    ) -> list[Result | ImageError]: ...
    @overload
    def predict(
        self, images: ImageSource, *, batch_size: int | None = None, on_error: Literal["raise"] = "raise"
    ) -> Result: ...
    @overload
    def predict(
        self, images: ImageSource, *, batch_size: int | None = None, on_error: OnError
    ) -> Result | ImageError: ...
    def predict(
        self,
        images: ImageSource | list[Any] | tuple[Any, ...],
        *,
        batch_size: int | None = None,
        on_error: OnError = "raise",
    ) -> Result | ImageError | Sequence[Result | ImageError]:
        """Predict one image, or a list of them.

        Args:
            images: path, PIL image or uint8 RGB array; or a list or tuple of these.
            batch_size: images a run, for artifacts that leave it free. By default 1, or the fewest that an engine
                takes: on CPUs larger batches take more memory and are no faster. An artifact made for a fixed number
                always runs that many.
            on_error: ``raise`` stops at the first image that cannot be decoded, or that an engine is not built for;
                ``return`` puts its :class:`ImageError` in the place of its result and finishes the others.

        Returns:
            One result for one image; a list in the same order for a list.

        Raises:
            ImageError: an image cannot be decoded, or is outside the sizes that an engine was built for, with
                ``on_error="raise"``.
            ConfigError: a batch size that the artifact cannot run.
        """
        if on_error not in ("raise", "return"):
            raise ConfigError(f"on_error is {on_error!r}, but must be 'raise' or 'return'")
        size = self._batch_size(batch_size)
        if isinstance(images, list | tuple):
            return list(self._results(images, size, on_error))
        return next(self._results((images,), size, on_error))

    def stream(self, images: Iterable[ImageSource], *, batch_size: int | None = None) -> Iterator[Result | ImageError]:
        """Predict image after image, holding one batch in memory; a bad image gives its :class:`ImageError`.

        Args:
            images: any iterable of what :meth:`predict` takes.
            batch_size: as for :meth:`predict`.
        """
        return self._results(images, self._batch_size(batch_size), "return")

    def prepare(self, image: ImageSource) -> tuple[NDArray[np.uint8], Placement]:
        """Decode one image, and resize it where the artifact does not.

        Returns:
            RGB uint8 ``[H, W, 3]`` at the size of the network, and where the image lies in it; for an artifact that
            takes images of any size the image itself.
        """
        if self.takes_image:
            pixels = np.ascontiguousarray(load_image(image))
            size = (pixels.shape[0], pixels.shape[1])
            return pixels, Placement(size, size, (0, 0))
        return fit_image(load_image(image), self.manifest.preprocess)

    def as_input(self, prepared: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """The input of one run: a batch ``[N, H, W, 3]``, filled up with black where the artifact, or the profile of
        an engine, takes more images than there are; or the one image ``[H, W, 3]``.
        """
        if self.takes_image:
            (image,) = prepared
            return image
        count = self.fixed_batch or max(self.least_batch, len(prepared))
        if count == 1:
            return prepared[0][None]
        batch = np.zeros((count, *self.manifest.preprocess.size, 3), np.uint8)
        for slot, pixels in zip(batch, prepared, strict=False):
            slot[...] = pixels
        return batch

    def run(self, pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.generic]]:
        """Run the engine on what :meth:`as_input` gives; every output has a leading dimension for the images."""
        if self.takes_image:
            if pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
                raise ConfigError(f"the image is {list(pixels.shape)}, but the artifact takes [height, width, 3]")
            return self.backend.run(pixels)
        size = (self.fixed_batch or len(pixels), *self.manifest.preprocess.size, 3)
        if pixels.shape != size:
            raise ConfigError(f"the batch is {list(pixels.shape)}, but the artifact takes {list(size)}")
        return self.backend.run(pixels)

    def finish(self, outputs: dict[str, NDArray[np.generic]], placements: Sequence[Placement]) -> list[Result]:
        """Results in source pixels from the engine's outputs; outputs past the placements are padding."""
        manifest = self.manifest
        return assemble(
            manifest.task,
            outputs,
            placements,
            manifest.class_names,
            threshold=self._threshold,
            mask_threshold=manifest.thresholds.get("mask", 0.5),
            palette=manifest.palette,
        )

    def _batch_size(self, asked: int | None) -> int:
        if asked is not None and asked < 1:
            raise ConfigError(f"batch_size is {asked}, but must be at least 1")
        if self.fixed_batch is None:
            return asked or self.least_batch
        if asked not in (None, self.fixed_batch):
            if self.takes_image:
                raise ConfigError(f"batch_size is {asked}, but this artifact takes one image, of any size, a run")
            raise ConfigError(
                f"batch_size is {asked}, but this artifact was exported for exactly {self.fixed_batch} images a run; "
                "leave batch_size out, or export with --batch dynamic"
            )
        return self.fixed_batch

    def _results(self, images: Iterable[ImageSource], size: int, on_error: OnError) -> Iterator[Result | ImageError]:
        prepared: list[tuple[NDArray[np.uint8], Placement]] = []
        errors: list[ImageError | None] = []  # one for each image of this round, in order
        last = object()
        for image in chain(images, (last,)):
            if image is not last:
                try:
                    prepared.append(self.prepare(image))  # type: ignore[arg-type]
                    errors.append(None)
                except ImageError as error:
                    if on_error == "raise":
                        raise
                    errors.append(error)
                if len(errors) < size:
                    continue
            results = iter(self._run_batch(prepared, errors, on_error))
            for problem in errors:
                yield problem or next(results)
            prepared, errors = [], []

    def _run_batch(
        self,
        prepared: Sequence[tuple[NDArray[np.uint8], Placement]],
        errors: list[ImageError | None],
        on_error: OnError,
    ) -> list[Result]:
        if not prepared:
            return []
        try:
            outputs = self.run(self.as_input([pixels for pixels, _ in prepared]))
        except ImageError as error:  # of the one image of this round: an engine was not built for its size
            if on_error == "raise":
                raise
            errors[:] = [error]
            return []
        return self.finish(outputs, [placement for _, placement in prepared])


def _least_batch(manifest: Manifest) -> int:
    """The fewest images a run by the profile of an engine; 1 of every other artifact."""
    profile = manifest.engine.profile.get(manifest.inputs[0].name) if manifest.engine is not None else None
    return profile.minimum[0] if profile is not None and manifest.input_mode == "batch" else 1


def _check_input(manifest: Manifest, found: Sequence[TensorSpec]) -> None:
    """One input, of pixels: a batch at the size of the network, or an image whose sides are free."""
    (height, width), takes_image = manifest.preprocess.size, manifest.input_mode == "image"
    shape = found[0].shape if len(found) == 1 else ()
    if takes_image:
        fits = len(shape) == 3 and shape[2] == 3 and not any(isinstance(side, int) for side in shape[:2])
    else:
        fits = shape[1:] == (height, width, 3)
    if not fits:
        wanted = "[height, width, 3] of any size" if takes_image else f"[N, {height}, {width}, 3]"
        raise ArtifactError(
            f"the artifact's input must be uint8 {wanted}, but is {', '.join(str(spec) for spec in found)}"
        )


def _check_specs(kind: str, described: Sequence[TensorSpec], found: Sequence[TensorSpec]) -> None:
    """Compare names, types and shapes; the name of a free dimension is the engine's own affair."""
    ours, theirs = ({spec.name: spec for spec in specs} for specs in (described, found))
    missing, extra = sorted(set(ours) - set(theirs)), sorted(set(theirs) - set(ours))
    if missing or extra:
        raise ArtifactError(
            f"the artifact's {kind}s are not those of its manifest (missing: {', '.join(missing) or 'none'}; "
            f"not described: {', '.join(extra) or 'none'}); it was changed after its export: export the model again"
        )
    for name, spec in ours.items():
        if _fixed(spec) != _fixed(theirs[name]):
            raise ArtifactError(
                f"the artifact's {kind} is {theirs[name]}, but its manifest says {spec}; it was changed after its "
                "export: export the model again"
            )


def _fixed(spec: TensorSpec) -> tuple[str, list[int | None]]:
    """Type and shape, free dimensions as ``None``."""
    return spec.dtype, [side if isinstance(side, int) else None for side in spec.shape]


def _check_classes(manifest: Manifest, outputs: Sequence[TensorSpec]) -> None:
    if manifest.task != "classification":
        return
    for spec in outputs:
        if spec.name == "probabilities" and spec.shape[-1:] != (len(manifest.class_names),):
            raise ArtifactError(
                f"the artifact's output is {spec}, but its manifest names {len(manifest.class_names)} classes; it was "
                "changed after its export: export the model again"
            )
