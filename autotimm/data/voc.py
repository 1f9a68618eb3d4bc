"""Pascal VOC annotations: one XML file an image, and a list of names for each split.

VOC counts pixels from 1, and a box includes the pixels at both of its ends: an object over all of a 40 x 30 image is
``xmin 1, ymin 1, xmax 40, ymax 30``. Here that is the box 0, 0, 40, 30 between the outer edges of these pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError, TreeBuilder
from xml.parsers import expat

import numpy as np

from autotimm.data.bad_annotations import BadAnnotations, Objects, boxed_image
from autotimm.data.boxed import BoxedData
from autotimm.data.tables import sorted_names
from autotimm.runtime.errors import DataError, ImageError, one_line
from autotimm.runtime.images import EXTENSIONS, image_size

_SIDES = ("xmin", "ymin", "xmax", "ymax")


def voc_files(root: Path, split: str) -> list[Path]:
    """Where the list of a split may be."""
    return [root / "ImageSets" / "Main" / f"{split}.txt"]


def read_voc(
    file: Path,
    root: Path,
    bad: BadAnnotations,
    *,
    images: Path | None = None,
    class_names: Sequence[str] | None = None,
) -> BoxedData:
    """Read one split.

    Args:
        file: the list of names, ``ImageSets/Main/SPLIT.txt``.
        root: of the data set, with the folder ``Annotations``.
        bad: what is done about bad annotations.
        images: the folder of the images; ``JPEGImages`` where absent.
        class_names: the classes and their order; those of the split, sorted, where absent.

    Raises:
        DataError: the list or the folders are missing, or there are bad annotations that are refused.
    """
    names = read_names(file)
    annotations = root / "Annotations"
    folder = images if images is not None else root / "JPEGImages"
    for needed in (annotations, folder):
        if not needed.is_dir():
            raise DataError(f"{needed}: there is no such folder; Pascal VOC has Annotations and JPEGImages")
    path_of = {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() in EXTENSIONS}
    read: list[tuple[int, str, Path, Element]] = []
    for number, name in enumerate(names):
        if name not in path_of:
            bad.add(f"images that are not in {folder}", name)
            continue
        xml = annotations / f"{name}.xml"
        try:
            read.append((number, name, path_of[name], parse_xml(xml)))
        except FileNotFoundError:
            bad.add(f"images without an XML file in {annotations}", name)
        except (OSError, ParseError) as error:
            bad.add("XML files that cannot be read", f"{xml.name} ({one_line(error)})")
    if class_names is None:
        class_names = sorted_names(_text(object_, "name") for *_, root_ in read for object_ in root_.iter("object"))
        class_names = [name for name in class_names if name]
    if not class_names:
        raise DataError(f"{annotations}: none of {len(read)} XML files has an object with a name")
    index_of = {name: index for index, name in enumerate(class_names)}
    records = []
    for number, name, path, element in read:
        try:
            size = _size(element) or image_size(path)
        except ImageError as error:
            bad.add("images that cannot be read", error)
            continue
        records.append(boxed_image(path, number, size, _objects(element, index_of, name, bad), bad))
    bad.settle(file, records)
    return BoxedData(file, tuple(class_names), tuple(range(len(class_names))), tuple(records))


def parse_xml(path: Path) -> Element:
    """The root of an XML file. One with a document type, in which entities could be defined, is not read.

    Raises:
        OSError: it cannot be opened.
        ParseError: it is no XML, or declares a document type.
    """
    builder = TreeBuilder()
    parser = expat.ParserCreate()
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = _refuse_document_type
    try:
        parser.Parse(path.read_bytes(), True)
    except expat.ExpatError as error:
        raise ParseError(str(error)) from error
    return builder.close()


def _refuse_document_type(name: str, *_: object) -> None:
    raise ParseError(f"declares the document type {name}, which annotations need not")


def read_names(file: Path) -> list[str]:
    """The names of a list, each once; a second column, as in VOC's lists for each class, is not looked at.

    Raises:
        DataError: it cannot be read, or is empty.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeError) as error:
        raise DataError(f"{file}: is not a readable list of images ({one_line(error)})") from error
    names = list(dict.fromkeys(line.split()[0] for line in lines if line.strip()))
    if not names:
        raise DataError(f"{file}: lists no images")
    return names


def _size(element: Element) -> tuple[int, int] | None:
    """``(height, width)``, None where the file does not say, or says 0 as some tools do."""
    size = element.find("size")
    try:
        height, width = (int(float(_text(size, side))) for side in ("height", "width")) if size is not None else (0, 0)
    except (ValueError, OverflowError):
        return None
    return (height, width) if min(height, width) > 0 else None


def _objects(element: Element, index_of: Mapping[str, int], name: str, bad: BadAnnotations) -> Objects:
    boxes, labels, difficult = [], [], []
    for object_ in element.iter("object"):
        label = _text(object_, "name")
        if label not in index_of:
            bad.add("boxes of classes that are not known", f"{label or 'without a name'} ({name}.xml)")
            continue
        box = object_.find("bndbox")
        try:
            corners = [float(_text(box, side)) if box is not None else math.nan for side in _SIDES]
        except ValueError:
            bad.add("boxes that are not four numbers", f"{name}.xml")
            continue
        boxes.append([corners[0] - 1, corners[1] - 1, corners[2], corners[3]])
        labels.append(index_of[label])
        difficult.append(_text(object_, "difficult") == "1")
    return Objects(
        np.array(boxes, dtype=np.float64).reshape(-1, 4),
        np.array(labels, dtype=np.int64),
        np.array(difficult, dtype=np.bool_),
    )


def _text(element: Element | None, tag: str) -> str:
    found = None if element is None else element.findtext(tag)
    return "" if found is None else found.strip()
