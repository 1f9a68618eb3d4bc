"""The images that int8 is calibrated on, as the graph takes them."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import numpy as np

from autotimm.export.ranges import METHODS, Feed, Method
from autotimm.runtime.errors import ConfigError, DataError, ImageError
from autotimm.runtime.files import sha256_of
from autotimm.runtime.images import list_images, load_image
from autotimm.runtime.manifest import Manifest, Precision
from autotimm.runtime.resize import fit_image

DEFAULT_IMAGES = 128
MOST_IMAGES = 512
"""More change the ranges by nothing that can be measured, and TensorRT's own tools take no more either."""


@dataclass(frozen=True)
class CalibrationSettings:
    """How to choose the images, and the ranges on them."""

    source: str | Path | Sequence[str | Path] | None = None
    """A folder of images, looked through with the folders in it, or paths; where absent, the validation images that the
    checkpoint remembers."""
    images: int = DEFAULT_IMAGES
    """At most so many are used."""
    method: Method = "percentile"
    seed: int = 0
    """Of the choice, where there are more."""

    def __post_init__(self) -> None:
        if not 1 <= self.images <= MOST_IMAGES:
            raise ConfigError(
                f"calibration images: {self.images} were asked for, but between 1 and {MOST_IMAGES} can be used"
            )
        if self.method not in METHODS:
            raise ConfigError.unknown("calibration method", self.method, METHODS)


@dataclass(frozen=True)
class CalibrationImages:
    """Images that were chosen and can be read."""

    paths: tuple[Path, ...]
    source: str
    """Where they come from, in words."""
    skipped: int = 0
    """So many of those that were chosen could not be read; others stand in for them where there are others."""
    digest: str = field(default="")
    """SHA-256 over the names and contents of the files, in the order in which they are used."""

    def feeds(self, manifest: Manifest, batch: int) -> CalibrationFeeds:
        """The graph's input on each of them, through the artifact's own preprocessing.

        Args:
            manifest: of the artifact.
            batch: images a run.
        """
        return CalibrationFeeds(self.paths, manifest, batch)


@dataclass(frozen=True)
class CalibrationFeeds:
    """Can be gone through any number of times; an image is decoded when its turn comes."""

    paths: Sequence[Path]
    manifest: Manifest
    batch: int

    def __iter__(self) -> Iterator[Feed]:
        name = self.manifest.inputs[0].name
        if self.manifest.input_mode == "image":
            for path in self.paths:
                yield {name: load_image(path)}
            return
        for start in range(0, len(self.paths), self.batch):
            group = [self.paths[min(start + place, len(self.paths) - 1)] for place in range(self.batch)]
            yield {name: np.stack([fit_image(load_image(path), self.manifest.preprocess)[0] for path in group])}


def calibration_of(
    precision: Precision, given: CalibrationSettings | str | Path | None, remembered: Sequence[str]
) -> tuple[CalibrationSettings, CalibrationImages] | None:
    """What an export calibrates on; ``None`` where it does not.

    Args:
        precision: that was asked for.
        given: settings, or a folder of images.
        remembered: validation images that the checkpoint names.

    Raises:
        ConfigError: calibration was asked for with another precision than int8, or there are no images.
        DataError: the images cannot be read.
    """
    if precision not in get_args(Precision):
        raise ConfigError.unknown("precision", str(precision), get_args(Precision))
    if precision != "int8":
        if given is not None:
            raise ConfigError(f"calibration is for int8, and the precision is {precision}: leave it out")
        return None
    settings = given if isinstance(given, CalibrationSettings) else CalibrationSettings(given)
    return settings, choose_images(settings, remembered)


def choose_images(settings: CalibrationSettings, remembered: Sequence[str]) -> CalibrationImages:
    """Choose at random, with a seed, among the images that there are.

    Args:
        settings: where from, and how many.
        remembered: validation images that the checkpoint names.

    Raises:
        ConfigError: there is no folder, and the checkpoint remembers no images that are here.
        DataError: the folder is missing or empty, or none of its images can be read.
    """
    paths, source = _candidates(settings.source, remembered)
    order = np.random.default_rng(settings.seed).permutation(len(paths))
    chosen: list[Path] = []
    problems: list[str] = []
    for index in order:
        if len(chosen) == settings.images:
            break
        try:
            load_image(paths[index])
        except ImageError as error:
            problems.append(str(error))
        else:
            chosen.append(paths[index])
    if not chosen:
        raise DataError(
            f"calibration: none of the {len(paths)} images in {source} can be read; the first: {problems[0]}"
        )
    if problems:
        warnings.warn(
            f"calibration: {len(problems)} images in {source} cannot be read and are passed over; "
            f"the first: {problems[0]}",
            stacklevel=2,
        )
    digest = hashlib.sha256()
    for path in chosen:
        digest.update(f"{path.name} {sha256_of(path)}\n".encode())
    return CalibrationImages(
        tuple(chosen), f"{len(chosen)} of {len(paths)} images: {source}", len(problems), digest.hexdigest()
    )


def _candidates(source: str | Path | Sequence[str | Path] | None, remembered: Sequence[str]) -> tuple[list[Path], str]:
    if isinstance(source, str | Path):
        return list_images(source, recursive=True), Path(source).resolve().name
    if source is not None:
        if not source:
            raise DataError("calibration: the list of images is empty")
        return [Path(one) for one in source], "given paths"
    present = [Path(name) for name in remembered if Path(name).is_file()]
    if not present:
        why = (
            "the validation images that the checkpoint remembers are not here"
            if remembered
            else "the checkpoint remembers no validation images"
        )
        raise ConfigError(
            "int8 needs images to find the ranges of the values inside the network: give a folder of some hundred that "
            f"look like what the model will see, --calibration DIR ({why})"
        )
    return present, "validation images of the checkpoint"
