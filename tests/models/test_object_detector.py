import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
import timm
import torch
from PIL import Image
from torchvision.models.detection._utils import BoxLinearCoder
from torchvision.models.detection.fcos import FCOS

from autotimm.data.batch import DetectionBatch
from autotimm.dense import DenseOutputs, anchor_points
from autotimm.evaluation import evaluate
from autotimm.export import export_to_onnx
from autotimm.models import BackboneConfig, ObjectDetector, load_checkpoint
from autotimm.runtime.errors import ConfigError
from autotimm.runtime.pictures import generate
from autotimm.training.config import load_config, run_training

ARCHS = ("fcos", "yolox")
SIZE = (64, 96)


def small(backbone: Any = "test_resnet", num_classes: int = 3, **arguments: Any) -> ObjectDetector:
    standard = {"fpn_channels": 32, "head_num_convs": 1, "pretrained": False, "seed": 0}
    return ObjectDetector(backbone, num_classes, **{**standard, **arguments})


def talkative(backbone: str, arch: str, **arguments: Any) -> ObjectDetector:
    """With heads that find something everywhere."""
    model = small(backbone, detection_arch=arch, **arguments)
    head: Any = model.network.head
    predictors = [head.cls_pred, head.centerness_pred] if arch == "fcos" else [*head.cls_preds, *head.obj_preds]
    torch.manual_seed(0)
    with torch.no_grad():
        for layer in predictors:
            layer.weight.normal_(std=0.3)
            layer.bias.zero_()
        for layer in [head.reg_pred] if arch == "fcos" else head.reg_preds:
            layer.weight.normal_(std=0.05)
    model.bind_data(
        preprocess=model.preprocess.__class__(**{**model.preprocess.to_dict(), "size": SIZE}),
        class_names=("cat", "dog", "fox"),
        validation_images=[],
    )
    return model.eval()


def batch(model: ObjectDetector) -> DetectionBatch:
    images = torch.from_numpy(np.stack([generate(*SIZE, seed) for seed in range(2)]))
    boxes = [torch.tensor([[10.0, 8.0, 50.0, 52.0], [60.0, 5.0, 75.0, 20.0]]), torch.zeros(0, 4)]
    labels = [torch.tensor([0, 2]), torch.zeros(0, dtype=torch.int64)]
    return DetectionBatch(images, boxes, labels, [], [])


@pytest.mark.parametrize("num_classes", [1, 4])
def test_answers_are_torchvisions_on_the_same_outputs(monkeypatch: pytest.MonkeyPatch, num_classes: int) -> None:
    """A location has a label for each class that is likely enough; boxes inside the image, which it clips to."""
    model = small(
        num_classes=num_classes,
        nms_thresh=0.1,
        score_thresh=0.3,
        max_detections_per_image=40 * num_classes,
        multi_label_candidates=num_classes > 1,
    ).eval()
    points, strides = anchor_points(128, 256, model.strides)
    generator = torch.Generator().manual_seed(0)
    raw = torch.rand(2, 4, len(strides), generator=generator) * 0.5
    logits = torch.randn(2, 1 + num_classes, len(strides), generator=generator)
    outputs = DenseOutputs(raw, logits[:, :1], logits[:, 1:])
    monkeypatch.setattr(model.network, "forward", lambda pixels: outputs)
    found = model.outputs_as_arrays(torch.zeros(2, 128, 256, 3, dtype=torch.uint8))

    anchors = torch.cat((points - strides / 2, points + strides / 2)).T
    counts = [int((strides == stride).sum()) for stride in model.strides]
    theirs = SimpleNamespace(
        box_coder=BoxLinearCoder(normalize_by_size=True),
        score_thresh=0.3,
        nms_thresh=0.1,
        topk_candidates=10_000,
        detections_per_img=40 * num_classes,
    )
    head_outputs = {"cls_logits": outputs.classes, "bbox_regression": raw, "bbox_ctrness": outputs.objectness}
    levels = {name: list(value.transpose(1, 2).split(counts, dim=1)) for name, value in head_outputs.items()}
    expected = FCOS.postprocess_detections(theirs, levels, [list(anchors.split(counts))] * 2, [(128, 256)] * 2)
    for image, answer in enumerate(expected):
        assert found["num_detections"][image, 0] == len(answer["boxes"]) == 40 * num_classes
        np.testing.assert_array_equal(found["labels"][image], answer["labels"])
        np.testing.assert_allclose(found["boxes"][image], answer["boxes"], atol=1e-4)
        np.testing.assert_allclose(found["scores"][image], answer["scores"], atol=1e-6)


@pytest.mark.parametrize(
    ("backbone", "arch", "options"),
    [
        ("test_vit", "fcos", {"nms": "operator", "batch": 1}),
        ("test_resnet", "yolox", {"nms": "tensor", "batch": "dynamic", "candidates": 60, "max_detections": 20}),
    ],
)
def test_the_artifact_gives_its_answers(backbone: str, arch: str, options: dict[str, Any], tmp_path: Path) -> None:
    saved = talkative(backbone, arch).save(tmp_path / "model.ckpt")
    manifest = export_to_onnx(saved, tmp_path / "model.onnx", **options)
    assert manifest.verification.status == "passed"
    assert manifest.verification.compared["detections"] > 60
    assert manifest.architecture == f"{arch} {backbone}"
    assert manifest.postprocessing["score"].startswith("sqrt(centerness" if arch == "fcos" else "objectness")
    limit = options.get("max_detections", 100)
    assert (manifest.thresholds["score"], manifest.thresholds["max_detections"]) == (0.05, limit)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    count = 3 if options["batch"] == "dynamic" else 1
    images = np.stack([generate(*SIZE, seed) for seed in range(10, 10 + count)])
    boxes = session.run(["boxes"], {"images": images})[0]
    model = load_checkpoint(saved)
    expected = model.outputs_as_arrays(torch.from_numpy(images))["boxes"]
    np.testing.assert_allclose(boxes[:, :5], expected[:, :5], atol=0.02)
    with pytest.raises(ConfigError, match=r"the size is 64x80, but .* needs height and width in multiples of 32"):
        export_to_onnx(model, tmp_path / "other.onnx", size=(64, 80))


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit", "test_convnext"])
def test_every_parameter_learns(backbone: str, arch: str) -> None:
    model = small(backbone, detection_arch=arch).train()
    losses = model.losses(batch(model), 0)
    terms = [value for name, value in losses.items() if name not in ("loss", "num_foreground")]
    assert losses["num_foreground"] > 0
    torch.testing.assert_close(losses["loss"], sum(terms))
    losses["loss"].backward()
    still = [name for name, value in model.named_parameters() if value.grad is None]
    assert not still, "DistributedDataParallel would stop at a parameter without a gradient"


def test_the_weights_of_yolox_terms() -> None:
    plain, weighted = (
        small(detection_arch="yolox", **weights).train().losses(batch(small()), 0)
        for weights in ({}, {"cls_loss_weight": 2.0, "reg_loss_weight": 3.0, "centerness_loss_weight": 0.0})
    )
    for name, factor in {"class_loss": 2.0, "iou_loss": 3.0, "objectness_loss": 0.0}.items():
        torch.testing.assert_close(weighted[name], factor * plain[name])


def test_a_checkpoint_describes_it(tmp_path: Path) -> None:
    model = small(
        BackboneConfig("test_resnet", pretrained=False, drop_path_rate=0.1),
        strides=[8, 16, 32, 64],
        regress_ranges=[[0, 32], [32, 64], [64, 128], [128, float("inf")]],
        class_names=["a", "b", "c"],
        nms_thresh=0.6,
        multi_label_candidates=True,
        class_agnostic_nms=True,
    ).eval()
    restored = load_checkpoint(model.save(tmp_path / "model.ckpt"))
    assert isinstance(restored, ObjectDetector)
    assert restored.class_names == ("a", "b", "c")
    assert restored.strides == (8, 16, 32, 64)
    assert restored.loss.ranges == {8: (0, 32), 16: (32, 64), 32: (64, 128), 64: (128, float("inf"))}
    assert restored.thresholds == {"score": 0.05, "iou": 0.6, "max_detections": 100}
    assert (restored.multi_label_candidates, restored.class_agnostic_nms) == (True, True)
    pixels = torch.randn(1, 3, *SIZE)
    with torch.no_grad():
        for part, other in zip(model(pixels), restored(pixels), strict=True):
            assert torch.equal(part, other)


def test_weights_of_the_backbone_come_from_a_file(tmp_path: Path) -> None:
    torch.manual_seed(1)
    source = timm.create_model("test_resnet", num_classes=5)
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    body = small(pretrained=tmp_path / "weights.pth").network.backbone.body
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in body.state_dict().items())
    assert "layer4.0.conv1.weight" in body.state_dict()


def test_pixels_are_prepared_as_the_backbone_wants_them() -> None:
    own = timm.data.resolve_model_data_config(timm.create_model("test_convnext"))
    preprocess = small("test_convnext").preprocess
    assert (preprocess.size, preprocess.fit, preprocess.antialias) == ((640, 640), "letterbox", True)
    assert preprocess.mean == pytest.approx([255 * value for value in own["mean"]])
    assert preprocess.std == pytest.approx([255 * value for value in own["std"]])
    assert preprocess.interpolation == own["interpolation"]


def test_a_frozen_backbone_stays_as_it_is() -> None:
    model = small("test_vit", freeze_backbone=True).train()
    model.losses(batch(model), 0)["loss"].backward()
    network = model.network
    assert not any(value.requires_grad for value in network.backbone.body.parameters())
    assert not any(module.training for module in network.backbone.body.modules())
    for part in (network.backbone.spread, network.fpn, network.head):
        assert part.training
        assert all(value.grad is not None for value in part.parameters())
    with pytest.raises(ConfigError, match="freeze_backbone=True"):
        small(unfreeze_epoch=1)


def test_layers_of_the_backbone_learn_more_slowly() -> None:
    model = small("test_vit", layer_decay=0.5, lr=1.0, backbone_lr_scale=0.1, scheduler="none")
    model._trainer = SimpleNamespace()  # type: ignore[assignment]
    optimizer = model.configure_optimizers()
    rates = {id(value): group["lr"] for group in optimizer.param_groups for value in group["params"]}
    of_blocks = [rates[id(block.attn.qkv.weight)] for block in model.network.backbone.body.blocks]
    assert of_blocks == pytest.approx([of_blocks[0] * 2**index for index in range(6)])
    assert of_blocks[-1] <= 0.1
    assert rates[id(model.network.head.reg_pred.weight)] == 1.0
    assert rates[id(model.network.backbone.spread.levels[0][0].weight)] == 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"detection_arch": "fcoss"}, "did you mean fcos"),
        ({"strides": (8, 16, 24)}, "each must be twice the one before"),
        ({"strides": (8, 16)}, "32 among them"),
        ({"strides": (2, 4, 8, 16, 32)}, "the first 4, 8, 16 or 32"),
        ({"strides": ()}, "strides is"),
        ({"regress_ranges": [[0, 64]]}, "for each of the 5 levels"),
        ({"regress_ranges": [64, 128]}, "for each of the 5 levels"),
        ({"detection_arch": "yolox", "regress_ranges": [[0, 64]]}, "regress_ranges is of FCOS"),
        ({"cls_loss_weight": -1.0}, "cls_loss_weight is -1.0, but must be at least 0"),
        ({"fpn_channels": 0}, "fpn_channels is 0"),
        ({"head_num_convs": -1}, "head_num_convs is -1"),
        ({"num_classes": 0}, "num_classes is 0"),
        ({"score_thresh": 2.0}, "score_thresh is"),
        ({"backbone_lr_scale": 0.0}, "must be positive"),
        ({"backbone": {"model": "resnet18"}}, "not a BackboneConfig"),
    ],
)
def test_arguments_that_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        small(**arguments)


def test_a_backbone_of_one_size_keeps_it() -> None:
    model = small(BackboneConfig("mixer_s32_224", False, extra_kwargs={"img_size": 64}))
    assert model.preprocess.size == (64, 64)
    model.check_size((64, 64))
    with pytest.raises(ConfigError, match=r"created for 64x64 and takes no other; .*'img_size': \(96, 96\)"):
        model.check_size((96, 96))


@pytest.fixture(scope="module")
def plates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """COCO data: a bright rectangle on noise in each image."""
    root = tmp_path_factory.mktemp("plates")
    random = np.random.default_rng(0)
    (root / "annotations").mkdir()
    for split, count in (("train", 24), ("val", 8)):
        (root / "images" / split).mkdir(parents=True)
        content: dict[str, list[Any]] = {"images": [], "categories": [{"id": 4, "name": "plate"}], "annotations": []}
        for index in range(count):
            pixels = random.integers(0, 80, (64, 64, 3), dtype=np.uint8)
            width, height = (int(side) for side in random.integers(16, 36, 2))
            x, y = int(random.integers(0, 64 - width)), int(random.integers(0, 64 - height))
            pixels[y : y + height, x : x + width] = 220
            Image.fromarray(pixels).save(root / "images" / split / f"{index}.png")
            content["images"].append({"id": index, "file_name": f"{index}.png", "width": 64, "height": 64})
            content["annotations"].append({"image_id": index, "category_id": 4, "bbox": [x, y, width, height]})
        (root / "annotations" / f"{split}.json").write_text(json.dumps(content))
    return root


@pytest.mark.parametrize("arch", ARCHS)
def test_it_learns_and_its_artifact_measures_the_same(arch: str, plates: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    model = f"class: ObjectDetector, backbone: test_resnet, num_classes: 1, detection_arch: {arch}, pretrained: false"
    config.write_text(
        f"model: {{{model}, fpn_channels: 32, head_num_convs: 1, lr: 0.005}}\n"
        f"data: {{class: DetectionDataModule, root: '{plates}', image_size: 64, batch_size: 8, num_workers: 0, "
        "augmentation: none}\n"
        f"trainer: {{max_epochs: 12, default_root_dir: '{tmp_path}', enable_progress_bar: false, accelerator: cpu, "
        "seed: 0, logger: false}\n"
    )
    summary = run_training(load_config(config))
    assert summary.best_score is not None
    trained = load_checkpoint(summary.best_checkpoint)
    assert trained.class_names == ("plate",)
    assert trained.preprocess.size == (64, 64)
    measured = evaluate(summary.best_checkpoint, plates)
    assert measured["map_50"] > 0.6
    assert measured["map"] == pytest.approx(summary.best_score, abs=1e-6)
    if arch == "fcos":  # the graph of the other is the subject of a test above
        trained.export(tmp_path / "model.onnx", verify=False)
        assert evaluate(tmp_path / "model.onnx", plates) == pytest.approx(measured, abs=0.002)
