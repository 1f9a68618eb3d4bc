from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

from autotimm.runtime.errors import ConfigError
from autotimm.training.arguments import checked_argument, parameters_of
from autotimm.training.trainer import AutoTrainer


@pytest.mark.parametrize(
    ("value", "annotation", "expected"),
    [
        (3, int, 3),
        (3, float, 3.0),
        (0.5, int | float, 0.5),
        (None, int | None, None),
        (True, bool | str, True),
        ("x", str | Path, "x"),
        ("x", Path, "x"),
        ([480, 640], int | tuple[int, int] | None, (480, 640)),
        (["a"], Sequence[str] | None, ["a"]),
        ({"a": 1}, str | Mapping[str, Any], {"a": 1}),
        (object, Any, object),
        ("warn", bool | Literal["warn"], "warn"),
    ],
)
def test_what_fits(value: Any, annotation: Any, expected: Any) -> None:
    checked = checked_argument(value, annotation, "here")
    assert checked == expected
    assert type(checked) is type(expected)


@pytest.mark.parametrize(
    ("value", "annotation", "says"),
    [
        ("ten", int, "here is 'ten', but must be a whole number"),
        (1.5, int, "whole number"),
        (True, int, "whole number"),
        ("x", float | None, "a number or null"),
        (5, str | Path, "text or a path"),
        ("big", int | tuple[int, int] | None, "a whole number or a list or null"),
        (1, bool, "true or false"),
        ("x", AutoTrainer, "cannot express"),
    ],
)
def test_what_does_not(value: Any, annotation: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        checked_argument(value, annotation, "here")


def test_a_trainer_takes_its_own_arguments_and_lightnings() -> None:
    parameters = parameters_of(AutoTrainer)
    assert parameters["early_stopping"].type == (int | None)
    assert "gradient_clip_val" in parameters
    assert "kwargs" not in parameters
    assert not any(parameter.required for parameter in parameters.values())
