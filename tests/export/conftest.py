from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from autotimm.models import ImageClassifier, YOLOXDetector
from autotimm.runtime.pictures import generate


@pytest.fixture(scope="session")
def detector() -> YOLOXDetector:
    """A YOLOX-nano of three classes with random weights that finds a hundred things on anything."""
    torch.manual_seed(0)
    model = YOLOXDetector("yolox-nano", 3, class_names=["cat", "dog", "fox"], score_thresh=0.3, nms_thresh=0.5)
    model.preprocess = replace(model.preprocess, size=(96, 128))
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    head = model.network.head
    with torch.no_grad():
        for norm in norms:
            norm.momentum = 1.0  # statistics of real activations, so that the deep random network stays in range
        model.train()(model.normalize(torch.from_numpy(np.stack([generate(192, 256, seed) for seed in range(12)]))))
        for module in (*head.cls_preds, *head.obj_preds):
            module.weight.normal_(std=0.3)
            module.bias.zero_()
        for module in head.reg_preds:
            module.weight.normal_(std=0.02)
            module.bias.fill_(0.7)
    return model.eval()


@pytest.fixture(scope="session")
def classifier() -> ImageClassifier:
    torch.manual_seed(0)
    return ImageClassifier("test_resnet", 7, pretrained=False).eval()


@pytest.fixture(scope="session")
def checkpoint(detector: YOLOXDetector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return detector.save(tmp_path_factory.mktemp("checkpoint") / "detector.ckpt")
