import ast
import subprocess
import sys

import pytest

import autotimm

HEAVY = {"torch", "torchvision", "timm", "pytorch_lightning", "torchmetrics", "onnx", "onnxruntime", "numpy", "PIL"}


def imported_by(code: str) -> set[str]:
    """Top-level names of every module that a fresh interpreter holds after running ``code``."""
    code += "\nimport sys; print(sorted({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(ast.literal_eval(done.stdout.splitlines()[-1]))


def test_the_public_list_is_what_is_there() -> None:
    assert list(autotimm.__all__) == sorted(autotimm.__all__)
    assert {*autotimm._HOMES, *autotimm._SUBPACKAGES, "__version__"} == set(autotimm.__all__)
    assert dir(autotimm) == sorted(autotimm.__all__)


@pytest.mark.parametrize("name", autotimm.__all__)
def test_every_name_loads(name: str) -> None:
    value = getattr(autotimm, name)
    if name in autotimm._HOMES:
        assert value.__name__ == name
        home = sys.modules[autotimm._HOMES[name]]
        assert value is getattr(home, name)
        assert name in home.__all__
    elif name in autotimm._SUBPACKAGES:
        assert value is sys.modules[f"autotimm.{name}"]


def test_other_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="module 'autotimm' has no attribute 'VideoTagger'"):
        _ = autotimm.VideoTagger
    assert not hasattr(autotimm, "torch")


def test_importing_brings_nothing_heavy() -> None:
    assert imported_by("import autotimm; dir(autotimm); autotimm.__version__").isdisjoint(HEAVY)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["predict", "--help"], ["train", "--help"]])
def test_help_brings_nothing_heavy(arguments: list[str]) -> None:
    modules = imported_by(
        f"import sys; sys.argv = ['autotimm', *{arguments!r}]\n"
        "from autotimm.cli import main\n"
        "try: main()\nexcept SystemExit as exit: assert not exit.code, exit.code"
    )
    assert modules.isdisjoint(HEAVY - {"numpy", "PIL"})
