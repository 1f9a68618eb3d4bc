"""Options of ``autotimm export`` for detectors and for precision, in panels of their own in the help."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer


class Nms(str, Enum):
    """Forms of NMS in the graph."""

    auto = "auto"
    operator = "operator"
    tensor = "tensor"


class Precision(str, Enum):
    """Of the network in the graph."""

    fp32 = "fp32"
    fp16 = "fp16"
    int8 = "int8"


class CalibrationMethod(str, Enum):
    """How the ranges of int8 are chosen."""

    percentile = "percentile"
    entropy = "entropy"
    minmax = "minmax"


# Panels of the help: a table of all options at once has no room for their names on 80 columns.
_DETECTION = "Detection"
_PRECISION = "Precision"

ScoreThresholdOption = Annotated[
    float | None, typer.Option(rich_help_panel=_DETECTION, help="Detections below it are dropped.")
]
IouThresholdOption = Annotated[
    float | None, typer.Option(rich_help_panel=_DETECTION, help="NMS drops the lower of two boxes above it.")
]
MaxDetectionsOption = Annotated[
    int | None, typer.Option(metavar="N", min=1, rich_help_panel=_DETECTION, help="Detections kept per image.")
]
CandidatesOption = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, rich_help_panel=_DETECTION, help="Locations that enter NMS, best first."),
]
NmsOption = Annotated[
    Nms,
    typer.Option(
        metavar="FORM",
        rich_help_panel=_DETECTION,
        help="operator: ONNX Runtime's own. tensor: plain operations, for every engine. auto: as the target needs.",
    ),
]
ClassAgnosticNmsOption = Annotated[
    bool | None,
    typer.Option(
        "--class-agnostic-nms/--nms-per-class",
        rich_help_panel=_DETECTION,
        help="Whether boxes of all classes suppress one another.",
    ),
]
MultiLabelOption = Annotated[
    bool | None,
    typer.Option(
        "--multi-label/--single-label",
        rich_help_panel=_DETECTION,
        help="Whether every class of a location can be a detection.",
    ),
]
Precisions = Annotated[
    list[Precision] | None,
    typer.Option(
        metavar="fp32|fp16|int8",
        rich_help_panel=_PRECISION,
        help="Of the network; what is around it stays fp32. A kit can have several: give it again.",
        show_default="fp32",
    ),
]
CalibrationOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        rich_help_panel=_PRECISION,
        help="int8: images like those to come; else the checkpoint's validation images.",
    ),
]
CalibrationImagesOption = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        max=512,
        rich_help_panel=_PRECISION,
        help="int8: at most so many are used.",
        show_default="128",
    ),
]
CalibrationMethodOption = Annotated[
    CalibrationMethod | None,
    typer.Option(
        metavar="METHOD",
        rich_help_panel=_PRECISION,
        help="int8: how the ranges are chosen: percentile, entropy or minmax.",
        show_default="percentile",
    ),
]
CalibrationSeedOption = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=0,
        rich_help_panel=_PRECISION,
        help="int8: of the choice of the images.",
        show_default="0",
    ),
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR|CSV",
        rich_help_panel=_PRECISION,
        help="fp16, int8: annotated data to measure what they cost.",
    ),
]
SplitOption = Annotated[str, typer.Option(rich_help_panel=_PRECISION, help="Which part of --data.")]
MaxDropOption = Annotated[
    float | None,
    typer.Option(
        metavar="DROP",
        min=0,
        max=1,
        rich_help_panel=_PRECISION,
        help="How much lower the main figure on --data may be: 0.01 is one point.",
    ),
]
