from typing import Any

import pytest

from autotimm.metrics import MetricConfig
from autotimm.runtime.errors import ConfigError


def test_a_mapping_from_yaml_and_back() -> None:
    values = {"name": "f1", "metric_class": "F1Score", "params": {"average": "macro"}, "stages": ["val"]}
    config = MetricConfig.of(values)
    assert config == MetricConfig("f1", "torchmetrics", "F1Score", {"average": "macro"}, ("val",), False)
    assert config.to_dict() == {**values, "backend": "torchmetrics", "prog_bar": False}
    assert MetricConfig.from_mapping(config.to_dict()) == config
    assert MetricConfig.of(config) is config


def test_the_name_is_that_of_the_class_where_no_other_is_given() -> None:
    assert MetricConfig("AUROC").metric_class == "AUROC"
    assert MetricConfig("AUROC").stages == ("train", "val", "test")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "f1", "metric_clas": "F1Score"}, "field of a metric .* did you mean metric_class"),
        ({"metric_class": "F1Score"}, "needs a name"),
        ({"name": "val/f1"}, "without a slash"),
        ({"name": ""}, "must be text"),
        ({"name": "f1", "backend": "torchmetric"}, "did you mean torchmetrics"),
        ({"name": "f1", "backend": "custom"}, r"needs metric_class, written package\.module\.ClassName"),
        ({"name": "f1", "metric_class": 3}, "metric_class is 3"),
        ({"name": "f1", "params": ["macro"]}, "must be a mapping"),
        ({"name": "f1", "stages": "val"}, "must be a list of some of train, val, test"),
        ({"name": "f1", "stages": []}, "must be a list of some of train, val, test"),
        ({"name": "f1", "stages": ["value"]}, r"stage \(metric f1\) 'value'; did you mean val"),
        ({"name": "f1", "prog_bar": "yes"}, "must be true or false"),
        ("F1Score", "does not describe a metric"),
    ],
)
def test_mistakes(values: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MetricConfig.of(values)
