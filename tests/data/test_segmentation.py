import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from autotimm.data import SegmentationDataModule
from autotimm.data.mask_transforms import augment_masked, place_mask
from autotimm.runtime.errors import ConfigError, DataError, DataWarning
from autotimm.runtime.images import load_image
from autotimm.runtime.preprocess import Placement, Preprocess
from autotimm.runtime.resize import fit_image

IGNORED = 255


@pytest.mark.parametrize("size", [(32, 32), (60, 90), (48, 96)])
@pytest.mark.parametrize("fit", ["stretch", "letterbox", "crop"])
def test_a_placed_mask_is_torchvisions_nearest_exact(fit: Any, size: tuple[int, int]) -> None:
    """As a mask of torchvision's own kind, resized, then padded or cropped."""
    mask = np.random.default_rng(0).integers(0, 4, (50, 90), dtype=np.uint8)
    placement = Preprocess(size, fit=fit).place(50, 90)
    resized = v2.functional.resize(
        tv_tensors.Mask(torch.from_numpy(mask)), list(placement.resized_size), v2.InterpolationMode.NEAREST_EXACT
    )
    (top, left), (height, width) = placement.offset, placement.resized_size
    padding = [left, top, size[1] - left - width, size[0] - top - height]  # negative ones crop
    expected = v2.functional.pad(resized[None], padding, fill=IGNORED)[0].numpy()
    np.testing.assert_array_equal(place_mask(mask, placement, size, IGNORED), expected)


def test_an_image_beyond_the_frame_leaves_padding_alone() -> None:
    mask = np.ones((10, 10), np.uint8)
    assert (place_mask(mask, Placement((10, 10), (10, 10), (30, 0)), (16, 16), IGNORED) == IGNORED).all()


def test_image_and_mask_are_moved_together() -> None:
    """An image whose grey levels are its mask: after any augmentation both still agree, but for blended edges."""
    mask = np.zeros((60, 80), np.uint8)
    mask[10:40, 20:50], mask[30:55, 55:78] = 1, 2
    image = np.repeat((mask * 100 + 20)[..., None], 3, axis=2)
    preprocess = Preprocess((64, 64), fit="letterbox", pad_value=255, interpolation="nearest")
    seen, padded = set(), 0
    for seed in range(12):
        frame, moved = augment_masked(image, mask, preprocess, "light", IGNORED, seed)
        expected = np.array([20, 120, 220, 255])[np.where(moved == IGNORED, 3, moved)]
        assert np.mean(frame[..., 0] == expected) > 0.98
        seen.add(moved.tobytes())
        frame, moved = augment_masked(image, mask, preprocess, "default", IGNORED, seed)
        for label in (0, 1, 2):  # colours change by a factor, so each class keeps one level, but at its edge
            levels = frame[..., 0][moved == label].astype(int)
            assert levels.size == 0 or np.mean(np.abs(levels - np.median(levels)) <= 2) > 0.75
        assert (frame[moved == IGNORED] == 255).all()
        padded += int((moved == IGNORED).any())
    assert padded > 6
    assert len(seen) == 2  # as it is, and mirrored


def test_batches_of_training_and_evaluation(squares: Path) -> None:
    data = SegmentationDataModule(squares, image_size=(64, 96), batch_size=3, num_workers=0)
    data.use_preprocess(Preprocess((32, 32), fit="letterbox"))
    first, second = (next(iter(data.train_dataloader())) for _ in range(2))
    assert first.images.shape == (3, 64, 96, 3)
    assert (first.masks.shape, first.masks.dtype) == ((3, 64, 96), torch.uint8)
    assert torch.equal(first.images, second.images)
    assert torch.equal(first.masks, second.masks)
    assert set(first.masks.unique().tolist()) <= {0, 1, 2, IGNORED}
    assert not first.truths
    (batch, _) = data.val_dataloader()
    assert [truth.shape for truth in batch.truths] == [(50, 90)] * 3
    for path, image, mask, truth, placement in zip(
        batch.paths, batch.images, batch.masks, batch.truths, batch.placements, strict=True
    ):
        frame, expected = fit_image(load_image(path), data.preprocess)
        np.testing.assert_array_equal(image.numpy(), frame)
        assert placement == expected
        np.testing.assert_array_equal(mask.numpy(), place_mask(truth, placement, (64, 96), IGNORED))
    samples = data.validation_samples()
    assert len(samples) == 4
    np.testing.assert_array_equal(samples[0][1], batch.truths[0])
    assert [path for path, _ in samples[1:3]] == [Path(path) for path in batch.paths[1:3]]
    assert data.class_names == ("noise", "light", "dark")
    assert batch.to("cpu").truths is batch.truths


def test_a_mask_that_changes_after_it_was_looked_at(squares: Path, tmp_path: Path) -> None:
    root = shutil.copytree(squares, tmp_path / "copy")
    data = SegmentationDataModule(root, image_size=64, batch_size=3, num_workers=0)
    data.use_preprocess(Preprocess((64, 64)))
    assert len(list(data.val_dataloader())) == 2
    (root / "val" / "masks" / "1.png").unlink()
    with pytest.raises(DataError, match=r"validation image .*1\.png: is among masks that are not there"):
        list(data.val_dataloader())
    skipping = SegmentationDataModule(root, 64, 3, num_workers=0, bad_images="skip", bad_annotations="skip")
    skipping.use_preprocess(Preprocess((64, 64)))
    with pytest.warns(DataWarning, match=r"left out 1 images without a mask"):
        assert sum(len(batch.images) for batch in skipping.val_dataloader()) == 3


def test_splits_of_other_classes_are_refused(squares: Path) -> None:
    data = SegmentationDataModule(squares, 64, num_workers=0)
    data.__dict__["_train"] = SimpleNamespace(classes=SimpleNamespace(class_names=("sky",)))
    with pytest.raises(DataError, match=r"the classes of training are \['sky'\]"):
        data.setup("fit")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "gif"}, "there is no format of masks 'gif'"),
        ({"augmentation": "yolo"}, "there is no augmentation of images with boxes or masks"),
        ({"bad_annotations": "mend"}, "there is no treatment of bad annotations"),
        ({"image_size": 0}, "image_size is 0"),
    ],
)
def test_what_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SegmentationDataModule("nowhere", **options)
