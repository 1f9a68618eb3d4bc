"""Backbones from creation to a verified artifact: ``python -m autotimm.benchmarks.backbones [NAME ...]``.

Each goes through one forward pass, one training step, a checkpoint, its reload, export and verification, with random
weights. Prints a Markdown table; exits 1 if any of them fails.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import torch

from autotimm.data.batch import ClassificationBatch
from autotimm.export import export_to_onnx
from autotimm.models import ImageClassifier, load_checkpoint
from autotimm.models.backbones import BackboneConfig
from autotimm.runtime.errors import AutoTimmError

BACKBONES = (
    "resnet18",
    "resnet50",
    "efficientnet_b0",
    "mobilenetv3_small_100",
    "convnext_atto",
    "vit_tiny_patch16_224",
    "swin_tiny_patch4_window7_224",
    "mobilevit_xs",
)


def walk(name: str, folder: Path) -> str:
    """One row of the table.

    Raises:
        AutoTimmError: a step failed.
    """
    torch.manual_seed(0)
    start = time.perf_counter()
    model = ImageClassifier(BackboneConfig(name, pretrained=False), num_classes=10)
    height, width = model.preprocess.size
    batch = ClassificationBatch(torch.randint(0, 256, (2, height, width, 3), dtype=torch.uint8), torch.tensor([1, 7]))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    loss = torch.nn.functional.cross_entropy(model.train()(model.normalize(batch.images)), batch.labels)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    restored = load_checkpoint(model.save(folder / "model.ckpt"))
    before, after = (m.eval().outputs_as_arrays(batch.images)["probabilities"] for m in (model, restored))
    if not (before == after).all():
        raise AutoTimmError(f"{name}: the reloaded checkpoint gives other answers")
    manifest = export_to_onnx(restored, folder / "model.onnx")
    megabytes = (folder / "model.onnx").stat().st_size / 1e6
    record = manifest.verification
    worst = record.worst["relative_probability"]
    cells = (f"{height}x{width}", f"{float(loss.detach()):.3f}", record.status, f"{worst:.1e}", f"{megabytes:.1f}")
    return " | ".join((*cells, f"{time.perf_counter() - start:.0f}"))


def main() -> None:
    """Walk through the backbones."""
    parser = argparse.ArgumentParser(description="Take backbones from creation to a verified artifact.")
    parser.add_argument("names", nargs="*", default=BACKBONES, help="timm backbones (a choice of families if absent)")
    failed = False
    print("| backbone | input | loss of a step | verification | worst relative difference | MB | seconds |")  # noqa: T201
    print("| --- | --- | --- | --- | --- | --- | --- |")  # noqa: T201
    for name in parser.parse_args().names:
        with tempfile.TemporaryDirectory() as folder:
            try:
                row = walk(name, Path(folder))
            except AutoTimmError as error:
                failed = True
                row = f" | | failed: {error} | | |"
        print(f"| {name} | {row} |", flush=True)  # noqa: T201
    sys.exit(failed)


if __name__ == "__main__":
    main()
