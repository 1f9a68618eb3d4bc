"""What the documents and the examples tell a reader to type is what the code understands."""

import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import typer.main
from PIL import Image

from autotimm.cli.app import app
from autotimm.export import export_to_onnx
from autotimm.models.yolox.network import YOLOXNetwork
from autotimm.models.yolox.sizes import find_size
from autotimm.runtime.pictures import generate
from autotimm.training import load_config

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
EXAMPLES = sorted([*(ROOT / "examples").iterdir(), *(ROOT / "autotimm" / "training" / "templates").iterdir()])
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
CLI: Any = typer.main.get_command(app)


def blocks(document: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", document.read_text(encoding="utf-8"), re.DOTALL)


def spans(document: Path) -> list[str]:
    """What stands between single backticks outside code blocks."""
    prose = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    return re.findall(r"`([^`\n]+)`", prose)


def command_lines() -> Iterator[tuple[str, str]]:
    """Every ``autotimm`` command line of the documents and the examples, with the file it stands in."""
    for document in DOCUMENTS:
        typed = [line for block in blocks(document, "bash") for line in block.splitlines()]
        for line in [*typed, *spans(document)]:
            if line.startswith("autotimm "):
                yield document.name, line
    for example in EXAMPLES:
        if example.suffix in (".yaml", ".py"):
            for line in re.findall(r"^#?\s+(autotimm .+)$", example.read_text(encoding="utf-8"), re.MULTILINE):
                yield example.name, line


def parse(line: str) -> None:
    """Parse a command line with the real commands and options, without running it."""
    words = shlex.split(line.partition(" > ")[0], comments=True)[1:]
    context = CLI.make_context("autotimm", list(words))
    name, command, rest = CLI.resolve_command(context, words)
    if command is not None and rest:  # in prose, a bare `autotimm verify` only names the command
        command.make_context(name, rest, parent=context)


def test_the_parser_of_this_test_notices_mistakes() -> None:
    with pytest.raises(Exception, match="--nope"):
        parse("autotimm export yolox_nano.pth --nope")
    with pytest.raises(Exception, match="coreml"):
        parse("autotimm export yolox_nano.pth --format coreml")
    with pytest.raises(Exception, match="nope"):
        parse("autotimm nope")


@pytest.mark.parametrize(("where", "line"), [pytest.param(*found, id=" ".join(found)) for found in command_lines()])
def test_command_line(where: str, line: str) -> None:
    if line not in ("autotimm --help", "autotimm --version"):  # these two would print and exit
        parse(line)


def test_options_in_prose_exist() -> None:
    known = {option for command in CLI.commands.values() for parameter in command.params for option in parameter.opts}
    known |= {option for command in CLI.commands.values() for p in command.params for option in p.secondary_opts}
    named = [span for document in DOCUMENTS for span in spans(document) if span.startswith("--")]
    assert named
    assert {span.split()[0] for span in named} <= known


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a reader who has downloaded what the README names, with random weights in it."""
    torch.manual_seed(0)
    network = YOLOXNetwork(find_size("yolox-nano"), 80)
    torch.save({"model": network.state_dict()}, tmp_path / "yolox_nano.pth")
    Image.fromarray(generate(120, 160, 0)).save(tmp_path / "photo.jpg")
    create_model = timm.create_model

    def create_without_download(name: str, pretrained: bool = False, **kwargs: Any) -> Any:
        return create_model(name, pretrained=False, **kwargs)

    monkeypatch.setattr(timm, "create_model", create_without_download)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("index", range(len(blocks(ROOT / "README.md", "python"))))
def test_python_of_the_readme_runs(reader: Path, index: int, capsys: pytest.CaptureFixture[str]) -> None:
    code = blocks(ROOT / "README.md", "python")[index]
    exec(compile(code, f"README.md, Python block {index + 1}", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out
    assert list(reader.glob("*.onnx"))


@pytest.mark.filterwarnings("ignore:.*batch_size=32 is more than the 18 images")
@pytest.mark.filterwarnings("ignore:unfreeze_epoch is 3 and max_epochs 1")
def test_python_of_the_training_page_runs(reader: Path, color_images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On a smaller network, three classes and one epoch."""
    (code,) = blocks(ROOT / "docs" / "training.md", "python")
    smaller = {
        "convnext_atto": "test_convnext",
        "num_classes=6": "num_classes=3",
        "max_epochs=12": "max_epochs=1",
        "image_size=224": "image_size=64",
    }
    for said, done in smaller.items():
        assert said in code
        code = code.replace(said, done)
    (reader / "data").mkdir()
    (reader / "data" / "trash").symlink_to(color_images)
    exec(compile(code, "docs/training.md", "exec"), {"__name__": "__main__"})
    assert "best_checkpoint" in capsys.readouterr().out


def test_python_of_the_evaluation_page_runs(
    reader: Path, detector_artifact: Path, boxed_images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = blocks(ROOT / "docs" / "evaluation.md", "python")
    (reader / "data").mkdir()
    (reader / "data" / "cells").symlink_to(boxed_images)
    (reader / "cells.onnx").symlink_to(detector_artifact)
    exec(compile(code, "docs/evaluation.md", "exec"), {"__name__": "__main__"})
    assert "(2, 2, 101)" in capsys.readouterr().out
    assert (reader / "curves.svg").is_file()


def test_python_of_the_page_on_image_input_runs(
    reader: Path, detector_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = blocks(ROOT / "docs" / "image-input.md", "python")
    export_to_onnx(detector_checkpoint, "model.onnx", input="image", verify=False)
    exec(compile(code, "docs/image-input.md", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out


@pytest.mark.parametrize("path", [path for path in EXAMPLES if path.suffix == ".yaml"], ids=lambda path: path.name)
def test_example_configurations_are_understood(path: Path) -> None:
    config = load_config(path)
    assert config.model.class_name
    assert config.data.arguments["root"]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_and_modules_that_are_named_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    links = [target for target in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in target]
    named = [span for span in spans(document) if re.fullmatch(r"(autotimm|tests|examples)/[\w/.]+", span)]
    for name in links:
        assert (document.parent / name).exists(), name
    for name in named:
        assert (ROOT / name).exists(), name
    for module in re.findall(r"python -m (autotimm[\w.]*)", text):
        assert importlib.util.find_spec(module) is not None, module


def test_every_page_is_linked_from_the_first_one() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert f"](docs/{page.name})" in text, page.name


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_what_is_installed_and_made_exists(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert not re.search(r"pip install (\S+ )*'?autotimm(?!-deploy)", text)  # that is another project on PyPI
    for extras in re.findall(r"'(?:\.|autotimm-deploy)\[([\w,-]+)\]'", text):
        for extra in extras.split(","):
            assert re.search(rf"^{extra} = \[", PYPROJECT, re.MULTILINE), extra
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for target in re.findall(r"(?:^|`)make (\w+)", text, re.MULTILINE):
        assert target in targets, target
