"""Writing a trained model as one verified ONNX file that describes itself."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import onnx
import onnxruntime
import torch

from autotimm.export.accuracy import AccuracyMeter, accuracy_settings
from autotimm.export.calibration import CalibrationSettings, calibration_of
from autotimm.export.composition import compose, example_input
from autotimm.export.delivery import described_by, write_verified
from autotimm.export.graph.contract import ExportGraph
from autotimm.export.graph.detection import NmsForm
from autotimm.export.graph.image import ImageGraph
from autotimm.export.graph.image_operator import resize_antialiased_in_onnx
from autotimm.export.graph.nms import keep_by_nms_in_onnx
from autotimm.export.int8 import quantize
from autotimm.export.opset import lower_opset, opset_of
from autotimm.export.settings import ExportSettings, applied, check_batch, evaluating
from autotimm.export.stages import name_nodes_by_stage
from autotimm.models.checkpoint import load_checkpoint
from autotimm.models.task import TaskModel
from autotimm.models.torch_backend import describe
from autotimm.runtime.errors import ConfigError, ExportError
from autotimm.runtime.files import replacing
from autotimm.runtime.manifest import METADATA_KEY, Accuracy, InputMode, Manifest, Precision, Target
from autotimm.runtime.pictures import choose_pictures

OPSET = 18
"""The lowest opset that torch's exporter writes without conversion, and all that the graphs need: every engine that
reads a newer one reads this one. What is written for every engine goes one lower: :mod:`autotimm.export.opset`."""


def export_to_onnx(
    model: TaskModel | str | Path,
    path: str | Path,
    *,
    batch: int | Literal["dynamic"] = 1,
    input: InputMode = "batch",  # noqa: A002 (the option's name)
    target: Target = "onnxruntime",
    precision: Precision = "fp32",
    calibration: CalibrationSettings | str | Path | None = None,
    data: str | Path | None = None,
    split: str = "val",
    max_drop: float | None = None,
    size: tuple[int, int] | None = None,
    score_threshold: float | None = None,
    iou_threshold: float | None = None,
    max_detections: int | None = None,
    candidates: int | None = None,
    nms: Literal["auto"] | NmsForm = "auto",
    class_agnostic_nms: bool | None = None,
    multi_label: bool | None = None,
    verify_images: str | Path | None = None,
    verify: bool = True,
) -> Manifest:
    """Export a model to ONNX with preprocessing, decoding and NMS in the graph, then verify what was written.

    Args:
        model: a model, or the path of a checkpoint.
        path: the ``.onnx`` file to write; it appears under this name only when it is complete and verified.
        batch: number of images the graph takes at once, or ``"dynamic"``.
        input: ``"batch"`` takes images at the size of the network; ``"image"`` one image of any size, which it resizes
            itself, and gives results in the pixels of that image.
        target: ``"onnxruntime"`` chooses what is fastest there, ``"portable"`` only what every engine runs, TensorRT
            included.
        precision: of the network: ``fp32``, ``fp16``, or ``int8`` with the layers kept in fp32 that it would hurt.
        calibration: int8: a folder of images like those that the model will see, or settings with it; where absent, the
            validation images that the checkpoint remembers.
        data: fp16 and int8: annotated data, to measure what the precision costs; the manifest records it.
        split: of the data.
        max_drop: how much lower the task's main figure may be than in fp32: .01 is one point.
        size: ``(height, width)`` of the network input; the model's own where absent.
        score_threshold: detection: detections below it are dropped; the model's own where absent.
        iou_threshold: detection: IoU above which NMS drops the lower-scored box; the model's own where absent.
        max_detections: detection: rows of the outputs; the model's own where absent.
        candidates: detection: how many of the best locations enter NMS.
        nms: detection: ``"operator"`` is ONNX's NonMaxSuppression, ``"tensor"`` plain tensor operations that every
            engine runs, ``"auto"`` the one for the target.
        class_agnostic_nms: detection: whether boxes of different classes suppress one another; the model's own where
            absent.
        multi_label: detection: whether every class of a location enters NMS, or its best class only; the model's own
            where absent.
        verify_images: folder of images for the verification; where absent, validation images that the checkpoint
            remembers, else those of the calibration, else generated pictures.
        verify: ``False`` writes the artifact unverified, and the manifest says so.

    Returns:
        The manifest that travels with the file.

    Raises:
        ConfigError: an option that does not fit the model, or the others.
        DataError: no image to calibrate on can be read, the annotated data cannot be, or the folder to verify on is
            missing or empty.
        ExportError: the model could not be traced or written.
        VerificationError: the artifact does not give the model's answers, or loses more than ``max_drop``; it is kept
            as ``NAME.rejected.onnx`` beside ``NAME.rejected.json``.
    """
    path = Path(path)
    if path.suffix != ".onnx":
        raise ConfigError(f"{path}: the name of an ONNX artifact ends in .onnx")
    check_batch(batch, input)
    if not isinstance(model, TaskModel):
        model = load_checkpoint(model)
    measured = accuracy_settings(precision, data, split, max_drop)
    calibrated = calibration_of(precision, calibration, model.validation_images)
    settings = ExportSettings(size, score_threshold, iou_threshold, max_detections, class_agnostic_nms, multi_label)
    calibration_images = calibrated[1].paths if calibrated is not None else ()
    pictures = choose_pictures(verify_images, model.validation_images, calibration_images) if verify else None
    # What cannot be read or written is found out before the graph is traced, which takes seconds.
    with applied(model, settings), evaluating(model), replacing(path) as temporary:
        meter = AccuracyMeter(model, measured) if measured is not None else None
        graph = compose(model, input=input, target=target, precision=precision, candidates=candidates, nms=nms)
        proto = _trace(graph, model, batch)
        if target == "portable" and (obstacles := lower_opset(proto)):
            warnings.warn(
                f"{path}: stays at opset {OPSET}, which TensorRT 8.6 does not read ({'; '.join(obstacles[:3])})",
                stacklevel=2,
            )
        manifest = described_by(graph, describe(model, "batch" if batch == "dynamic" else batch, input))
        manifest = replace(manifest, precision=precision)
        if calibrated is not None:
            proto, record = quantize(proto, manifest, target, *calibrated, partial(_accuracy, meter, manifest))
            # The int8 of ONNX Runtime is not what TensorRT builds, whatever the operators.
            written_for = target if target == "onnxruntime" else manifest.target
            manifest = replace(manifest, quantization=record, target=written_for)
        return write_verified(
            model,
            _complete(manifest, proto),
            partial(write_onnx, proto),
            path=path,
            temporary=temporary,
            pictures=pictures,
            accuracy=meter,
        )


def _trace(graph: ExportGraph, model: TaskModel, batch: int | Literal["dynamic"]) -> onnx.ModelProto:
    """Run torch's exporter and take out what only a debugger of the exporter wants."""
    images, free = example_input(graph, model, batch)
    graph.to(model.device).eval()
    try:
        with torch.no_grad(), _quiet():
            program = torch.onnx.export(
                graph,
                (images.to(model.device),),
                dynamo=True,
                opset_version=OPSET,
                input_names=["image" if isinstance(graph, ImageGraph) else "images"],
                output_names=[*graph.output_names, *graph.internal_names],
                dynamic_shapes=({axis: torch.export.Dim(name) for axis, name in free.items()},) if free else None,
                custom_translation_table={
                    torch.ops.autotimm.keep_by_nms.default: keep_by_nms_in_onnx,
                    torch.ops.autotimm.resize_antialiased.default: resize_antialiased_in_onnx,
                },
                verbose=False,
            )
    except Exception as error:
        cause = " ".join(str(error.__cause__ or error).split())[:300]
        raise ExportError(
            f"{model.architecture} could not be traced for ONNX ({type(error).__name__}: {cause})"
        ) from error
    assert program is not None  # dynamo=True always gives a program
    proto: onnx.ModelProto = program.model_proto
    name_nodes_by_stage(proto)
    _strip(proto, set(graph.internal_names))
    return proto


def _strip(proto: onnx.ModelProto, internal_names: set[str]) -> None:
    """Drop the internal outputs (they stay as named values inside) and the exporter's stack traces."""
    kept = [output for output in proto.graph.output if output.name not in internal_names]
    del proto.graph.output[:]
    proto.graph.output.extend(kept)
    del proto.graph.value_info[:]
    del proto.metadata_props[:]
    for node in proto.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.initializer):
        del value.metadata_props[:]
    proto.graph.name = "autotimm"
    proto.producer_name, proto.producer_version = "autotimm", ""


def _complete(manifest: Manifest, proto: onnx.ModelProto) -> Manifest:
    """Add what is known once the graph is written."""
    return replace(
        manifest,
        format="onnx",
        opset=opset_of(proto),
        hashes={**manifest.hashes, "graph_sha256": graph_digest(proto)},
        versions={**manifest.versions, "onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__},
    )


def write_onnx(proto: onnx.ModelProto, manifest: Manifest, path: Path) -> None:
    """Write a model with this manifest in it.

    Raises:
        ExportError: it is larger than an ONNX file can be.
    """
    embed_manifest(proto, manifest)
    try:
        onnx.save(proto, path)
    except ValueError as error:  # protobuf's limit of 2 GB a message
        raise ExportError(f"{path}: the model does not fit into one ONNX file ({error})") from error


def _accuracy(meter: AccuracyMeter | None, manifest: Manifest, proto: onnx.ModelProto) -> Accuracy | None:
    """What a graph costs that is no artifact yet; nothing is measured where no drop was forbidden."""
    if meter is None or meter.settings.max_drop is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trial.onnx"
        write_onnx(proto, manifest, path)
        return meter(path)


def embed_manifest(proto: onnx.ModelProto, manifest: Manifest) -> None:
    """Put the manifest into a model's metadata, in place of one that is there."""
    others = [entry for entry in proto.metadata_props if entry.key != METADATA_KEY]
    del proto.metadata_props[:]
    proto.metadata_props.extend(others)
    proto.metadata_props.add(key=METADATA_KEY, value=manifest.to_json())


def graph_digest(proto: onnx.ModelProto) -> str:
    """SHA-256 of the graph with its weights, without the metadata, which later verifications change."""
    return hashlib.sha256(proto.graph.SerializeToString(deterministic=True)).hexdigest()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress, warnings and log lines from the user; what goes wrong still raises."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
