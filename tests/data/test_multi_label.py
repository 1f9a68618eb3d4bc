from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from autotimm.data import MultiLabelImageDataModule
from autotimm.runtime.errors import ConfigError
from autotimm.runtime.preprocess import Preprocess

PREPROCESS = Preprocess((16, 16))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Pictures whose red and blue channels are on or off, listed by what is on."""
    lines = ["image,red,blue"]
    for index in range(20):
        red, blue = index % 2, int(index % 5 == 0)
        Image.new("RGB", (20, 20), (255 * red, 0, 255 * blue)).save(tmp_path / f"{index}.png")
        lines.append(f"{index}.png,{red},{blue}")
    (tmp_path / "all.csv").write_text("\n".join(lines))
    return tmp_path


@pytest.mark.parametrize("workers", [0, 1])
def test_batches(root: Path, workers: int) -> None:
    data = MultiLabelImageDataModule(root, batch_size=4, num_workers=workers, train_csv="all.csv")
    data.use_preprocess(PREPROCESS)
    assert data.kind == "multi-label classification"
    assert data.class_names == ("red", "blue")
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        for batch in loader:
            assert (batch.labels.dtype, batch.labels.shape) == (torch.float32, (4, 2))
            assert torch.equal(batch.labels, batch.images[:, 0, 0][:, [0, 2]] / 255.0)
            assert len(batch.paths) == 4
    counts, total = data.class_counts()
    assert (counts.tolist(), counts.dtype, total) == ([8, 3], np.int64, 16)
    samples = data.validation_samples()
    assert len(samples) == 4
    assert all(
        (label == np.array([index % 2, index % 5 == 0])).all() for path, label in samples for index in [int(path.stem)]
    )


def test_a_test_file_and_a_column_of_names(root: Path) -> None:
    (root / "names.csv").write_text("image,on\n1.png,red\n2.png,\n5.png,red/blue\n")
    data = MultiLabelImageDataModule(
        root,
        num_workers=0,
        train_csv="names.csv",
        val_csv="names.csv",
        test_csv="names.csv",
        label_column="on",
        label_separator="/",
    )
    data.use_preprocess(PREPROCESS)
    (batch,) = data.test_dataloader()
    assert data.class_names == ("blue", "red")
    assert batch.labels.tolist() == [[0, 1], [0, 0], [1, 1]]
    with pytest.raises(ConfigError, match="not both"):
        MultiLabelImageDataModule(root, train_csv="all.csv", label_columns=["red"], label_column="on")
