"""Which layout the masks of a data set are in, by what is there, and reading them whatever it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

from autotimm.data.bad_annotations import BadAnnotations
from autotimm.data.coco import coco_files, read_coco
from autotimm.data.mask_classes import VOC_CLASSES, MaskClasses, cityscapes_classes, mapped_classes
from autotimm.data.mask_files import palette_of
from autotimm.data.masked import MaskedData, MaskedImage, PaintedMask, usable
from autotimm.data.voc import read_names
from autotimm.runtime.errors import ConfigError, DataError, one_line
from autotimm.runtime.images import EXTENSIONS, list_images

MaskFormat = Literal["png", "voc", "cityscapes", "coco"]

_MASK_ENDINGS = frozenset({".png", ".tif", ".tiff", ".bmp"})
"""Lossless ones: a JPEG's numbers are not those that were saved."""
_IMAGE_SUFFIX, _MASK_SUFFIX = "_leftImg8bit", "_gtFine_labelIds"
"""Of the file names of Cityscapes."""
BACKGROUND = "background"
"""Class 0 of masks that are painted of COCO's objects."""


def check_mask_format(name: str) -> MaskFormat | None:
    """The format itself; None for ``auto``.

    Raises:
        ConfigError: no such format.
    """
    for known in get_args(MaskFormat):
        if name == known:
            return known  # type: ignore[no-any-return]
    if name != "auto":
        raise ConfigError.unknown("format of masks", name, ("auto", *get_args(MaskFormat)))
    return None


def mask_places(root: Path, split: str) -> dict[MaskFormat, list[tuple[Path, Path]]]:
    """Where the images and the masks of a split may be, by format."""
    return {
        "png": [
            (root / split / "images", root / split / "masks"),
            (root / "images" / split, root / "masks" / split),
            (root / "images" / split, root / "annotations" / split),
        ],
        "voc": [(root / "JPEGImages", root / "ImageSets" / "Segmentation" / f"{split}.txt")],
        "cityscapes": [(root / "leftImg8bit" / split, root / "gtFine" / split)],
        "coco": [(root, file) for file in coco_files(root, split)],
    }


def mask_formats_there(root: Path, split: str) -> dict[MaskFormat, tuple[Path, Path]]:
    """The formats that a split is there in, with the places of its images and masks."""
    there: dict[MaskFormat, tuple[Path, Path]] = {}
    for name, places in mask_places(root, split).items():
        for images, masks in places:
            if images.exists() and masks.exists():
                there[name] = (images, masks)
                break
    return there


def read_masked(
    root: Path,
    split: str,
    *,
    format: MaskFormat | None = None,  # noqa: A002 - as the argument of the data module
    annotations: Path | None = None,
    images: Path | None = None,
    class_names: Sequence[str] | None = None,
    class_mapping: Mapping[Any, Any] | None = None,
    ignore_index: int = 255,
    bad_annotations: str = "refuse",
    usual_names: Sequence[str] | None = None,
) -> MaskedData:
    """Read one split in whatever format it is.

    Args:
        root: of the data set.
        split: its name.
        format: that of the masks; recognised where absent.
        annotations: where the masks are, if not in their usual place: their folder, VOC's list or COCO's JSON file.
        images: the folder of the images, where it is not in its usual place.
        class_names: the classes in their order; ``classes.txt`` says them where absent, or the format.
        class_mapping: from numbers or colours in the files to class names (:func:`mapped_classes`).
        ignore_index: of pixels that are not labelled.
        bad_annotations: ``refuse`` or ``skip``.
        usual_names: the classes where nothing says them.

    Raises:
        DataError: it is missing or cannot be read, or has bad masks that are refused.
        ConfigError: its format cannot be told, or what is said about the classes does not fit.
    """
    if not root.is_dir():
        raise DataError(f"{root}: there is no such folder")
    kind, image_place, mask_place = _places(root, split, format, annotations, images)
    bad = BadAnnotations(bad_annotations)
    if kind == "coco":
        return _read_coco(root, mask_place, images, bad, class_mapping, ignore_index)
    if kind == "voc":
        found = _voc_images(root, image_place, mask_place, bad)
    elif kind == "cityscapes":
        found = _cityscapes_images(image_place, mask_place, bad)
    else:
        found = _pairs(image_place, mask_place, bad)
    classes = _classes(kind, root, class_names, class_mapping, ignore_index, usual_names)
    classes = _with_palette(classes, found)
    kept = usable(found, classes, bad)
    bad.settle(mask_place, kept)
    return MaskedData(mask_place, classes, kept)


def _places(
    root: Path, split: str, format_: MaskFormat | None, annotations: Path | None, images: Path | None
) -> tuple[MaskFormat, Path, Path]:
    """Format, place of the images, place of the masks."""
    if annotations is not None:
        by_ending: dict[str, MaskFormat] = {".json": "coco", ".txt": "voc"}
        kind = format_ or by_ending.get(annotations.suffix.lower(), "png")
        usual = {"voc": root / "JPEGImages", "coco": root}
        place = images or usual.get(kind)
        if place is None:
            raise ConfigError(f"the masks are in {annotations}: say where their images are ({split}_images, --images)")
        if not annotations.exists():
            raise DataError(f"{annotations}: there are no such masks")
        return kind, place, annotations
    there = mask_formats_there(root, split)
    if format_ is not None:
        there = {name: place for name, place in there.items() if name == format_}
    if "png" in there and "coco" in there and format_ is None:
        raise ConfigError(
            f"{root}: the {split} split has masks in {there['png'][1]} and in {there['coco'][1]}; say which: "
            "format='png' or 'coco'"
        )
    if not there:
        tried = {name: places for name, places in mask_places(root, split).items() if format_ in (None, name)}
        looked = "; ".join(
            f"{name}: {' or '.join(str(masks) for _, masks in places)}" for name, places in tried.items()
        )
        raise DataError(
            f"{root}: found no masks of the {split} split: looked for {looked}; give their place as "
            f"{split}_annotations (evaluate: --annotations), or choose another split"
        )
    kind = next(iter(there))
    return kind, images or there[kind][0], there[kind][1]


def _pairs(images: Path, masks: Path, bad: BadAnnotations) -> list[MaskedImage]:
    """Images and masks of one folder each, by their names without the endings."""
    for folder in (images, masks):
        if not folder.is_dir():
            raise DataError(f"{folder}: there is no such folder")
    mask_of = {path.stem: path for path in sorted(masks.iterdir()) if path.suffix.lower() in _MASK_ENDINGS}
    found = []
    for path in list_images(images):
        mask = mask_of.pop(path.stem, None)
        if mask is None:
            bad.add(f"images without a mask in {masks}", path.name)
        else:
            found.append(MaskedImage(path, mask))
    for mask in mask_of.values():
        bad.add(f"masks without an image in {images}", mask.name)
    return found


def _voc_images(root: Path, images: Path, listed: Path, bad: BadAnnotations) -> list[MaskedImage]:
    masks = root / "SegmentationClass"
    for folder in (images, masks):
        if not folder.is_dir():
            raise DataError(f"{folder}: there is no such folder; Pascal VOC has JPEGImages and SegmentationClass")
    path_of = {path.stem: path for path in sorted(images.iterdir()) if path.suffix.lower() in EXTENSIONS}
    found = []
    for name in read_names(listed):
        mask = masks / f"{name}.png"
        if name not in path_of:
            bad.add(f"images that are not in {images}", name)
        elif not mask.is_file():
            bad.add(f"images without a mask in {masks}", name)
        else:
            found.append(MaskedImage(path_of[name], mask))
    return found


def _cityscapes_images(images: Path, masks: Path, bad: BadAnnotations) -> list[MaskedImage]:
    found = []
    for path in list_images(images, recursive=True):
        mask = masks / path.parent.relative_to(images) / f"{path.stem.removesuffix(_IMAGE_SUFFIX)}{_MASK_SUFFIX}.png"
        if mask.is_file():
            found.append(MaskedImage(path, mask))
        else:
            bad.add(f"images without a mask in {masks}", path.name)
    return found


def _read_coco(
    root: Path,
    file: Path,
    images: Path | None,
    bad: BadAnnotations,
    class_mapping: Mapping[Any, Any] | None,
    ignore_index: int,
) -> MaskedData:
    if class_mapping is not None:
        raise ConfigError("class_mapping is for masks in files; COCO's categories have names")
    data = read_coco(file, images, root, bad, masks=True)
    classes = MaskClasses((BACKGROUND, *data.class_names), ignore_index)
    found = [
        MaskedImage(image.path, PaintedMask(image.size, image.masks, tuple(1 + int(label) for label in image.labels)))
        for image in data.images
    ]
    kept = usable(found, classes, bad)
    bad.settle(file, kept)
    return MaskedData(file, classes, kept)


def _classes(
    kind: MaskFormat,
    root: Path,
    class_names: Sequence[str] | None,
    class_mapping: Mapping[Any, Any] | None,
    ignore_index: int,
    usual_names: Sequence[str] | None,
) -> MaskClasses:
    file = root / "classes.txt"
    if class_names is None and file.is_file():
        class_names = _listed(file)
    if class_mapping is not None:
        return mapped_classes(class_mapping, class_names, ignore_index)
    if class_names is not None:
        return MaskClasses(tuple(class_names), ignore_index)
    if kind == "cityscapes":
        return cityscapes_classes(ignore_index)
    if kind == "voc":
        return MaskClasses(VOC_CLASSES, ignore_index)
    if usual_names is not None:
        return MaskClasses(tuple(usual_names), ignore_index)
    raise DataError(
        f"{root}: what the numbers in its masks mean is not said: name the classes in {file.name}, one a line in the "
        "order of their numbers, or give class_names or class_mapping"
    )


def _listed(file: Path) -> list[str]:
    try:
        names = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeError) as error:
        raise DataError(f"{file}: is not a readable list of class names ({one_line(error)})") from error
    if not names or len(set(names)) < len(names):
        raise DataError(f"{file}: names no class, or one twice")
    return names


def _with_palette(classes: MaskClasses, images: Sequence[MaskedImage]) -> MaskClasses:
    """The classes with the colours of the first mask's palette, where it has one and they have none."""
    first = next((image.mask for image in images if isinstance(image.mask, Path)), None)
    if first is None or classes.palette is not None or classes.ids is not None or classes.colors is not None:
        return classes
    return replace(classes, palette=palette_of(first, len(classes.class_names)))
