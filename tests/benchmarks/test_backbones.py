from pathlib import Path

import pytest
import timm
import torch
from PIL import Image

from autotimm.benchmarks import backbones
from autotimm.benchmarks.backbones import BACKBONES, CLASSES, enliven, walk
from autotimm.benchmarks.detector_backbones import BACKBONES as OF_DETECTORS
from autotimm.benchmarks.detector_backbones import walk_detector, write_boxed_images
from autotimm.benchmarks.image_folders import write_image_folder
from autotimm.benchmarks.segmentor_backbones import BACKBONES as OF_SEGMENTORS
from autotimm.benchmarks.segmentor_backbones import walk_segmentor, write_masked_images
from autotimm.benchmarks.walking import HEADER, Walked, as_markdown
from autotimm.models.backbones import list_backbones


def test_an_image_folder_has_what_was_asked_for(tmp_path: Path) -> None:
    root = write_image_folder(tmp_path / "new", classes=3, train=7, val=3, size=(24, 32))
    counts = {str(folder.relative_to(root)): len(list(folder.iterdir())) for folder in sorted(root.glob("*/*"))}
    assert counts == {
        **{f"train/class_{index}": (3, 2, 2)[index] for index in range(3)},
        **{f"val/class_{index}": 1 for index in range(3)},
    }
    files = sorted(root.rglob("*.jpg"))
    contents = set()
    for path in files:
        with Image.open(path) as image:
            assert image.size == (32, 24)
            contents.add(image.tobytes())
    assert len(contents) == len(files) == 10


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_image_folder(tmp_path / "images", classes=CLASSES, train=4, val=4, size=(60, 80))


def test_a_backbone_that_works(images: Path, tmp_path: Path) -> None:
    walked = walk("test_resnet", images, tmp_path)
    assert walked.failure == ""
    assert walked.size == (160, 160)
    assert walked.million_parameters == pytest.approx(
        sum(parameter.numel() for parameter in timm.create_model("test_resnet", num_classes=CLASSES).parameters()) / 1e6
    )
    assert 0.5 < walked.loss < 5
    assert walked.images == 4
    assert 1e-3 < walked.spread <= 1
    assert walked.worst < 1e-3
    assert walked.megabytes > 1


def test_branches_that_start_at_zero_are_made_to_count() -> None:
    network = timm.create_model("resnet18", num_classes=2).eval()
    block = network.layer1[0]
    assert block.bn2.weight.abs().max() == 0  # timm starts the branches of a ResNet at nothing
    kept = network.conv1.weight.clone()
    enliven(network)
    assert block.bn2.weight.min() >= 0.5
    assert torch.equal(network.conv1.weight, kept)
    assert block.bn1.weight.min() == block.bn1.weight.max() == 1
    pixels = torch.rand(4, 3, 64, 64) * 3
    network.train()(pixels)
    trained = network.bn1.running_mean
    torch.testing.assert_close(trained, network.conv1(pixels).mean(dim=(0, 2, 3)))


def test_a_network_that_answers_always_the_same_proves_nothing(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backbones, "enliven", lambda network: torch.nn.init.zeros_(network.fc.weight))
    assert "would prove nothing" in walk("test_resnet", images, tmp_path).failure


@pytest.mark.parametrize(
    ("name", "failure"),
    [("resnet_of_nobody", "creation failed: there is no backbone"), ("resnet18|a", "creation failed: ")],
)
def test_a_backbone_that_does_not(name: str, failure: str, images: Path, tmp_path: Path) -> None:
    walked = walk(name, images, tmp_path)
    assert walked.failure.startswith(failure)
    assert walked.megabytes == 0


def test_the_table() -> None:
    works = Walked("one", 5.4, "", 1.23, (64, 96), 1.5, 2.4e-7, 0.00025, 4, 3.21)
    fails = Walked("two", 1.0, "training step failed: a | b")
    lines = as_markdown([works, fails]).splitlines()
    assert lines[2] == "| one | 1.2 | 64x96 | 1.50 | verified on 4 images | 0.00025 | 2.4e-07 | 3.2 | 5 |"
    assert lines[3] == "| two |  |  |  | **training step failed: a / b** |  |  |  | 1 |"
    assert all(line.count("|") == len(HEADER) + 1 for line in lines[:4])
    assert lines[5].startswith("1 of 2 in 6 seconds; ")
    assert f"timm {timm.__version__}" in lines[5]


def test_the_choice_is_of_different_architectures_that_exist() -> None:
    assert len(set(BACKBONES)) == len(BACKBONES) >= 20
    assert set(BACKBONES) <= set(list_backbones())


def test_a_backbone_of_a_detector(tmp_path: Path) -> None:
    data = write_boxed_images(tmp_path, images=2)
    (tmp_path / "run").mkdir()
    walked = walk_detector("test_resnet", data, tmp_path / "run")
    assert walked.failure == ""
    assert walked.size == (128, 160)
    assert 0.5 < walked.loss < 5
    assert walked.images == 2
    assert walked.worst < 0.3
    unfit = walk_detector("levit_128s", data, tmp_path / "run")
    assert unfit.failure.startswith("creation failed: backbone levit_128s cannot be a pyramid")
    assert set(OF_DETECTORS) <= set(list_backbones())


def test_a_backbone_of_a_segmentor(tmp_path: Path) -> None:
    data = write_masked_images(tmp_path, images=2)
    (tmp_path / "run").mkdir()
    walked = walk_segmentor("test_resnet", data, tmp_path / "run", "deeplabv3plus")
    assert walked.failure == ""
    assert walked.size == (128, 160)
    assert 0.5 < walked.loss < 5
    assert walked.images == 2
    assert walked.worst < 1e-3
    assert walked.spread > 0.1
    unfit = walk_segmentor("levit_128s", data, tmp_path / "run", "fcn")
    assert unfit.failure.startswith("creation failed: backbone levit_128s cannot be a pyramid")
    assert set(OF_SEGMENTORS) <= set(list_backbones())
