"""Backbones of detectors, to a verified artifact: ``python -m autotimm.benchmarks.detector_backbones [NAME ...]``.

As :mod:`autotimm.benchmarks.backbones`, with an ``ObjectDetector``: random weights, one forward pass, one training step
by ``AutoTrainer``, its checkpoint, the reload of that, export and verification. Exits 1 if any of them fails.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from rich.console import Console

from autotimm.benchmarks.backbones import HEADER, StepError, Walked, as_markdown, step
from autotimm.data import DetectionDataModule
from autotimm.export import export_to_onnx
from autotimm.models import BackboneConfig, ObjectDetector, TaskModel, count_parameters, load_checkpoint
from autotimm.runtime.errors import AutoTimmError
from autotimm.training import AutoTrainer

BACKBONES = (
    "resnet18",
    "regnetx_002",
    "densenet121",
    "hrnet_w18_small",
    "tf_efficientnet_lite0",
    "mobilenetv3_small_050",
    "mobilenetv4_conv_small",
    "ghostnet_050",
    "repvgg_a0",
    "mobileone_s0",
    "convnext_atto",
    "poolformer_s12",
    "pvt_v2_b0",
    "vit_tiny_patch16_224",
    "swin_tiny_patch4_window7_224",
    "maxvit_pico_rw_256",
    "mobilevit_xxs",
    "fastvit_t8",
    "edgenext_xx_small",
)
"""Small ones of different families, whose maps make a pyramid."""
BATCH = 2
SIZE = (128, 160)
"""Height and width of the pictures, and of the network input where the backbone is free to take it."""
CHANNELS = 64
DETECTOR_HEADER = tuple("largest difference of a box, px" if name.startswith("largest") else name for name in HEADER)


def write_boxed_images(root: Path, images: int) -> Path:
    """COCO data of two splits: a rectangle, light or dark, on noise in each image.

    Args:
        root: an existing folder.
        images: of each split.
    """
    random = np.random.default_rng(0)
    height, width = SIZE
    (root / "annotations").mkdir()
    for split in ("train", "val"):
        (root / "images" / split).mkdir(parents=True)
        content: dict[str, list[Any]] = {
            "images": [],
            "categories": [{"id": 1, "name": "light"}, {"id": 2, "name": "dark"}],
            "annotations": [],
        }
        for index in range(images):
            pixels = random.integers(80, 170, (height, width, 3), dtype=np.uint8)
            box_height, box_width = (int(side) for side in random.integers(24, 90, 2))
            x, y = int(random.integers(0, width - box_width)), int(random.integers(0, height - box_height))
            pixels[y : y + box_height, x : x + box_width] = 20 if index % 2 else 230
            Image.fromarray(pixels).save(root / "images" / split / f"{index}.png")
            content["images"].append({"id": index, "file_name": f"{index}.png", "width": width, "height": height})
            box = {"image_id": index, "category_id": 1 + index % 2, "bbox": [x, y, box_width, box_height]}
            content["annotations"].append(box)
        (root / "annotations" / f"{split}.json").write_text(json.dumps(content), encoding="utf-8")
    return root


def walk_detector(name: str, data: Path, folder: Path, arch: Literal["fcos", "yolox"] = "fcos") -> Walked:
    """Take one backbone through all steps; a step that fails ends it.

    Args:
        name: of timm.
        data: what :func:`write_boxed_images` wrote.
        folder: an empty one, for the run and the artifact.
        arch: the head.
    """
    start = time.perf_counter()
    try:
        return _walk(name, data, folder, arch, start)
    except StepError as failure:
        return Walked(name, time.perf_counter() - start, str(failure))


def _walk(name: str, data: Path, folder: Path, arch: Literal["fcos", "yolox"], start: float) -> Walked:
    with step("creation"):
        backbone = BackboneConfig(name, pretrained=False)
        model = ObjectDetector(backbone, 2, detection_arch=arch, fpn_channels=CHANNELS, head_num_convs=1, seed=0)
    height, width = model.network.backbone.fixed_size or SIZE
    random = np.random.default_rng(0)
    pixels = torch.from_numpy(random.integers(0, 256, (2, height, width, 3), dtype=np.uint8))
    with step("forward pass"), torch.no_grad():
        if not all(torch.isfinite(part).all() for part in model.eval()(model.normalize(pixels))):
            raise AutoTimmError("its answers are not finite numbers")
    with step("training step"):
        before = [parameter.detach().clone() for parameter in model.parameters()]
        trainer = AutoTrainer(
            max_epochs=1,
            limit_train_batches=1,
            seed=0,
            default_root_dir=folder,
            accelerator="cpu",
            enable_progress_bar=False,
        )
        loaded = DetectionDataModule(data, image_size=(height, width), batch_size=BATCH, num_workers=0)
        trainer.fit(model, datamodule=loaded)
        if not any((old != new).any() for old, new in zip(before, model.parameters(), strict=True)):
            raise AutoTimmError("it changed no parameter")
    with step("reload"):
        restored = load_checkpoint(trainer.last_checkpoint)
        ours, theirs = (one.eval().outputs_as_arrays(pixels) for one in (model, restored))
        if not all((ours[output] == theirs[output]).all() for output in ours):
            raise AutoTimmError("the reloaded checkpoint gives other answers")
    with step("export and verification"):
        _spread_scores(restored)
        record = export_to_onnx(restored, folder / "model.onnx").verification
    return Walked(
        name,
        time.perf_counter() - start,
        million_parameters=count_parameters(model) / 1e6,
        size=(height, width),
        loss=float(trainer.callback_metrics["train/loss"]),
        worst=max(record.worst.get("box_px", 0.0), record.worst["candidate_box_px"]),
        images=record.images,
        megabytes=(folder / "model.onnx").stat().st_size / 1e6,
    )


def _spread_scores(model: TaskModel) -> None:
    """Let an untrained head tell locations apart: of nearly equal scores, rounding decides which box NMS keeps."""
    network: Any = model.network
    head = network.head
    predictors = [*head.cls_preds, *head.obj_preds] if hasattr(head, "cls_preds") else [head.cls_pred]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in predictors:
            layer.weight.normal_(std=0.3, generator=generator)
            layer.bias.zero_()


def main() -> None:
    """Walk through the backbones."""
    parser = argparse.ArgumentParser(description="Take backbones of detectors from creation to a verified artifact.")
    parser.add_argument("names", nargs="*", default=BACKBONES, help="timm backbones (a choice of families if absent)")
    parser.add_argument("--arch", choices=("fcos", "yolox"), default="fcos", help="the head")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table to this file")
    arguments = parser.parse_args()
    console = Console(highlight=False, markup=False, width=200)
    rows: list[Walked] = []
    with tempfile.TemporaryDirectory() as data:
        write_boxed_images(Path(data), images=BATCH)
        for name in arguments.names:
            with tempfile.TemporaryDirectory() as folder:
                rows.append(walk_detector(name, Path(data), Path(folder), arguments.arch))
            console.print(f"{name}: {rows[-1].failure or 'verified'} ({rows[-1].seconds:.0f} s)")
    table = as_markdown(rows, DETECTOR_HEADER)
    console.print(table, soft_wrap=True)
    if arguments.markdown is not None:
        arguments.markdown.write_text(table, encoding="utf-8")
    sys.exit(any(row.failure for row in rows))


if __name__ == "__main__":
    main()
