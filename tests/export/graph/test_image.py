"""The resize in the graph against the host's and Pillow's, and results against those mapped back by the runtime."""

import io
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

from autotimm.export.graph.image import ImageResize
from autotimm.export.graph.image_operator import resize_antialiased_in_onnx
from autotimm.export.graph.image_placement import place
from autotimm.export.onnx import OPSET
from autotimm.runtime import Preprocess, fit_image
from autotimm.runtime.manifest import Target
from autotimm.runtime.pictures import generate

SIZES = [(1, 1), (1, 2), (1, 90), (70, 1), (2, 333), (400, 3), (24, 32), (31, 17), (48, 64), (120, 121), (333, 500)]
"""Tall, wide, one pixel, the size of the network, a half, double, and odd ones."""


class Pixels(torch.nn.Module):
    """The stage alone."""

    def __init__(self, preprocess: Preprocess, target: Target) -> None:
        super().__init__()
        self.resize = ImageResize(preprocess, target)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.resize(image)[0]


@cache
def exported(preprocess: Preprocess, target: Target) -> onnx.ModelProto:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            Pixels(preprocess, target),
            (torch.zeros(51, 67, 3, dtype=torch.uint8),),
            dynamo=True,
            opset_version=OPSET,
            input_names=["image"],
            dynamic_shapes=({0: torch.export.Dim("height"), 1: torch.export.Dim("width")},),
            custom_translation_table={torch.ops.autotimm.resize_antialiased.default: resize_antialiased_in_onnx},
            verbose=False,
        )
    return program.model_proto


def session_of(model: onnx.ModelProto) -> Callable[[np.ndarray], np.ndarray]:
    buffer = io.BytesIO()
    onnx.save(model, buffer)
    session = onnxruntime.InferenceSession(buffer.getvalue(), providers=["CPUExecutionProvider"])
    return lambda image: np.asarray(session.run(None, {"image": image})[0])[0]


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(1000 * height + width).integers(0, 256, (height, width, 3), dtype=np.uint8)


FITS: list[dict[str, Any]] = [
    {"fit": "letterbox", "align": "top_left"},
    {"fit": "letterbox", "align": "center"},
    {"fit": "crop", "crop_fraction": 0.875},
    {"fit": "stretch", "crop_fraction": 0.9},
]


@pytest.mark.parametrize("fit", FITS, ids=lambda fit: f"{fit['fit']}-{fit.get('align', '')}")
@pytest.mark.parametrize("size", [(48, 64), (40, 40)], ids=str)
def test_a_graph_places_every_image_as_the_host_does(fit: dict[str, Any], size: tuple[int, int]) -> None:
    preprocess = Preprocess(size, **fit)
    random = np.random.default_rng(0)
    sizes = [*SIZES, (4000, 3000), (20_000, 7), *random.integers(1, 5000, (60, 2)).tolist()]
    for height, width in sizes:
        rows, columns = place(preprocess, torch.empty(height, width, 0))
        expected = preprocess.place(height, width)
        assert (int(rows.resized), int(columns.resized)) == expected.resized_size
        assert (int(rows.offset), int(columns.offset)) == expected.offset


@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
@pytest.mark.parametrize("fit", FITS, ids=lambda fit: f"{fit['fit']}-{fit.get('align', '')}")
def test_without_antialiasing_the_pixels_are_the_hosts(interpolation: Any, fit: dict[str, Any]) -> None:
    preprocess = Preprocess((48, 64), **fit, interpolation=interpolation, antialias=False, pad_value=77)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        recorded = torch.jit.trace(Pixels(preprocess, "portable"), (torch.zeros(51, 67, 3, dtype=torch.uint8),))
    for size in SIZES:
        image = noise(*size)
        expected, _ = fit_image(image, preprocess)
        np.testing.assert_array_equal(recorded(torch.from_numpy(image))[0].numpy(), expected, err_msg=str(size))


@pytest.mark.parametrize(("target", "fit"), [("onnxruntime", FITS[2]), ("portable", FITS[0])], ids=str)
def test_so_are_those_of_onnx_in_one_session(target: Target, fit: dict[str, Any]) -> None:
    preprocess = Preprocess((48, 64), **fit, antialias=False)
    run = session_of(exported(preprocess, target))
    for size in SIZES:
        image = noise(*size)
        np.testing.assert_array_equal(run(image), fit_image(image, preprocess)[0], err_msg=str(size))


@pytest.mark.parametrize(
    ("target", "interpolation", "fit"),
    [
        ("onnxruntime", "bilinear", FITS[1]),
        ("onnxruntime", "bicubic", FITS[2]),
        ("portable", "bilinear", FITS[1]),
        ("portable", "bicubic", FITS[2]),
        ("portable", "lanczos", FITS[3]),
    ],
    ids=str,
)
def test_antialiased_pixels_are_pillows_to_one_level(target: Target, interpolation: Any, fit: dict[str, Any]) -> None:
    preprocess = Preprocess((48, 64), **fit, interpolation=interpolation)
    run = session_of(exported(preprocess, target))
    differing = []
    for index, size in enumerate(SIZES):
        height, width = size
        if preprocess.fit == "crop" and max(size) > 20 * min(size):
            continue  # there the host computes no more than the box
        image = generate(*size, index) if index % 2 else noise(*size)
        pixels = run(image)
        placement = preprocess.place(height, width)
        filter_ = Image.Resampling[interpolation.upper()]
        scaled = Image.fromarray(image)
        for extent in ((placement.resized_size[1], height), placement.resized_size[::-1]):  # along the rows first
            scaled = scaled.resize(extent, filter_)
        top, left = placement.offset
        inside = np.asarray(scaled.crop((-left, -top, 64 - left, 48 - top)))  # Pillow pads with black
        if preprocess.fit == "letterbox":
            covered = np.zeros((48, 64), bool)
            covered[top : top + placement.resized_size[0], left : left + placement.resized_size[1]] = True
            inside = np.where(covered[:, :, None], inside, preprocess.pad_value)
        apart = np.abs(pixels - inside.astype(int))
        assert apart.max() <= 1, size
        differing.append(float((apart > 0).mean()))
    assert np.mean(differing) < 0.01


@pytest.mark.parametrize("antialias", [False, True])
def test_the_portable_form_has_what_every_engine_builds(antialias: bool) -> None:
    model = exported(Preprocess((48, 64), **FITS[int(antialias)], antialias=antialias), "portable")
    types = {value.name: value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.value_info)}
    operators = {node.op_type for node in model.graph.node}
    assert not operators & {"Resize", "NonZero", "Mod", "If", "Loop"}
    assert ("MatMul" in operators) is antialias
    of_uint8 = [node.op_type for node in model.graph.node if types.get(node.input[0]) == onnx.TensorProto.UINT8]
    assert set(of_uint8) <= {"Cast", "Shape"}


def test_the_onnxruntime_form_resizes_by_its_own_operator() -> None:
    model = exported(Preprocess((48, 64), **FITS[2], interpolation="bicubic"), "onnxruntime")
    (node,) = (node for node in model.graph.node if node.op_type == "Resize")
    attributes = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
    assert (attributes["antialias"], attributes["cubic_coeff_a"], attributes["mode"]) == (1, -0.5, b"cubic")


def test_the_module_itself_gives_what_is_exported() -> None:
    preprocess = replace(Preprocess((48, 64), fit="crop"), interpolation="bicubic")
    image = generate(120, 90, 0)
    pixels = Pixels(preprocess, "onnxruntime")(torch.from_numpy(image))[0].numpy()
    assert np.abs(pixels - fit_image(image, preprocess)[0].astype(int)).max() <= 1
