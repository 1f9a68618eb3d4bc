"""What the network of an artifact with image input was given, beside what the host gives it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autotimm.export.comparison import Differences
from autotimm.export.internals import internal_values, is_inspectable
from autotimm.runtime.predictor import Predictor
from autotimm.runtime.resize import fit_image

Pixels = NDArray[np.uint8]


def network_pixels(
    differences: Differences, artifact: Path, predictor: Predictor, images: Iterable[Pixels]
) -> Iterator[Pixels]:
    """The network input of each image, as the artifact itself makes it.

    What follows in the graph is compared on these pixels, so that a grey level of the filter is not taken for a
    difference of the network, and hides none.

    Args:
        differences: takes the ``grey_levels`` by which they differ from those of the host, the tolerance of which is
            the proof of the resize.
        artifact: the file.
        predictor: of it.
        images: what a run of it takes, one by one.

    Yields:
        uint8 ``[h, w, 3]``; where the artifact takes batches, the images themselves.
    """
    look_inside = internal_values(artifact, ("pixels",)) if predictor.takes_image and is_inspectable(artifact) else None
    for image in images:
        if not predictor.takes_image:
            yield image
            continue
        expected, _ = fit_image(image, predictor.manifest.preprocess)
        if look_inside is None:  # an engine, whose inner values are out of reach
            yield expected
            continue
        pixels = look_inside(image)["pixels"].astype(np.float32)
        differences.compared["network_pixels"] += pixels[..., 0].size
        differences.note("grey_levels", pixels - expected)
        yield pixels.round().clip(0, 255).astype(np.uint8)
