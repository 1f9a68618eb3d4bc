"""Training augmentation of labelled images: from a decoded image to network-input pixels, at random.

Evaluation does not come here: it is ``fit_image`` of the runtime. Everything is a function of the image and a seed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2

from autotimm.runtime.errors import ConfigError, ImageError, one_line
from autotimm.runtime.images import load_image
from autotimm.runtime.preprocess import Preprocess
from autotimm.runtime.resize import fit_image

Pixels = NDArray[np.uint8]
"""RGB ``[h, w, 3]``."""

ImageTransform = Callable[[Any], Any]
"""From a ``tv_tensors.Image``, RGB uint8 ``[3, h, w]``, to the same of any size, or to a PIL image."""

PRESETS = ("none", "light", "default", "strong", "randaugment", "autoaugment")
TIMM_POLICIES = ("rand", "augmix", "original", "originalr", "v0", "v0r", "3a")
"""With what timm's policy strings begin; the rest of one is parted by hyphens: ``rand-m9-mstd0.5-inc1``."""

CROP_AREA = (0.35, 1.0)
"""Part of the image a training crop covers. ImageNet recipes go down to .08; a small data set is fine-tuned on crops
that still show most of the object."""
STRONG_CROP_AREA = (0.2, 1.0)
STRONG_JITTER = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.05}
"""Factors 1 +- these, and a part of the colour circle: timm's default ``color_jitter``, and little hue beside it, as
colour tells many classes of small data sets apart."""
STRONG_ERASING = 0.25
"""How often a rectangle is blackened: timm's ``reprob`` in most of its recipes."""

INTERPOLATION = {
    "nearest": InterpolationMode.NEAREST,
    "bilinear": InterpolationMode.BILINEAR,
    "bicubic": InterpolationMode.BICUBIC,
    "lanczos": InterpolationMode.BICUBIC,  # torchvision has no Lanczos on tensors; in training the nearest kin will do
}
"""torchvision's name of each interpolation of :class:`Preprocess`."""


def check_augmentation(name: str) -> str:
    """The name itself: one of :data:`PRESETS`, or a policy that timm reads.

    Raises:
        ConfigError: no such augmentation.
    """
    if name in PRESETS:
        return name
    if name.split("-", maxsplit=1)[0] not in TIMM_POLICIES:
        known = (*PRESETS, "rand-m9-mstd0.5-inc1", "augmix-m5-w4-d2", "original-mstd0.5")
        raise ConfigError.unknown("augmentation", name, known)
    _check_policy(name)
    return name


def augment_labelled(image: Pixels, preprocess: Preprocess, augmentation: str | ImageTransform, seed: int) -> Pixels:
    """Augment an image that has classes but no places.

    Args:
        image: RGB uint8 ``[h, w, 3]``.
        preprocess: gives the size, the interpolation and, where the whole image is kept, the fit.
        augmentation: ``none`` is the evaluation's resize, ``light`` a flip before that, ``default`` a random resized
            crop and a flip, ``strong`` smaller crops, changed colours and a rectangle that is blackened now and then,
            ``randaugment`` and ``autoaugment`` torchvision's policies after the default, and timm's policy strings its
            own. A callable is used instead of all that; what it gives is fitted to the size where it is of another.
        seed: of everything random.

    Returns:
        RGB uint8 ``[H, W, 3]`` of the size of ``preprocess``.

    Raises:
        ConfigError: a callable gave something else than uint8 RGB.
    """
    if augmentation == "none":
        return fit_image(image, preprocess)[0]
    if augmentation == "light":
        flip = np.random.default_rng(seed).random() < 0.5
        return fit_image(mirrored(image) if flip else image, preprocess)[0]
    with _seeded(seed):
        if not isinstance(augmentation, str):
            return _transformed(image, augmentation, preprocess)
        pixels: Pixels = as_array(_steps(augmentation, preprocess)(as_tensor(image)))
        return pixels


@lru_cache(maxsize=32)
def _steps(augmentation: str, preprocess: Preprocess) -> v2.Compose:
    """The random transforms of a preset or of timm's policy, from uint8 ``[3, h, w]`` to ``[3, H, W]``."""
    interpolation = INTERPOLATION[preprocess.interpolation]
    crop = v2.RandomResizedCrop(
        preprocess.size,
        scale=STRONG_CROP_AREA if augmentation == "strong" else CROP_AREA,
        interpolation=interpolation,
        antialias=preprocess.antialias,
    )
    steps: list[Any] = [crop, v2.RandomHorizontalFlip()]
    if augmentation == "strong":
        steps += [v2.RandomApply([v2.ColorJitter(**STRONG_JITTER)], p=0.8), v2.RandomErasing(p=STRONG_ERASING)]
    elif augmentation == "randaugment":
        steps.append(v2.RandAugment(interpolation=InterpolationMode.BILINEAR))
    elif augmentation == "autoaugment":
        steps.append(v2.AutoAugment(interpolation=InterpolationMode.BILINEAR))
    elif augmentation != "default":
        grey = preprocess.mean if preprocess.channel_order == "rgb" else preprocess.mean[::-1]
        settings = {  # as timm.data.create_transform has them
            "translate_const": int(min(preprocess.size) * 0.45),
            "img_mean": tuple(min(255, round(level)) for level in grey),
        }
        policy = _timm_policy(augmentation, settings)
        steps += [v2.ToPILImage(), policy, v2.PILToTensor()]
    return v2.Compose(steps)


def _timm_policy(policy: str, settings: dict[str, Any]) -> ImageTransform:
    """Timm's transform of PIL images for a policy string; it draws from Python's and numpy's global generators."""
    from timm.data import auto_augment

    kind = policy.split("-", maxsplit=1)[0]
    build: Callable[..., Any]
    if kind == "rand":
        build = auto_augment.rand_augment_transform
    elif kind == "augmix":
        build = auto_augment.augment_and_mix_transform
    else:
        build = auto_augment.auto_augment_transform
    transform: ImageTransform = build(policy, settings)
    operations = getattr(transform, "ops", None) or [
        step for steps in getattr(transform, "policy", ()) for step in steps
    ]
    for operation in operations:
        if operation.aug_fn is auto_augment.posterize:
            operation.aug_fn = _posterize
    return transform


def _posterize(image: Image.Image, bits: int, **_: Any) -> Image.Image:
    """Timm's, but for 0 bits: Pillow 13 refuses them, and older ones gave a black image, which teaches nothing."""
    return image if bits >= 8 else ImageOps.posterize(image, max(1, bits))


def _check_policy(policy: str) -> None:
    kind, *sections = policy.split("-")
    for section in sections:  # timm passes over what it does not understand, as long as there is no number in it
        if not any(letter.isdigit() for letter in section) and not (kind == "rand" and section.startswith("t")):
            raise ConfigError(f"augmentation {policy!r}: timm does not know the section {section!r}")
    try:
        _timm_policy(policy, {"translate_const": 100, "img_mean": (128, 128, 128)})
    except (AssertionError, KeyError, ValueError) as error:
        raise ConfigError(f"augmentation {policy!r}: timm does not take it ({one_line(error)})") from error


def _transformed(image: Pixels, transform: ImageTransform, preprocess: Preprocess) -> Pixels:
    """What a user's transform makes of an image, at the size of ``preprocess``."""
    result = transform(tv_tensors.Image(as_tensor(image)))
    if isinstance(result, Image.Image):
        try:
            pixels = load_image(result)
        except ImageError as error:  # the transform's doing, not the file's
            raise ConfigError(f"transforms gave an image that cannot be used: {error}") from error
    elif isinstance(result, torch.Tensor) and result.dtype == torch.uint8 and result.ndim == 3 and len(result) == 3:
        pixels = as_array(result.as_subclass(torch.Tensor))
    elif isinstance(result, torch.Tensor) and result.is_floating_point():
        raise ConfigError(
            f"transforms gave {result.dtype} {list(result.shape)}, but must give uint8 [3, H, W]: leave out ToDtype "
            "and Normalize, since normalisation belongs to the model, which does it in training, evaluation and export"
        )
    else:
        shape = f"{result.dtype} {list(result.shape)}" if isinstance(result, torch.Tensor) else type(result).__name__
        raise ConfigError(f"transforms gave {shape}, but must give uint8 [3, H, W] or a PIL image")
    return pixels if pixels.shape[:2] == preprocess.size else fit_image(pixels, preprocess)[0]


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the global generators of torch, numpy and Python for one image, and put them back as they were."""
    python, numpys = random.getstate(), np.random.get_state()  # noqa: NPY002 - what transforms draw from
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % (1 << 32))  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpys)  # noqa: NPY002


def mirrored(image: Pixels) -> Pixels:
    """Left and right exchanged, in memory of its own: torch takes no negative strides."""
    copy: Pixels = image[:, ::-1].copy()
    return copy


def as_tensor(image: Pixels) -> torch.Tensor:
    """Channels first without a copy, as torchvision takes it."""
    return torch.from_numpy(image).permute(2, 0, 1)


def as_array(image: torch.Tensor) -> Pixels:
    """Channels last, as the runtime has it."""
    array: Pixels = image.permute(1, 2, 0).contiguous().numpy()
    return array
