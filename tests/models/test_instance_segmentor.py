import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

from autotimm.data.batch import InstanceBatch
from autotimm.evaluation import evaluate
from autotimm.export import export_to_onnx
from autotimm.export.graph.detection import DetectionSettings, NmsForm
from autotimm.export.graph.instance import InstanceGraph
from autotimm.models import InstanceSegmentor, load_checkpoint
from autotimm.models.torch_backend import predictor_of
from autotimm.regions import MaskCrops
from autotimm.runtime.errors import ConfigError, DataError
from autotimm.runtime.mask_regions import MaskRegion
from autotimm.runtime.pictures import generate
from autotimm.training.config import load_config, run_training

SIZE = (64, 96)


def small(backbone: Any = "test_resnet", num_classes: int = 3, **arguments: Any) -> InstanceSegmentor:
    standard = {"fpn_channels": 32, "head_num_convs": 1, "roi_pool_size": 7, "mask_size": 14, "pretrained": False}
    return InstanceSegmentor(backbone, num_classes, **{**standard, "seed": 0, **arguments})


def squared_distance(predicted: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """A loss of one's own in place of the GIoU."""
    return (predicted - targets).square().sum()


def talkative(**arguments: Any) -> InstanceSegmentor:
    """With heads that find something everywhere, of many sizes, and masks that are not all grey."""
    model = small(**arguments)
    head: Any = model.network.head
    torch.manual_seed(0)
    with torch.no_grad():
        for layer in (head.cls_pred, head.centerness_pred, model.network.mask_head.mask_pred):
            layer.weight.normal_(std=0.3)
            layer.bias.zero_()
        head.reg_pred.weight.normal_(std=0.05)
    model.bind_data(
        preprocess=replace(model.preprocess, size=SIZE), class_names=("cat", "dog", "fox"), validation_images=[]
    )
    return model.eval()


def batch() -> InstanceBatch:
    """One image with two objects, one with none."""
    images = torch.from_numpy(np.stack([generate(*SIZE, seed) for seed in range(2)]))
    boxes = [torch.tensor([[10.0, 8.0, 50.0, 52.0], [60.0, 5.0, 75.0, 20.0]]), torch.zeros(0, 4)]
    labels = [torch.tensor([0, 2]), torch.zeros(0, dtype=torch.int64)]
    regions = [MaskRegion(8, 10, np.tri(44, 40, dtype=bool)), MaskRegion(5, 60, np.ones((15, 15), dtype=bool))]
    return InstanceBatch(images, boxes, labels, [MaskCrops.of(regions), MaskCrops.of([])], [], [])


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ({"strides": (4, 8, 16, 32)}, {"nms": "operator"}),
        ({"multi_label_candidates": True}, {"nms": "tensor", "batch": "dynamic", "max_detections": 20}),
    ],
)
def test_the_artifact_gives_its_answers(arguments: Any, options: dict[str, Any], tmp_path: Path) -> None:
    """PyTorch's are made with torchvision's NMS and RoIAlign."""
    saved = talkative(**arguments).save(tmp_path / "model.ckpt")
    manifest = export_to_onnx(saved, tmp_path / "model.onnx", **options)
    assert manifest.task == "instance_segmentation"
    assert manifest.verification.status == "passed"
    assert manifest.verification.compared["masks"] > 60
    assert manifest.thresholds["mask"] == 0.5
    limit = options.get("max_detections", 100)
    count = 3 if options.get("batch") == "dynamic" else 1
    images = np.stack([generate(*SIZE, seed) for seed in range(10, 10 + count)])
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    found = dict(zip([one.name for one in session.get_outputs()], session.run(None, {"images": images}), strict=True))
    model = load_checkpoint(saved)
    model.set_thresholds({**model.thresholds, "max_detections": limit})
    expected = model.outputs_as_arrays(torch.from_numpy(images))
    assert list(found) == ["num_detections", "boxes", "scores", "labels", "masks"]
    assert found["masks"].shape == (count, limit, 14, 14)
    assert (found["boxes"] >= 0).all()
    assert (found["boxes"] <= [SIZE[1], SIZE[0], SIZE[1], SIZE[0]]).all()
    np.testing.assert_allclose(found["boxes"][:, :5], expected["boxes"][:, :5], atol=0.01)
    np.testing.assert_allclose(found["masks"][:, :5], expected["masks"][:, :5], atol=1e-3)
    assert expected["masks"][:, :5].std() > 0.05
    # what TensorRT-RTX does not build is not there, and no shape depends on the data
    proto = onnx.load(tmp_path / "model.onnx")
    used = [node.op_type for node in proto.graph.node]
    refused = {"RoiAlign", "NonZero", "NonMaxSuppression", "Loop", "If", "Compress", "Unique"}
    assert refused & set(used) == ({"NonMaxSuppression"} if options["nms"] == "operator" else set())
    assert used.count("GridSample") == 1
    for output in proto.graph.output:
        assert all(side.dim_value > 0 for side in output.type.tensor_type.shape.dim[1:]), output.name


@pytest.mark.parametrize("nms", ["operator", "tensor"])
def test_rows_without_an_object_are_empty(nms: NmsForm) -> None:
    model = talkative()
    graph = InstanceGraph(model, DetectionSettings(0.999, 0.5, 100, 200, nms)).eval()
    with torch.no_grad():
        count, boxes, _, labels, masks, *_ = graph(torch.from_numpy(generate(*SIZE, 0)[None]))
    assert 0 < count < 100
    assert masks[0, :count].amax(dim=(1, 2)).min() > 0
    assert not masks[0, count:].any()
    assert not boxes[0, count:].any()
    assert (labels[0, count:] == -1).all()


@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit"])
@pytest.mark.parametrize("objects", [True, False])
def test_every_parameter_learns(backbone: str, objects: bool) -> None:
    """Also in a batch without objects: DistributedDataParallel would stop at a parameter without a gradient."""
    model = small(backbone).train()
    some = batch()
    if not objects:
        some = some._replace(images=some.images[1:], boxes=some.boxes[1:], labels=some.labels[1:], masks=some.masks[1:])
    losses = model.losses(some, 0)
    terms = [value for name, value in losses.items() if name not in ("loss", "num_foreground")]
    assert len(terms) == 4
    assert bool(losses["mask_loss"] > 0) == objects
    torch.testing.assert_close(losses["loss"], sum(terms))
    losses["loss"].backward()
    assert not [name for name, value in model.named_parameters() if value.grad is None]


def test_the_weight_of_the_mask_term() -> None:
    plain, weighted = (small(mask_loss_weight=weight).train() for weight in (1.0, 3.0))
    values = []
    for model in (plain, weighted):
        torch.manual_seed(0)
        values.append(model.losses(batch(), 0)["mask_loss"])
    torch.testing.assert_close(values[1], 3 * values[0])


def test_the_mask_threshold_is_used_and_kept(tmp_path: Path) -> None:
    model = talkative(mask_threshold=0.7)
    restored = load_checkpoint(model.save(tmp_path / "model.ckpt"))
    assert restored.thresholds == model.thresholds == {"score": 0.05, "iou": 0.5, "max_detections": 100, "mask": 0.7}
    pixels = generate(*SIZE, 3)
    assert predictor_of(model).manifest.thresholds["mask"] == 0.7
    strict = predictor_of(model).predict(pixels)
    model.set_thresholds({**model.thresholds, "mask": 0.2})
    lax = predictor_of(model).predict(pixels)
    assert 0 < strict.areas.sum() < lax.areas.sum()


def test_a_checkpoint_describes_it(tmp_path: Path) -> None:
    model = small(
        strides=[4, 8, 16, 32],
        class_names=["a", "b", "c"],
        proposals_per_image=8,
        class_agnostic_nms=True,
        multi_label_candidates=True,
        loss_fns={"box": squared_distance},
    ).eval()
    restored = load_checkpoint(model.save(tmp_path / "model.ckpt"))
    assert isinstance(restored, InstanceSegmentor)
    assert (restored.class_names, restored.region_strides) == (("a", "b", "c"), (4, 8, 16, 32))
    assert (restored.roi_pool_size, restored.mask_size, restored.proposals_per_image) == (7, 14, 8)
    assert restored.class_agnostic_nms
    assert restored.multi_label_candidates
    assert restored.data_kind == "instance_segmentation"
    images = torch.from_numpy(generate(*SIZE, 0)[None])
    ours, theirs = model.outputs_as_arrays(images), restored.outputs_as_arrays(images)
    assert all((ours[name] == theirs[name]).all() for name in ours)


def test_a_frozen_backbone_leaves_the_mask_head_free() -> None:
    model = small(freeze_backbone=True).train()
    model.losses(batch(), 0)["loss"].backward()
    assert not any(value.requires_grad for value in model.network.backbone.parameters())
    assert all(value.grad is not None for value in model.network.mask_head.parameters())
    assert model.network.mask_head.training


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mask_size": 28}, r"mask_size must be 2 \* roi_pool_size"),
        ({"mask_threshold": 1.0}, "mask_threshold is 1.0"),
        ({"mask_loss_weight": -1.0}, "mask_loss_weight is -1.0"),
        ({"proposals_per_image": 0}, "proposals_per_image is 0"),
        ({"detection_arch": "mask"}, "detection_arch"),
        ({"fpn_channels": 0}, "fpn_channels is 0"),
    ],
)
def test_arguments_that_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        small(**arguments)


@pytest.fixture(scope="module")
def coins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """COCO data: a bright ellipse on noise in each image, whose mask is far from its box."""
    root = tmp_path_factory.mktemp("coins")
    random = np.random.default_rng(0)
    (root / "annotations").mkdir()
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    rows, columns = np.mgrid[:64, :64] + 0.5
    for split, count in (("train", 24), ("val", 8)):
        (root / "images" / split).mkdir(parents=True)
        content: dict[str, list[Any]] = {"images": [], "categories": [{"id": 4, "name": "coin"}], "annotations": []}
        for index in range(count):
            pixels = random.integers(0, 80, (64, 64, 3), dtype=np.uint8)
            half_width, half_height = random.uniform(8, 18, 2)
            x, y = random.uniform(half_width, 64 - half_width), random.uniform(half_height, 64 - half_height)
            pixels[((columns - x) / half_width) ** 2 + ((rows - y) / half_height) ** 2 < 1] = 220
            Image.fromarray(pixels).save(root / "images" / split / f"{index}.png")
            content["images"].append({"id": index, "file_name": f"{index}.png", "width": 64, "height": 64})
            points = np.stack([x + half_width * np.cos(angles), y + half_height * np.sin(angles)], axis=1)
            content["annotations"].append(
                {
                    "id": index + 1,
                    "image_id": index,
                    "category_id": 4,
                    "bbox": [x - half_width, y - half_height, 2 * half_width, 2 * half_height],
                    "segmentation": [points.ravel().round(2).tolist()],
                }
            )
        (root / "annotations" / f"{split}.json").write_text(json.dumps(content))
    return root


def test_it_learns_and_its_artifact_measures_the_same(coins: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        "model: {class: InstanceSegmentor, backbone: test_resnet, num_classes: 1, pretrained: false, fpn_channels: 32, "
        "head_num_convs: 1, roi_pool_size: 7, mask_size: 14, proposals_per_image: 8, lr: 0.005}\n"
        f"data: {{class: InstanceSegmentationDataModule, root: '{coins}', image_size: 64, batch_size: 8, "
        "num_workers: 0, augmentation: light}\n"
        f"trainer: {{max_epochs: 16, default_root_dir: '{tmp_path}', enable_progress_bar: false, accelerator: cpu, "
        "seed: 0, logger: false, check_val_every_n_epoch: 4}\n"
    )
    summary = run_training(load_config(config))
    assert summary is not None
    assert summary.monitor == "val/mask_map"
    trained = load_checkpoint(summary.best_checkpoint)
    assert trained.class_names == ("coin",)
    measured = evaluate(summary.best_checkpoint, coins)
    assert measured["mask_map"] == pytest.approx(summary.best_score, abs=1e-6)
    # a mask that fills its box, or its lower half, would have an IoU of pi / 4 or less with an ellipse
    assert measured["mask_map_75"] > 0.5
    trained.export(tmp_path / "model.onnx")
    assert evaluate(tmp_path / "model.onnx", coins) == pytest.approx(measured, abs=0.002)
    (coins / "annotations" / "test.json").write_text("{}")
    with pytest.raises(DataError, match="not a COCO annotation file"):
        evaluate(tmp_path / "model.onnx", coins, split="test")
    (tmp_path / "boxes.csv").write_text("image,label\n")
    with pytest.raises(DataError, match=r"boxes\.csv: is a file, but the model is for instance segmentation"):
        evaluate(tmp_path / "model.onnx", tmp_path / "boxes.csv")
