from pathlib import Path

import pytest

from autotimm.runtime.errors import ConfigError
from autotimm.training.config import load_config
from autotimm.training.templates import list_templates, read_template


def test_there_is_one_for_each_task() -> None:
    assert list_templates() == [
        "classification",
        "detection",
        "detector",
        "instances",
        "multilabel",
        "probe",
        "segmentation",
        "yolox",
    ]
    with pytest.raises(ConfigError, match="did you mean classification"):
        read_template("classificaton")


@pytest.mark.parametrize("name", list_templates())
def test_it_is_a_valid_configuration(name: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(read_template(name))
    config = load_config(path)
    assert config.trainer.arguments["max_epochs"] > 0


@pytest.mark.parametrize("name", list_templates())
def test_what_is_commented_out_is_valid_too(name: str, tmp_path: Path) -> None:
    """Every line that a reader may put in by taking its # away."""
    lines = []
    for line in read_template(name).splitlines():
        inside = line.startswith("  # ")
        lines.append(f"  {line[4:]}" if inside else line)
    path = tmp_path / "config.yaml"
    path.write_text("\n".join(lines))
    load_config(path)
