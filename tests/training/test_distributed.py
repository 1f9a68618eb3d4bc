"""Two processes with DDP on the CPU, started as a user's script is, against one process with the summed batch."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = """
import json, sys
from pathlib import Path
import torch
import pytorch_lightning as pl
from autotimm.data import ImageDataModule
from autotimm.models import ImageClassifier
from autotimm.training import AutoTrainer

data, runs, options = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
devices = options["devices"]


class Losses(pl.Callback):
    def __init__(self):
        self.losses = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        size = torch.tensor(float(len(batch.images)))
        loss = trainer.strategy.reduce(outputs["loss"].detach() * size, reduce_op="sum")
        self.losses.append(float(loss / trainer.strategy.reduce(size, reduce_op="sum")))


if __name__ == "__main__":
    torch.set_num_threads(1)
    losses = Losses()
    model = ImageClassifier(
        "test_vit", 3, pretrained=False, optimizer="sgd", lr=0.05, scheduler="cosine", seed=0, **options["model"]
    )
    trainer = AutoTrainer(
        max_epochs=3,
        default_root_dir=runs,
        accelerator="cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        enable_progress_bar=False,
        seed=0,
        callbacks=[losses],
        **options["trainer"],
    )
    images = ImageDataModule(data, image_size=32, batch_size=6 // devices, num_workers=0)
    trainer.fit(model, datamodule=images)
    names = ("val/accuracy", "val/macro_accuracy", "val/loss")
    metrics = {name: float(trainer.callback_metrics[name]) for name in names}
    tested = trainer.test(model, datamodule=images, verbose=False)[0]
    if trainer.is_global_zero:
        state = {name: value.tolist() for name, value in model.state_dict().items()}
        content = {"losses": losses.losses, "state": state, "metrics": metrics, "tested": tested}
        (runs / "result.json").write_text(json.dumps(content))
"""


def run(data: Path, runs: Path, devices: int, model: Any = None, trainer: Any = None) -> dict[str, Any]:
    runs.mkdir(parents=True, exist_ok=True)
    script = runs / "script.py"
    script.write_text(SCRIPT)
    arguments = json.dumps({"devices": devices, "model": model or {}, "trainer": trainer or {}})
    # gloo picks a network interface by the host's name, which need not resolve
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(script), str(data), str(runs), arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, Any] = json.loads((runs / "result.json").read_text())
    return result


def flat(value: Any) -> list[float]:
    return [number for item in value for number in flat(item)] if isinstance(value, list) else [float(value)]


def same(first: dict[str, Any], second: dict[str, Any]) -> None:
    assert first["losses"] == pytest.approx(second["losses"], rel=1e-5, abs=1e-6)
    assert first["metrics"] == pytest.approx(second["metrics"], rel=1e-4, abs=1e-5)
    assert first["tested"] == pytest.approx(second["tested"], rel=1e-4, abs=1e-5)
    for name, value in first["state"].items():
        assert flat(value) == pytest.approx(flat(second["state"][name]), rel=1e-4, abs=1e-5), name


def test_two_processes_are_one_with_the_summed_batch(color_images: Path, tmp_path: Path) -> None:
    """The loss of each step, the weights, and the metrics, to rounding; one folder for the run."""
    one, two = run(color_images, tmp_path / "one", 1), run(color_images, tmp_path / "two", 2)
    assert len(one["losses"]) == 9
    assert max(one["losses"]) - min(one["losses"]) > 0.05  # it does learn
    same(two, one)
    assert [path.name for path in (tmp_path / "two").iterdir() if path.is_dir()] == ["train"]
    assert sorted(path.name for path in (tmp_path / "two/train/checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]


def test_a_backbone_is_unfrozen_in_every_process(color_images: Path, tmp_path: Path) -> None:
    """torch's DDP exchanges no gradients of parameters that were frozen when it was made."""
    frozen = {"freeze_backbone": True, "unfreeze_epoch": 1, "class_weights": [1.0, 2.0, 8.0]}
    trainer = {"ema_decay": 0.9, "ema_warmup": 3}
    one, two = (run(color_images, tmp_path / str(count), count, frozen, trainer) for count in (1, 2))
    same(two, one)
