"""Writing a trained model as one verified TorchScript file that describes itself."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from autotimm.export.accuracy import AccuracyMeter, accuracy_settings
from autotimm.export.archive import Parts, archive_digest, read_parts, write_archive
from autotimm.export.calibration import CalibrationSettings, calibration_of
from autotimm.export.composition import compose, example_input
from autotimm.export.delivery import described_by, write_verified
from autotimm.export.graph.contract import ExportGraph
from autotimm.export.settings import ExportSettings, applied, check_batch, evaluating
from autotimm.models.checkpoint import load_checkpoint
from autotimm.models.task import TaskModel
from autotimm.models.torch_backend import describe
from autotimm.runtime.errors import ConfigError, ExportError
from autotimm.runtime.files import replacing
from autotimm.runtime.manifest import InputMode, Manifest, Precision
from autotimm.runtime.pictures import choose_pictures

_ARITHMETIC = {f"aten::{name}" for name in ("add", "sub", "rsub", "mul", "div", "pow", "remainder", "floor_divide")}
"""Operators that take a number where they take a second tensor."""


def export_to_torchscript(
    model: TaskModel | str | Path,
    path: str | Path,
    *,
    batch: int | Literal["dynamic"] = 1,
    input: InputMode = "batch",  # noqa: A002 (the option's name)
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
    class_agnostic_nms: bool | None = None,
    multi_label: bool | None = None,
    verify_images: str | Path | None = None,
    verify: bool = True,
) -> Manifest:
    """Export a model to TorchScript with preprocessing, decoding and NMS in the graph, then verify what was written.

    The file loads with ``torch.jit.load`` and in LibTorch with nothing else installed: all in it are torch's own
    operators. ``forward`` takes the pixels and gives a tuple, the outputs in the order of the manifest, which is the
    extra file ``autotimm.json``.

    Args:
        model: a model, or the path of a checkpoint.
        path: the ``.pt`` file to write; it appears under this name only when it is complete and verified.
        batch: number of images the graph takes at once, or ``"dynamic"``.
        input: ``"batch"`` takes images at the size of the network; ``"image"`` one image of any size, which it resizes
            itself, and gives results in the pixels of that image.
        precision: of the network: ``fp32`` or ``fp16``; torch has no int8 for TorchScript any more.
        calibration: must be ``None``; here to say so where it is asked for.
        data: fp16: annotated data, to measure what the precision costs; the manifest records it.
        split: of the data.
        max_drop: how much lower the task's main figure may be than in fp32: .01 is one point.
        size: ``(height, width)`` of the network input; the model's own where absent.
        score_threshold: detection: detections below it are dropped; the model's own where absent.
        iou_threshold: detection: IoU above which NMS drops the lower-scored box; the model's own where absent.
        max_detections: detection: rows of the outputs; the model's own where absent.
        candidates: detection: how many of the best locations enter NMS.
        class_agnostic_nms: detection: whether boxes of different classes suppress one another; the model's own where
            absent.
        multi_label: detection: whether every class of a location enters NMS, or its best class only; the model's own
            where absent.
        verify_images: folder of images for the verification; where absent, validation images that the checkpoint
            remembers, else generated pictures.
        verify: ``False`` writes the artifact unverified, and the manifest says so.

    Returns:
        The manifest that travels with the file.

    Raises:
        ConfigError: an option that does not fit the model.
        DataError: the annotated data cannot be read, or the folder to verify on is missing or empty.
        ExportError: the model could not be traced, or needs an operator that torch alone does not have.
        VerificationError: the artifact does not give the model's answers; it is kept as ``NAME.rejected.pt`` beside
            ``NAME.rejected.json``.
    """
    path = Path(path)
    if path.suffix != ".pt":
        raise ConfigError(f"{path}: the name of a TorchScript artifact ends in .pt")
    check_batch(batch, input)
    if precision == "int8":
        raise ConfigError(
            "torch has no int8 for TorchScript any more (its quantisation moved to torchao, whose models are no "
            "TorchScript): export with --format onnx or trt, or with --precision fp16"
        )
    if not isinstance(model, TaskModel):
        model = load_checkpoint(model)
    calibration_of(precision, calibration, ())
    measured = accuracy_settings(precision, data, split, max_drop)
    settings = ExportSettings(size, score_threshold, iou_threshold, max_detections, class_agnostic_nms, multi_label)
    pictures = choose_pictures(verify_images, model.validation_images) if verify else None
    with applied(model, settings), evaluating(model), replacing(path) as temporary:
        meter = AccuracyMeter(model, measured) if measured is not None else None
        graph = compose(model, input=input, target="portable", precision=precision, candidates=candidates)
        parts = _trace(graph, model, batch)
        manifest = described_by(graph, describe(model, "batch" if batch == "dynamic" else batch, input))
        manifest = replace(manifest, precision=precision)
        return write_verified(
            model,
            _complete(manifest, parts),
            partial(write_archive, parts),
            path=path,
            temporary=temporary,
            pictures=pictures,
            accuracy=meter,
        )


class Traced(nn.Module):
    """What is traced: ``values`` gives the outputs of the graph and its internal values after them."""

    def __init__(self, graph: ExportGraph) -> None:
        super().__init__()
        self.graph = graph

    def values(self, images: Tensor) -> Any:
        """For verification; ``forward``, which is added to the traced module, gives the outputs alone."""
        return self.graph(images)


def _trace(graph: ExportGraph, model: TaskModel, batch: int | Literal["dynamic"]) -> Parts:
    """Record the graph's operations on the CPU, and check what they are."""
    trace: Any = torch.jit.trace_module  # which has no types
    images, _ = example_input(graph, model, batch)
    try:
        with _on_cpu(graph, model.device), torch.no_grad(), _quiet():
            # torch's own check would run the same pixels again; the verification compares real ones
            traced = trace(Traced(graph.eval()), {"values": images}, check_trace=False)
            _mend(traced)
            traced.define(_forward(len(graph.output_names)))
            traced.define(_value_names((*graph.output_names, *graph.internal_names)))
            if batch == "dynamic":
                _check_free_batch(traced, graph, images[:1])
            _check_operators(operators_of(traced), model)
            return read_parts(io.BytesIO(traced.save_to_buffer()))
    except ExportError:
        raise
    except Exception as error:
        cause = " ".join(str(error.__cause__ or error).split())[:300]
        raise ExportError(
            f"{model.architecture} could not be traced for TorchScript ({type(error).__name__}: {cause})"
        ) from error


def _forward(outputs: int) -> str:
    """The source of the method that leaves the internal values out; TorchScript has no tuples of unknown length."""
    types, values = ", ".join(["Tensor"] * outputs), "".join(f"values[{index}], " for index in range(outputs))
    lines = (
        f"def forward(self, images: Tensor) -> Tuple[{types}]:",
        "    values = self.values(images)",
        f"    return ({values})\n",
    )
    return "\n".join(lines)


def _value_names(names: Sequence[str]) -> str:
    """The source of a method that says what ``values`` gives, in its order."""
    listed = ", ".join(f'"{name}"' for name in names)
    return f"def value_names(self) -> List[str]:\n    return [{listed}]\n"


def _mend(module: Any) -> None:
    """Put right what a trace records too literally, in every method of a module and its parts."""
    for part in module.modules():
        for name in part._c._method_names():
            graph = part._c._get_method(name).graph
            _restore_numbers(graph)
            _free_devices(graph)


def _restore_numbers(graph: Any) -> None:
    """Python's numbers as numbers.

    A trace holds them as tensors, and once it is saved nothing tells them from real ones: ``mask * 2.0`` becomes
    float64. Torch's optimiser happens to hide that, and its plain executor does not.
    """
    for constant in graph.findAllNodes("prim::Constant"):
        if not constant.hasAttribute("value") or constant.kindOf("value") != "t":
            continue
        value = constant.t("value")
        if value.dim() == 0 and value.dtype in (torch.float64, torch.int64):
            for use in list(constant.output().uses()):
                if use.user.kind() in _ARITHMETIC and use.offset == 1:
                    with graph.insert_point_guard(use.user):
                        use.user.replaceInput(1, graph.insertConstant(value.item()))


def _free_devices(graph: Any) -> None:
    """Let what the trace made on the CPU (a range, a mask) be made where the images are, wherever the file is loaded.

    A trace holds the device as a constant. Layers that are given no tensor, but sizes only, keep it (XCiT, EdgeNeXt).
    """
    tensors = [value for value in graph.inputs() if value.type().kind() == "TensorType" and value.type().dim()]
    fixed = [node for node in graph.findAllNodes("prim::Constant") if node.output().type().kind() == "DeviceObjType"]
    if fixed and tensors:
        own = graph.create("prim::device", tensors[:1], 1)
        own.output().setType(fixed[0].output().type())
        graph.prependNode(own)
        for node in fixed:
            node.output().replaceAllUsesWith(own.output())


def operators_of(module: Any) -> set[str]:
    """Every kind of operation in the methods of a TorchScript module and in what they call."""
    nodes = [node for name in ("forward", "values") for node in getattr(module, name).inlined_graph.nodes()]
    found = set()
    while nodes:
        node = nodes.pop()
        found.add(node.kind())
        nodes += [inner for block in node.blocks() for inner in block.nodes()]
    return found


def _check_operators(found: set[str], model: TaskModel) -> None:
    """Refuse what LibTorch alone cannot run.

    Raises:
        ExportError: naming the operators.
    """
    foreign = sorted(kind for kind in found if not kind.startswith(("aten::", "prim::")) or kind == "prim::PythonOp")
    if foreign:
        raise ExportError(
            f"{model.architecture} needs operators that are not torch's own ({', '.join(foreign)}), so that its "
            "TorchScript would not load in C++: use another backbone, or --format onnx"
        )


def _check_free_batch(traced: Any, graph: ExportGraph, image: Tensor) -> None:
    """Run a module that was traced with two images on one.

    Raises:
        ExportError: the number of images was recorded as a constant.
    """
    try:
        same = all(
            one.shape == other.shape and torch.allclose(one, other, atol=1e-3)
            for one, other in zip(traced(image), graph(image), strict=False)
        )
        cause = "one image gives other values"
    except RuntimeError as error:
        same, cause = False, str(error).strip().splitlines()[-1]
    if not same:
        raise ExportError(f"the number of images is fixed by the network ({cause}); export with a number for --batch")


def _complete(manifest: Manifest, parts: Parts) -> Manifest:
    """Add what is known once the graph is traced."""
    hashes = {**manifest.hashes, "graph_sha256": archive_digest(parts)}
    return replace(manifest, format="torchscript", hashes=hashes)


@contextmanager
def _on_cpu(graph: ExportGraph, device: torch.device) -> Iterator[None]:
    """Have the graph, and the model that it shares its weights with, on the CPU for a while."""
    graph.cpu()
    try:
        yield
    finally:
        graph.to(device)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep from the user that TorchScript is no longer developed, and what a trace cannot see; all of it is checked."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
