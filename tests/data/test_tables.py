from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autotimm.data.csv_data import read_multi_label_data, read_single_label_data
from autotimm.data.labelled import LabelledData, LabelledImages
from autotimm.data.tables import LabelColumns, find_table, read_table, sorted_names
from autotimm.runtime.errors import ConfigError, DataError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for index in range(30):
        Image.new("RGB", (8, 8), (index, 0, 0)).save(tmp_path / f"{index}.png")
    return tmp_path


def write(file: Path, *lines: str) -> Path:
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def rows(split: LabelledImages) -> list[tuple[str, object]]:
    return [(Path(split.images.name(index)).name, split.labels[index].tolist()) for index in range(len(split))]


def single(root: Path, train: object, val: object = None, test: object = None, **options: object) -> LabelledData:
    settings = {"image_column": "image", "label_column": "label", "val_fraction": 0.2, "seed": 0, **options}
    return read_single_label_data(root, {"train": train, "val": val, "test": test}, **settings)  # type: ignore[arg-type]


def multi(root: Path, train: object, val: object = None, layout: LabelColumns | None = None, **options: object):
    settings = {"val_fraction": 0.2, "seed": 0, **options}
    files = {"train": train, "val": val, "test": None}
    return read_multi_label_data(root, files, layout or LabelColumns(), **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "content",
    [
        b"image,label\r\n0.png,a b\r\n1.png,c\r\n",
        b"\xef\xbb\xbfimage,label\n0.png,a b\n1.png,c",
        b'"image","label"\n"0.png","a b"\n\n"1.png", c \n',
        b"image;label\n0.png;a b\n1.png;c\n",
        b"more\timage\tlabel\n,,\t0.png\ta b\n\t1.png\tc\n",
    ],
)
def test_dialects(root: Path, content: bytes) -> None:
    (root / "t.csv").write_bytes(content)
    table = read_table(root / "t.csv", ["image", "label"])
    assert [(row["image"], row["label"]) for row in table.rows] == [("0.png", "a b"), ("1.png", "c")]


def test_quotes_keep_delimiters_and_umlauts(root: Path) -> None:
    file = write(root / "t.csv", "image,label", '0.png,"Käse, ""alt"""', "1.png,Brot")
    assert single(root, file, file).class_names == ("Brot", 'Käse, "alt"')


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"\n  \n", "is empty"),
        (b"image,label\n", "a header but no rows"),
        (b"picture,label\n0.png,a\n", "no column 'image'; its columns are picture, label"),
        (b"image,label,label\n0.png,a,a\n", "names 'label' more than once"),
        (b"image,label\n0.png\n1.png,a\n2.png,a,b\n", "2 rows have not the 2 cells .*: lines 2, 4"),
        (b"image,label\n\xff\xfe,a\n", "not a readable CSV file in UTF-8"),
        (b'image,label\n"0.png,a\n', "not a readable CSV file"),
        (b"image,label\n0.png,\n1.png,a\n", "1 rows have no class in column 'label': line 2"),
        (b"image,label\n,a\n1.png,b\n", "1 rows name no image in column 'image': line 2"),
        (
            b"image,label\n0.png,a\nx.png,b\nx.png,b\ny.png,b\n",
            r"2 of 3 images are not there: .*x\.png, .*y\.png; .*taken from",
        ),
        (b"image,label\n0.png,a\n1.png,a\n", "one class only, a with 2 rows"),
        (b"image,label\n0.png,a\n1.png,b\n0.png,b\n", r"0\.png has other labels in line 4 than in line 2"),
        (b"image,label\n0.png,a\n1.png,b\n2.png,b\n", "a holds 1 image, but needs one for training"),
    ],
)
def test_what_cannot_be_used(root: Path, content: bytes, says: str) -> None:
    (root / "t.csv").write_bytes(content)
    with pytest.raises(DataError, match=says) as caught:
        single(root, "t.csv")
    assert "t.csv" in str(caught.value)


def test_a_file_is_found_from_the_working_directory_or_the_root(
    root: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path_factory.mktemp("here")
    monkeypatch.chdir(here)
    write(root / "t.csv", "image")
    assert find_table(root, "t.csv") == root / "t.csv"
    write(here / "t.csv", "image")
    assert find_table(root, "t.csv") == Path("t.csv")
    with pytest.raises(DataError, match=r"no such CSV file: u\.csv or .*u\.csv"):
        find_table(root, "u.csv")
    with pytest.raises(ConfigError, match="no train_csv"):
        single(root, None)


def test_files_for_each_split(root: Path) -> None:
    train = write(root / "train.csv", "image,label", "0.png,dog", "1.png,cat", "2.png,emu", "0.png,dog")
    val = write(root / "val.csv", "label,image", "cat,3.png", "dog,4.png")
    test = write(root / "test.csv", "image,label", f"{root / '5.png'},emu")
    data = single(root, train, val, test)
    assert data.class_names == ("cat", "dog", "emu")
    assert rows(data.train) == [("0.png", 1), ("1.png", 0), ("2.png", 2), ("0.png", 1)]
    assert rows(data.val) == [("3.png", 0), ("4.png", 1)]
    read = data.read_test()
    assert read is not None
    assert rows(read) == [("5.png", 2)]
    assert single(root, train, val).read_test() is None


def test_a_label_that_training_lacks(root: Path) -> None:
    train = write(root / "train.csv", "image,label", "0.png,dog", "1.png,cat")
    val = write(root / "val.csv", "image,label", "3.png,cat", "4.png,yak", "5.png,yak", "6.png,zho")
    with pytest.raises(
        DataError, match=r"val\.csv: has 2 classes that training does not: yak \(2 rows\), zho \(1 rows\)"
    ):
        single(root, train, val)
    data = single(root, train, train, val)  # the test file is read when it is wanted
    with pytest.raises(DataError, match="yak"):
        data.read_test()


def test_the_same_part_of_each_class_is_held_out_and_repetitions_go_along(root: Path) -> None:
    lines = [f"{index}.png,{'a' if index < 20 else 'b'}" for index in range(30)]
    file = write(root / "t.csv", "image,label", *lines, *lines[::2])
    data = single(root, file, val_fraction=0.3)
    train, val = rows(data.train), rows(data.val)
    assert len(train) + len(val) == 45
    assert {name for name, _ in train}.isdisjoint(name for name, _ in val)
    assert [len({name for name, label in val if label == index}) for index in (0, 1)] == [6, 3]
    assert rows(single(root, file, val_fraction=0.3).val) == val
    assert rows(single(root, file, val_fraction=0.3, seed=1).val) != val
    assert len(single(root, file, val_fraction=1.0).train) == 0


def test_numbers_are_sorted_as_numbers() -> None:
    assert sorted_names(["10", "9", "1"]) == ("1", "9", "10")
    assert sorted_names(["10", "9", "a"]) == ("10", "9", "a")


def test_columns_of_zeros_and_ones(root: Path) -> None:
    train = write(root / "t.csv", "image,night,rain", "0.png,1,0", "1.png,0,1.0", "2.png,1,1", "3.png,0,0")
    val = write(root / "v.csv", "rain,image,night", "1,4.png,0")
    data = multi(root, train, val)
    assert data.class_names == ("night", "rain")
    assert data.train.labels.dtype == np.float32
    assert rows(data.train) == [("0.png", [1, 0]), ("1.png", [0, 1]), ("2.png", [1, 1]), ("3.png", [0, 0])]
    assert rows(data.val) == [("4.png", [0, 1])]
    chosen = multi(root, write(root / "u.csv", "image,id,rain", "0.png,77,1"), train, LabelColumns(columns=("rain",)))
    assert rows(chosen.val)[1] == ("1.png", [1])


def test_a_column_of_names(root: Path) -> None:
    layout = LabelColumns(names="tags", separator=";")
    file = write(root / "t.csv", "image,tags", "0.png,rain; night;rain", "1.png,", "2.png,fog;")
    data = multi(root, file, file, layout)
    assert data.class_names == ("fog", "night", "rain")
    assert rows(data.val) == [("0.png", [0, 1, 1]), ("1.png", [0, 0, 0]), ("2.png", [1, 0, 0])]
    other = write(root / "v.csv", "image,tags", "0.png,rain;hail")
    with pytest.raises(DataError, match=r"v\.csv: has 1 classes that training does not: hail \(1 rows\)"):
        multi(root, file, other, layout)


@pytest.mark.parametrize(
    ("lines", "layout", "says"),
    [
        (
            ("image,a,b", "0.png,1,2", "1.png,1,x"),
            None,
            "2 cells of column 'b' are not 0 or 1, the first is '2' .*lines 2, 3",
        ),
        (("image,a", "0.png,"), None, "1 cells of column 'a'"),
        (("image", "0.png"), None, "no column but 'image', so no labels"),
        (("image,a,b", "0.png,0,0"), None, "no image has any of its 2 classes"),
        (("image,a", "0.png,1"), LabelColumns(columns=("b",)), "no column 'b'"),
        (("image,a", "0.png,1"), LabelColumns(names="tags"), "no column 'tags'"),
        (("image,tags", "0.png,", "1.png,|"), LabelColumns(names="tags"), "names no class in any row"),
        (("image,a", "x.png,1"), None, "1 of 1 images are not there"),
        (("image,a,b", "0.png,1,0", "0.png,0,1"), None, "other labels in line 3 than in line 2"),
        (("image,a", "0.png,1"), None, "1 images cannot be parted .* give a val_csv"),
    ],
)
def test_what_cannot_be_used_of_multi_label_data(
    root: Path, lines: tuple[str, ...], layout: LabelColumns | None, says: str
) -> None:
    with pytest.raises(DataError, match=says):
        multi(root, write(root / "t.csv", *lines), layout=layout)


def test_columns_of_another_file_must_be_the_same(root: Path) -> None:
    train = write(root / "t.csv", "image,a,b", "0.png,1,0", "1.png,0,1")
    with pytest.raises(DataError, match=r"v\.csv: has 1 classes that training does not: c"):
        multi(root, train, write(root / "v.csv", "image,a,b,c", "0.png,1,0,1"))
    with pytest.raises(DataError, match=r"v\.csv: has no column for b \(1 classes\)"):
        multi(root, train, write(root / "v.csv", "image,a", "0.png,1"))


def test_classes_that_never_occur_are_told(root: Path) -> None:
    file = write(root / "t.csv", "image,a,b,c", "0.png,1,0,0", "1.png,1,0,0")
    with pytest.warns(UserWarning, match=r"no image has the class b, c \(2 of 3 classes\); it cannot be learned"):
        data = multi(root, file, file)
    assert data.class_names == ("a", "b", "c")


def test_what_is_held_out_of_multi_label_data_takes_its_repetitions_along(root: Path) -> None:
    lines = [f"{index}.png,{int(index % 2 == 0)},{int(index % 3 == 0)}" for index in range(30)]
    file = write(root / "t.csv", "image,even,third", *lines, *lines[:10])
    data = multi(root, file)
    train, val = rows(data.train), rows(data.val)
    assert len(train) + len(val) == 40
    assert {name for name, _ in train}.isdisjoint(name for name, _ in val)
    unique = dict(val)
    assert len(unique) == 6
    assert np.sum(list(unique.values()), axis=0).tolist() == [3, 2]


def test_columns_that_contradict() -> None:
    with pytest.raises(ConfigError, match="not both"):
        LabelColumns(columns=("a",), names="b")
    for columns in ((), ("image", "a")):
        with pytest.raises(ConfigError, match="must name columns other than 'image'"):
            LabelColumns(columns=columns)
    with pytest.raises(ConfigError, match="label_separator is empty"):
        LabelColumns(names="b", separator="")
