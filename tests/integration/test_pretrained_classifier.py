"""A classifier with real ImageNet weights, from PyTorch to the artifact."""

from pathlib import Path

import pytest

from autotimm.models import ImageClassifier, load_checkpoint
from autotimm.models.torch_backend import predictor_of
from autotimm.runtime import load


def test_espresso(shared: Path, tmp_path: Path) -> None:
    from skimage import data

    weights = shared / "weights" / "tf_efficientnet_lite0.in1k.safetensors"
    model = ImageClassifier("tf_efficientnet_lite0", 1000, pretrained=str(weights)).eval()
    photo = data.coffee()
    expected = predictor_of(model).predict(photo)
    manifest = model.export(tmp_path / "lite0.onnx")
    assert manifest.verification.status == "passed"
    with load(tmp_path / "lite0.onnx") as predictor:
        actual = predictor.predict(photo)
    assert actual.names[0] == expected.names[0] == "espresso"
    assert actual.scores[0] > 0.9
    assert actual.scores[0] == pytest.approx(expected.scores[0], abs=1e-4)
    restored = load_checkpoint(model.save(tmp_path / "lite0.ckpt"))  # needs neither the weights nor the names again
    assert predictor_of(restored).predict(photo).names[0] == "espresso"
