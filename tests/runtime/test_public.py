import ast
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import autotimm.runtime
from autotimm.runtime import errors

FORBIDDEN = ("torch", "torchvision", "timm", "pytorch_lightning", "lightning", "torchmetrics", "onnx", "onnxscript")


def imported_by(code: str) -> set[str]:
    """Top-level names of every module that a fresh interpreter holds after running ``code``."""
    code += "\nimport sys; print(sorted({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(ast.literal_eval(done.stdout.splitlines()[-1]))


def test_the_public_list_is_what_is_there() -> None:
    here = {
        name
        for name, value in vars(autotimm.runtime).items()
        if not name.startswith("_") and not isinstance(value, type(sys))
    }
    assert here == set(autotimm.runtime.__all__)
    assert list(autotimm.runtime.__all__) == sorted(autotimm.runtime.__all__)


def test_every_error_is_public() -> None:
    tree = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}
    assert tree <= set(autotimm.runtime.__all__)


def test_importing_brings_no_engine_and_no_framework() -> None:
    modules = imported_by("import autotimm.runtime")
    assert modules.isdisjoint({*FORBIDDEN, "onnxruntime", "supervision"})


def test_predicting_brings_no_framework(detector: Callable[..., Path]) -> None:
    modules = imported_by(
        "import numpy, autotimm.runtime as runtime\n"
        f"with runtime.load({str(detector())!r}) as predictor:\n"
        "    result = predictor.predict(numpy.zeros((40, 50, 3), 'uint8'))\n"
        "assert len(result) == 2"
    )
    assert modules.isdisjoint(FORBIDDEN)
    assert "onnxruntime" in modules
