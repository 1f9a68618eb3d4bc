"""An fp32 graph in int8: images, ranges, the layers that stay, and the record of it all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

import onnx

from autotimm.export.calibration import CalibrationImages, CalibrationSettings
from autotimm.export.quantization import QuantizableGraph
from autotimm.export.ranges import measure_ranges
from autotimm.export.sensitivity import ERROR_LIMIT, IMAGES, AnswerError, choose_kept, rank_layers
from autotimm.runtime.errors import ExportError
from autotimm.runtime.manifest import Accuracy, Manifest, Quantization, Target


@dataclass(frozen=True)
class Quantized:
    """A graph and how it came about."""

    proto: onnx.ModelProto
    record: Quantization


class Quantizer:
    """Puts one graph into int8, more or less of it.

    Args:
        proto: fp32, with nodes named by stage.
        manifest: of the artifact that it will be.
        target: decides the flavour.
        settings: of the calibration.
        images: that it is done on.

    Raises:
        ExportError: it has no layer that can be quantised, or its values are not finite.
    """

    def __init__(
        self,
        proto: onnx.ModelProto,
        manifest: Manifest,
        target: Target,
        settings: CalibrationSettings,
        images: CalibrationImages,
    ) -> None:
        self.settings, self.images = settings, images
        self.graph = QuantizableGraph(proto, target)
        if not self.graph.layers:
            raise ExportError(f"{manifest.architecture} has no layer that can be quantised; export with fp16 or fp32")
        first = manifest.inputs[0].shape[0]
        batch = first if manifest.input_mode == "batch" and isinstance(first, int) else 1
        feeds = images.feeds(manifest, batch)
        self.ranges = measure_ranges(proto, self.graph.values_to_calibrate(), feeds, settings.method)
        self.error = AnswerError(proto, list(islice(feeds, IMAGES)))
        self.of_all = self.error(self.graph.quantized(self.ranges))
        self._alone: dict[str, float] | None = None

    def quantized(self, at_least: int = 0) -> Quantized:
        """The graph in int8 with the layers kept that must be, and no fewer than ``at_least``."""
        kept: tuple[str, ...] = ()
        left = self.of_all
        if at_least or left > ERROR_LIMIT:
            if self._alone is None:
                self._alone = rank_layers(self.graph, self.ranges, self.error)
            kept, left = choose_kept(self.graph, self.ranges, self.error, self._alone, at_least)
        record = Quantization(
            flavour=self.graph.flavour.name,
            method=self.settings.method,
            images=len(self.images.paths),
            image_source=self.images.source,
            seed=self.settings.seed,
            images_sha256=self.images.digest,
            layers=len(self.graph.layers) + len(self.graph.answering),
            kept=(*kept, *self.graph.answering),
            relative_error=float(f"{left:.3g}"),
            relative_error_of_all=float(f"{self.of_all:.3g}"),
        )
        return Quantized(self.graph.quantized(self.ranges, kept), record)


_TRIALS = 4
"""How often more layers are kept, to lose less than was allowed; each costs an evaluation."""


def quantize(
    proto: onnx.ModelProto,
    manifest: Manifest,
    target: Target,
    settings: CalibrationSettings,
    images: CalibrationImages,
    measure: Callable[[onnx.ModelProto], Accuracy | None] = lambda _: None,
) -> tuple[onnx.ModelProto, Quantization]:
    """The graph in int8, and the record.

    Args:
        proto: fp32, with nodes named by stage.
        manifest: of the artifact that it will be.
        target: decides the flavour.
        settings: of the calibration.
        images: that it is done on.
        measure: tells what a graph costs on annotated data; more layers are kept while that is too much.

    Raises:
        ExportError: it has no layer that can be quantised, or its values are not finite.
    """
    quantizer = Quantizer(proto, manifest, target, settings, images)
    found = quantizer.quantized()
    for _ in range(_TRIALS):
        accuracy = measure(found.proto)
        if accuracy is None or not accuracy.too_low:
            break
        count = len(found.record.kept) - len(quantizer.graph.answering)
        more = quantizer.quantized(at_least=max(4, count + count // 2))
        if more.record.kept == found.record.kept:
            break
        found = more
    return found.proto, found.record
