from pathlib import Path

import pytest
import torch

from autotimm.export import export_to_onnx
from autotimm.models import ImageClassifier


@pytest.fixture(scope="session")
def classifier() -> ImageClassifier:
    torch.manual_seed(0)
    return ImageClassifier("test_resnet", 7, pretrained=False).eval()


@pytest.fixture(scope="session")
def checkpoint(detector_checkpoint: Path) -> Path:
    return detector_checkpoint


@pytest.fixture(scope="session")
def portable(classifier: ImageClassifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier for any number of images of 32 x 32, for every engine."""
    path = tmp_path_factory.mktemp("portable") / "model.onnx"
    export_to_onnx(classifier, path, target="portable", batch="dynamic", size=(32, 32), verify=False)
    return path
