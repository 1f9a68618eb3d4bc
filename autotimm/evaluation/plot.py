"""The picture of precision over recall. The one module that needs matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from autotimm.runtime.drawing import color_of

if TYPE_CHECKING:
    from autotimm.evaluation.precision_recall import PrecisionRecall

MOST_CLASSES = 12
"""So many are drawn all; of more, the mean and the worst."""
WORST = 6

_LONGEST_NAME = 20
_STYLES: tuple[tuple[Literal["-", "--"], float], ...] = (("-", 1.8), ("--", 1.0))
"""Of the lines at IoU .5 and .75, with their widths."""
_DARKEST_ON_WHITE = 0.62
"""Relative luminance of the lightest line that is told well from white paper."""


def plot_precision_recall(curves: PrecisionRecall, path: Path) -> None:
    """Draw the curves of all classes, or of the worst, and their mean; a dot is where F1 at IoU .5 is highest.

    Args:
        curves: what to draw.
        path: ends in ``.png`` or ``.svg``.
    """
    shown = range(len(curves.class_names))
    if len(shown) > MOST_CLASSES:
        by_ap = np.argsort(curves.precision[0].mean(axis=1), kind="stable")
        shown = by_ap[:WORST].tolist()
    figure = Figure(figsize=(11, 6), dpi=110, layout="constrained")  # without pyplot, so without any global state
    axes = figure.add_subplot()
    handles, texts = [], []
    for place in shown:
        color = _line_color(int(curves.labels[place]))
        lines = [
            axes.plot(curves.recall, curves.precision[at, place], style, color=color, linewidth=width, alpha=0.85)[0]
            for at, (style, width) in enumerate(_STYLES)
        ]
        best = curves.best[place]
        axes.plot(best.recall, best.precision, "o", color=color, markersize=6, markeredgecolor="white", zorder=4)
        handles.append(lines[0])
        ap_50, ap_75 = curves.precision[:, place].mean(axis=1).tolist()
        texts.append(_row(curves.class_names[place], ap_50, ap_75, best.f1, best.score))
    mean = curves.mean()
    for at, (style, width) in enumerate(_STYLES):
        (line,) = axes.plot(curves.recall, mean[at], style, color="black", linewidth=width + 1, zorder=3)
        if at == 0:
            handles.append(line)
            texts.append(_row(f"mean of {len(curves.class_names)}", float(mean[0].mean()), float(mean[1].mean())))
    axes.set(xlim=(0, 1.005), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
    axes.set_xticks(np.linspace(0, 1, 11))
    axes.set_yticks(np.linspace(0, 1, 11))
    axes.grid(color="0.9")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    meanings = [Line2D([], [], color="0.3", linestyle=style, linewidth=width) for style, width in _STYLES]
    meanings.append(Line2D([], [], color="0.3", linestyle="", marker="o", markersize=6))
    figure.legend(
        meanings,
        ["IoU .5", "IoU .75", "highest F1 at IoU .5"],
        loc="outside upper left",
        ncols=3,
        frameon=False,
    )
    title = None
    if len(shown) < len(curves.class_names):
        title = f"the {len(shown)} of {len(curves.class_names)} classes with the lowest AP50"
    legend = figure.legend(
        [Line2D([], [], linestyle=""), *handles],
        [f"{'class':{_LONGEST_NAME}}  AP50  AP75    F1  score \u2265", *texts],
        loc="outside right upper",
        title=title,
        alignment="left",
        frameon=False,
        prop={"family": "monospace", "size": 9},
    )
    for text in legend.get_texts():
        text.set_parse_math(False)  # a dollar sign in a name is one
    with mpl.rc_context({"svg.hashsalt": "autotimm", "svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None} if path.suffix.lower() == ".svg" else None)


def _row(name: str, ap_50: float, ap_75: float, f1: float = np.nan, score: float = np.nan) -> str:
    short = name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 3] + "..."
    shown = [(ap_50, 6), (ap_75, 6), (f1, 6), (score, 9)]
    cells = [f"{'-':>{width}}" if np.isnan(value) else f"{value:{width}.3f}" for value, width in shown]
    # begins with a space of no width: names with an underscore in front would be left out of the legend
    return f"\u200b{short:{_LONGEST_NAME}}{''.join(cells)}"


def _line_color(label: int) -> tuple[float, float, float]:
    """The colour that the class has on pictures, darkened where it is too light for white paper."""
    red, green, blue = (channel / 255 for channel in color_of(label))
    luminance = 0.299 * red + 0.587 * green + 0.114 * blue  # ITU-R BT.601
    factor = min(1.0, _DARKEST_ON_WHITE / luminance)
    return red * factor, green * factor, blue * factor
