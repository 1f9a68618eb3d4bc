import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch.nn import functional as F

from autotimm.data import SegmentationDataModule
from autotimm.data.batch import SegmentationBatch
from autotimm.evaluation import evaluate
from autotimm.export import export_to_onnx, verify
from autotimm.models import SemanticSegmentor, load_checkpoint
from autotimm.runtime import read_manifest
from autotimm.runtime.errors import ConfigError, DataError, VerificationError
from autotimm.runtime.pictures import generate
from autotimm.training import AutoTrainer
from autotimm.training.config import load_config, run_training

HEADS = ("deeplabv3plus", "fcn")
SIZE = (64, 96)


def small(backbone: Any = "test_resnet", num_classes: int = 3, **arguments: Any) -> SemanticSegmentor:
    model = SemanticSegmentor(
        backbone, num_classes, **{"head_channels": 16, "pretrained": False, "seed": 0, **arguments}
    )
    model.preprocess = replace(model.preprocess, size=SIZE)
    return model


def batch() -> SegmentationBatch:
    images = torch.from_numpy(np.stack([generate(*SIZE, seed) for seed in range(2)]))
    masks = torch.zeros(2, *SIZE, dtype=torch.uint8)
    masks[0, 10:40, 20:50], masks[1, :, 80:] = 2, 255
    return SegmentationBatch(images, masks, [], [])


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit"])
def test_each_pixel_gets_the_class_of_its_largest_logit(backbone: str, head: str) -> None:
    model = small(backbone, head_type=head).eval()
    images = batch().images
    with torch.no_grad():
        logits = model.network(model.normalize(images)).logits
        stride = 4 if head == "deeplabv3plus" else 16
        assert logits.shape == (2, 3, SIZE[0] // stride, SIZE[1] // stride)
        found = model.outputs_as_arrays(images)["mask"]
        whole = F.interpolate(logits, scale_factor=stride, mode="bilinear", align_corners=False)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, whole.argmax(dim=1).numpy())
    assert model.output_layout() == [("mask", "uint8", SIZE)]


def test_more_classes_than_a_byte_holds() -> None:
    model = small(num_classes=300, ignore_index=65535).eval()
    with torch.no_grad():
        model.network.head.classifier.bias[299] = 100
    assert model.output_layout() == [("mask", "int32", SIZE)]
    found = model.outputs_as_arrays(batch().images)["mask"]
    assert found.dtype == np.int32
    assert (found == 299).all()


@pytest.mark.parametrize("options", [{}, {"loss_type": "focal"}, {"head_type": "fcn"}, {"auxiliary_weight": 0.4}])
def test_training_overfits_a_batch(options: dict[str, Any]) -> None:
    model = small(**options).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    history = []
    for _ in range(12):
        losses = model.losses(batch(), 0)
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
        history.append(float(losses["loss"].detach()))
    assert history[-1] < 0.6 * history[0]
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert ("auxiliary_loss" in losses) == ("auxiliary_weight" in options)


def test_padding_of_a_shared_evaluation_is_not_measured() -> None:
    """Where processes share the images, the last batch of one may hold none of its own."""
    model = small().eval()
    whole = batch()._replace(
        placements=[model.preprocess.place(*SIZE)] * 2, truths=[mask.numpy() for mask in batch().masks]
    )
    results, truths, loss = model.measure(whole, 1)
    assert (len(results), len(truths)) == (1, 1)
    expected = model.loss(model.upsample(model(model.normalize(whole.images[:1])).logits, SIZE), whole.masks[:1])
    torch.testing.assert_close(loss, expected["loss"], atol=1e-5, rtol=0)
    results, truths, loss = model.measure(whole, 0)
    assert (len(results), len(truths), loss.item()) == (0, 0, 0.0)


def test_the_auxiliary_head_is_of_training_only() -> None:
    model = small(auxiliary_weight=0.4)
    images = model.normalize(batch().images)
    assert model.train().network(images).auxiliary.shape == (2, 3, 4, 6)
    assert model.eval().network(images).auxiliary is None
    losses = model.train().losses(batch(), 0)
    torch.testing.assert_close(losses["loss"], losses["ce_loss"] + losses["dice_loss"] + losses["auxiliary_loss"])


def test_a_frozen_backbone_stays_and_the_head_learns() -> None:
    model = small("test_vit", freeze_backbone=True).train()
    assert not model.network.backbone.body.training
    assert model.network.backbone.spread.training
    assert model.network.head.training
    assert not any(parameter.requires_grad for parameter in model.network.backbone.body.parameters())
    assert all(parameter.requires_grad for part in model.new_parts() for parameter in part.parameters())
    scaled = small(backbone_lr_scale=0.1)
    assert scaled.learning_rate_scales() == {"network.": 0.1, "network.head.": 1.0}


def test_the_trained_checkpoint_describes_itself(segmentor_checkpoint: Path, squares: Path) -> None:
    model = load_checkpoint(segmentor_checkpoint)
    assert isinstance(model, SemanticSegmentor)
    assert model.class_names == ("noise", "light", "dark")
    assert (model.preprocess.size, model.preprocess.fit) == (SIZE, "letterbox")
    assert model.architecture == "deeplabv3plus test_resnet"
    assert model.hparams["output_stride"] == model.output_stride == 16
    assert len(model.validation_images) == 4
    values = evaluate(model, squares)
    assert values["miou"] > 0.5
    recorded = torch.load(segmentor_checkpoint, weights_only=True)["callbacks"]
    best = [state["best_model_score"] for state in recorded.values() if "best_model_score" in state]
    assert values["miou"] == pytest.approx(float(best[0]), abs=1e-6)


def test_the_artifact_gives_what_the_checkpoint_gives(
    segmentor_checkpoint: Path, segmentor_artifact: Path, squares: Path
) -> None:
    manifest = read_manifest(segmentor_artifact)
    assert manifest.verification.status == "passed"
    assert manifest.verification.image_source == "validation images of the checkpoint"
    assert manifest.verification.compared["logits"] > 0
    assert [str(output) for output in manifest.outputs] == ["mask uint8[batch, 64, 96]"]
    ours, theirs = (evaluate(model, squares) for model in (segmentor_artifact, segmentor_checkpoint))
    assert ours == pytest.approx({name: theirs[name] for name in ours}, abs=1e-4)
    session = onnxruntime.InferenceSession(segmentor_artifact)
    images = np.stack([generate(*SIZE, seed) for seed in range(3)])
    (found,) = session.run(None, {"images": images})
    expected = load_checkpoint(segmentor_checkpoint).outputs_as_arrays(torch.from_numpy(images))["mask"]
    assert np.mean(found == expected) > 0.999
    assert len(np.unique(found)) > 1


def test_a_wrong_artifact_of_a_constant_mask_is_found_out(tmp_path: Path) -> None:
    """Its masks are right, since one class wins everywhere; its logits are not. And a palette travels with a model."""
    model = small().eval()
    with torch.no_grad():
        model.network.head.classifier.bias[1] = 50
    model.palette = ((0, 0, 0), (200, 10, 10), (10, 10, 200))
    assert load_checkpoint(model.save(tmp_path / "own.ckpt")).palette == model.palette
    assert export_to_onnx(tmp_path / "own.ckpt", tmp_path / "right.onnx", verify=False).palette == model.palette
    broken = small(seed=1).eval()
    with torch.no_grad():
        broken.network.head.classifier.bias[1] = 50
    broken.save(tmp_path / "other.ckpt")
    assert verify(tmp_path / "right.onnx", tmp_path / "own.ckpt").status == "passed"
    record = verify(tmp_path / "right.onnx", tmp_path / "other.ckpt")
    assert record.worst["pixel_share"] == 0
    assert record.status == "failed"
    assert record.reason.startswith("relative_logit")


def test_two_artifacts_of_one_model_are_compared(segmentor_checkpoint: Path, segmentor_artifact: Path) -> None:
    single = segmentor_artifact.with_name("single.onnx")
    export_to_onnx(segmentor_checkpoint, single, verify=False)
    record = verify(single, segmentor_artifact)
    assert record.status == "passed"
    assert record.compared["logits"] > 0
    with pytest.raises(VerificationError, match="one and the same graph"):
        verify(single, single)


def test_the_graph_has_plain_operators_only(segmentor_artifact: Path) -> None:
    nodes = {node.op_type for node in onnx.load(segmentor_artifact).graph.node}
    assert nodes.isdisjoint({"NonZero", "Loop", "If", "Where", "ScatterND"})
    assert {"ArgMax", "Resize"} <= nodes


def test_from_a_configuration_file(squares: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    arguments = {
        "model": {
            "class": "SemanticSegmentor",
            "backbone": "test_convnext",
            "num_classes": 3,
            "pretrained": False,
            "head_type": "fcn",
            "class_weights": [1, 2, 2],
        },
        "data": {
            "class": "SegmentationDataModule",
            "root": str(squares),
            "image_size": 64,
            "batch_size": 3,
            "num_workers": 0,
        },
        "trainer": {"max_epochs": 1, "default_root_dir": str(tmp_path), "enable_progress_bar": False, "seed": 0},
    }
    config.write_text(json.dumps(arguments))
    summary = run_training(load_config(config))
    assert summary is not None
    assert summary.monitor == "val/miou"
    assert load_checkpoint(summary.best_checkpoint).loss.weights.tolist() == [1, 2, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"head_type": "unet"}, "there is no head_type 'unet'"),
        ({"loss_type": "ohem"}, "there is no loss_type 'ohem'"),
        ({"num_classes": 1}, "num_classes is 1, but there are at least two"),
        ({"head_channels": 0}, "head_channels is 0"),
        ({"auxiliary_weight": -1.0}, "auxiliary_weight is -1.0"),
        ({"ignore_index": 1}, "ignore_index is 1, which is one of the 3 classes"),
        ({"backbone_lr_scale": 0.0}, "backbone_lr_scale is 0.0"),
    ],
)
def test_what_cannot_be(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        small(**arguments)


def test_sizes_that_it_cannot_take(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="deeplabv3plus test_resnet needs height and width in multiples of 16"):
        small().check_size((64, 100))
    with pytest.raises(ConfigError, match="multiples of 16"):
        export_to_onnx(small(), tmp_path / "model.onnx", size=(65, 64))
    only = small()
    only.network.backbone.fixed_size = (64, 64)  # as that of a network with windows of a fixed number
    with pytest.raises(ConfigError, match="backbone test_resnet was created for 64x64 and takes no other"):
        only.check_size((64, 128))


def test_data_with_another_ignore_index_is_refused(squares: Path, tmp_path: Path) -> None:
    trainer = AutoTrainer(max_epochs=1, default_root_dir=tmp_path, accelerator="cpu", enable_progress_bar=False)
    with pytest.raises(DataError, match="ignore_index of the data is 255, but the model's is 254"):
        trainer.fit(small(ignore_index=254), datamodule=SegmentationDataModule(squares, 64, 3, num_workers=0))
