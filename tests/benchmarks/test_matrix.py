import pytest

from autotimm.benchmarks.matrix import Cell, as_markdown, fill
from autotimm.runtime.errors import ConfigError, VerificationError


class Refusing:
    """Exports that end in an error."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def export(self, *_: object) -> None:
        raise self.error


@pytest.mark.parametrize(
    ("error", "status"),
    [(ConfigError("no such thing"), "not offered"), (VerificationError("far off"), "failed"), (KeyError("x"), "failed")],
)
def test_a_cell_says_why_it_is_empty(error: Exception, status: str) -> None:
    cell = fill(Refusing(error), "model", "onnx", "int8", "image")  # type: ignore[arg-type]
    assert cell.status == status
    assert str(error) in cell.reason or type(error).__name__ in cell.reason


def test_no_cell_is_missing_without_a_reason_beside_it() -> None:
    cells = [
        Cell("m", "onnx", "fp32", "image", "verified", 2.0, megabytes=4.0, worst={"box_px": 0.01}),
        Cell("m", "tensorrt", "fp32", "image", "built", 3.0, "no CUDA device", 5.0),
        Cell("m", "onnx", "int8", "image", "failed", 1.0, "too far off"),
        Cell("m", "tensorrt", "int8", "image", "built", 3.0, "no CUDA device", 5.0),
    ]
    table = as_markdown(cells, ["onnx", "tensorrt"])
    assert "| fp32 | image | verified, 4.0 MB, 2 s; box 0.01 px | built, 5.0 MB, 3 s (1) |" in table
    assert "| int8 | image | failed (2) | built, 5.0 MB, 3 s (1) |" in table
    assert "(1) no CUDA device" in table
    assert "(2) too far off" in table
    assert "1 verified, 2 built, 0 not offered, 1 failed" in table
