from pathlib import Path

import pytest
import torch

from autotimm.models import ImageClassifier


@pytest.fixture(scope="session")
def classifier() -> ImageClassifier:
    torch.manual_seed(0)
    return ImageClassifier("test_resnet", 7, pretrained=False).eval()


@pytest.fixture(scope="session")
def checkpoint(detector_checkpoint: Path) -> Path:
    return detector_checkpoint
