"""What the results of all tasks share: plain JSON types, and the way to the package supervision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from autotimm.runtime.errors import BackendUnavailableError


class _Sized(Protocol):
    @property
    def image_size(self) -> tuple[int, int]: ...

    @property
    def task(self) -> str: ...


def as_dict(result: _Sized, predictions: list[dict[str, Any]]) -> dict[str, Any]:
    """The size of the image, the task and the predictions."""
    height, width = result.image_size
    return {"width": width, "height": height, "task": result.task, "predictions": predictions}


def named(labels: NDArray[np.int32], scores: NDArray[np.float32], class_names: Sequence[str]) -> list[dict[str, Any]]:
    """One prediction a label: its index, name and score."""
    pairs = zip(labels.tolist(), scores.tolist(), strict=True)
    return [{"label": label, "name": class_names[label], "score": round(score, 6)} for label, score in pairs]


def coco_rows(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    labels: NDArray[np.int32],
    image_id: int,
    category_ids: Sequence[int] | None,
) -> list[dict[str, Any]]:
    """Rows of a COCO results file, boxes as ``[x, y, width, height]``."""
    rows = []
    for box, score, label in zip(boxes.tolist(), scores.tolist(), labels.tolist(), strict=True):
        x1, y1, x2, y2 = box
        category = category_ids[label] if category_ids is not None else label
        rows.append({"image_id": image_id, "category_id": category, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score})
    return rows


def supervision_package() -> Any:
    """The package supervision, or one line that says how to get it."""
    try:
        import supervision
    except ModuleNotFoundError as error:
        raise BackendUnavailableError("to_supervision() needs supervision: pip install supervision") from error
    return supervision
