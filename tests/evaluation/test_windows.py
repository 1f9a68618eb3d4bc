from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from autotimm.evaluation import evaluate
from autotimm.evaluation.windows import predict_windows, spans
from autotimm.models import load_checkpoint
from autotimm.models.torch_backend import predictor_of
from autotimm.runtime import Predictor, load
from autotimm.runtime.errors import ConfigError
from autotimm.runtime.segmentation_results import SemanticMask


@pytest.mark.parametrize("length", [1, 63, 64, 65, 100, 128, 1000])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
def test_windows_cover_every_pixel_once(length: int, overlap: float) -> None:
    found = spans(length, 64, overlap)
    assert [pixel for _, start, stop in found for pixel in range(start, stop)] == list(range(length))
    for start, from_pixel, to_pixel in found:
        assert start <= from_pixel < to_pixel <= start + 64
        assert 0 <= start <= max(0, length - 64)
    starts = [start for start, _, _ in found]
    assert all(later - earlier <= 64 * (1 - overlap) + 1 for earlier, later in pairwise(starts))
    for (first, _, edge), (second, _, _) in pairwise(found):
        assert abs((first + 32 - edge) + (second + 32 - edge)) <= 1  # as far from the one centre as from the other


def test_what_a_window_sees_is_not_scaled(segmentor_checkpoint: Path) -> None:
    """An image of the size of the input is one window; a smaller one is padded, a larger one seen in parts."""
    predictor = predictor_of(load_checkpoint(segmentor_checkpoint))
    image = np.random.default_rng(0).integers(0, 256, (64, 160, 3), dtype=np.uint8)
    one = predictor.predict(image[:, :96])
    assert isinstance(one, SemanticMask)
    np.testing.assert_array_equal(predict_windows(predictor, image[:, :96], 0.25).mask, one.mask)
    both = predict_windows(predictor, image, 0.25).mask
    assert both.shape == (64, 160)
    other = predictor.predict(image[:, 64:])
    assert isinstance(other, SemanticMask)
    np.testing.assert_array_equal(both[:, :80], one.mask[:, :80])
    np.testing.assert_array_equal(both[:, 80:], other.mask[:, 16:])
    small = predict_windows(predictor, image[:20, :30], 0.25)
    assert small.mask.shape == small.image_size == (20, 30)
    padded = np.full((64, 96, 3), predictor.manifest.preprocess.pad_value, np.uint8)
    padded[:20, :30] = image[:20, :30]
    whole = predictor.predict(padded)
    assert isinstance(whole, SemanticMask)
    np.testing.assert_array_equal(small.mask, whole.mask[:20, :30])


def test_checkpoint_and_artifact_agree(segmentor_checkpoint: Path, segmentor_artifact: Path, squares: Path) -> None:
    scaled = evaluate(segmentor_checkpoint, squares)
    ours, theirs = (
        evaluate(model, squares, sliding_window=0.5) for model in (segmentor_artifact, segmentor_checkpoint)
    )
    assert ours == pytest.approx({name: theirs[name] for name in ours}, abs=1e-4)
    assert theirs["miou"] != scaled["miou"]
    with load(segmentor_artifact) as predictor:
        assert isinstance(predictor, Predictor)
        assert evaluate(predictor, squares, sliding_window=0.5) == ours


def test_what_cannot_be(segmentor_artifact: Path, classifier_artifact: Path, squares: Path, color_images: Path) -> None:
    with pytest.raises(ConfigError, match=r"the overlap of sliding windows is 1, but must be in 0\.\.0\.9"):
        evaluate(segmentor_artifact, squares, sliding_window=1)
    with pytest.raises(ConfigError, match=r"--window\) is for semantic segmentation, and this model is for class"):
        evaluate(classifier_artifact, color_images, sliding_window=0.5)
