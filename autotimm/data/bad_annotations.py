"""Annotations that cannot be used: counted by kind, named, and refused or left out."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from autotimm.data.boxed import BoxedImage
from autotimm.runtime.errors import ConfigError, DataError, DataWarning

BadAnnotationPolicy = Literal["refuse", "skip"]

SHOWN = 4
"""So many of each kind are named."""


@dataclass
class _Kind:
    count: int = 0
    examples: list[str] = field(default_factory=list)


class BadAnnotations:
    """What is wrong within the annotations of one split, collected while it is read.

    Args:
        policy: ``refuse`` ends with an error that names all of it; ``skip`` leaves it out, with one warning.

    Raises:
        ConfigError: no such policy.
    """

    def __init__(self, policy: str) -> None:
        for known in get_args(BadAnnotationPolicy):
            if policy == known:
                self.policy: BadAnnotationPolicy = known
                break
        else:
            raise ConfigError.unknown(
                "treatment of bad annotations (bad_annotations)", policy, get_args(BadAnnotationPolicy)
            )
        self._kinds: dict[str, _Kind] = {}

    def add(self, kind: str, example: object) -> None:
        """Note one thing that is left out.

        Args:
            kind: what is wrong, in the plural: ``boxes of no positive size``.
            example: by which a person finds it.
        """
        known = self._kinds.setdefault(kind, _Kind())
        known.count += 1
        if len(known.examples) < SHOWN and str(example) not in known.examples:
            known.examples.append(str(example))

    @property
    def counts(self) -> dict[str, int]:
        """By kind, in the order in which they were met."""
        return {name: kind.count for name, kind in self._kinds.items()}

    def settle(self, source: Path, images: Sequence[object]) -> None:
        """Refuse or tell, once everything has been read.

        Args:
            source: the file or folder of the annotations.
            images: what is left.

        Raises:
            DataError: something is wrong and is to be refused, or nothing is left.
        """
        told = "; ".join(f"{kind.count} {name}: {_some(kind)}" for name, kind in self._kinds.items())
        if told and self.policy == "refuse":
            raise DataError(f"{source}: {told}. Mend the annotations, or leave these out: bad_annotations='skip'")
        if not images:
            raise DataError(f"{source}: no image is left" + (f": {told}" if told else ""))
        if told:
            warnings.warn(f"{source}: left out {told}", DataWarning, stacklevel=2)


def _some(kind: _Kind) -> str:
    return ", ".join(kind.examples) + (", ..." if kind.count > len(kind.examples) else "")


@dataclass(frozen=True, eq=False)
class Objects:
    """The objects of one image as they were annotated, one row each."""

    boxes: NDArray[np.float64]
    """``[n, 4]`` xyxy in source pixels, whatever they hold."""
    labels: NDArray[np.int64]
    crowd: NDArray[np.bool_] | None = None
    """None where no format says it."""
    area: NDArray[np.float64] | None = None
    """NaN or nothing positive where there is none."""
    masks: tuple[dict[str, Any], ...] = ()
    """COCO's compressed RLE, where masks are wanted."""


def boxed_image(
    path: Path, image_id: int, size: tuple[int, int], objects: Objects, bad: BadAnnotations, name: str | None = None
) -> BoxedImage:
    """An image with what is usable of its objects, clipped to the image.

    Args:
        path: of the image.
        image_id: its number.
        size: ``(height, width)``.
        objects: as annotated.
        bad: takes what is not usable: not finite, of no positive size, or outside the image.
        name: of the image in messages; the file's where absent.
    """
    height, width = size
    corners = objects.boxes.reshape(-1, 4)
    finite = np.logical_and.reduce(np.isfinite(corners), axis=1)
    with np.errstate(invalid="ignore"):  # infinity minus infinity
        positive = np.logical_and.reduce(corners[:, 2:] > corners[:, :2], axis=1)
        clipped = np.clip(corners, 0, np.array([width, height, width, height], dtype=np.float64))
        inside = (clipped[:, 2:] > clipped[:, :2]).all(axis=1)
    for row in np.flatnonzero(~(finite & positive & inside)):
        kind = (
            "boxes with numbers that are not finite"
            if not finite[row]
            else "boxes of no positive size"
            if not positive[row]
            else "boxes outside their image"
        )
        bad.add(kind, f"{name or path.name} ({', '.join(f'{number:g}' for number in corners[row])})")
    kept = finite & positive & inside
    own = (clipped[:, 2] - clipped[:, 0]) * (clipped[:, 3] - clipped[:, 1])
    area = own if objects.area is None else np.where(np.isfinite(objects.area) & (objects.area > 0), objects.area, own)
    crowd = np.zeros(len(corners), dtype=np.bool_) if objects.crowd is None else objects.crowd
    return BoxedImage(
        path=path,
        image_id=image_id,
        size=size,
        boxes=clipped[kept].astype(np.float32),
        labels=objects.labels[kept],
        crowd=crowd[kept],
        area=area[kept].astype(np.float32),
        masks=tuple(compress(objects.masks, kept.tolist())),
    )
