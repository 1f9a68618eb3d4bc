from pathlib import Path

import pytest

from autotimm.runtime import ConfigError
from autotimm.serving import ModelSource, ServerSettings, read_sources


@pytest.mark.parametrize(
    ("argument", "source"),
    [
        ("models/cells.onnx", ModelSource("cells", "1", Path("models/cells.onnx"))),
        ("my cells (2).onnx", ModelSource("my-cells-2", "1", Path("my cells (2).onnx"))),
        ("blood=cells.onnx", ModelSource("blood", "1", Path("cells.onnx"))),
        ("blood:3=a=b.onnx", ModelSource("blood", "3", Path("a=b.onnx"))),
        (r"blood:3=C:\cells.onnx", ModelSource("blood", "3", Path(r"C:\cells.onnx"))),
    ],
)
def test_files_and_names(argument: str, source: ModelSource) -> None:
    assert read_sources([argument]) == [source]


def test_a_file_whose_name_has_an_equals_sign(tmp_path: Path) -> None:
    (tmp_path / "lr=3.onnx").touch()
    assert read_sources([str(tmp_path / "lr=3.onnx")]) == [ModelSource("lr-3", "1", tmp_path / "lr=3.onnx")]


def test_a_repository_of_triton(tmp_path: Path) -> None:
    for place in ("cells/1/model.onnx", "cells/12/model.onnx", "dogs/1/model.onnx", "dogs/draft/model.onnx"):
        (tmp_path / place).parent.mkdir(parents=True)
        (tmp_path / place).touch()
    (tmp_path / "cells" / "config.pbtxt").touch()
    found = [(source.name, source.version, source.path.name) for source in read_sources([str(tmp_path)])]
    assert found == [
        (name, version, "model.onnx") for name, version in (("cells", "1"), ("cells", "12"), ("dogs", "1"))
    ]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["a b=x.onnx"], "the name 'a b' cannot stand in a URL"),
        (["a:0=x.onnx"], "the version '0' is not a whole number"),
        (["a:latest=x.onnx"], "the version 'latest' is not a whole number"),
        (["x/cells.onnx", "y/cells.onnx"], r"cells:1=x.cells\.onnx cells:2=y.cells\.onnx"),
    ],
)
def test_what_cannot_be_served(arguments: list[str], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        read_sources(arguments)


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no NAME/VERSION/model file"):
        read_sources([str(tmp_path)])
    with pytest.raises(ConfigError, match="only a file can be given a name"):
        read_sources([f"cells={tmp_path}"])


@pytest.mark.parametrize(
    "setting", [{"workers": -1}, {"queue_size": 0}, {"body_timeout": 0}, {"reload_seconds": 0}, {"api_key": ""}]
)
def test_settings_that_make_no_sense(setting: dict[str, float]) -> None:
    (name,) = setting
    with pytest.raises(ConfigError, match="API key" if name == "api_key" else name):
        ServerSettings(**setting)  # type: ignore[arg-type]
