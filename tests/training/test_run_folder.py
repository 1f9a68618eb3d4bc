from pathlib import Path

import pytest

from autotimm.runtime.errors import ConfigError
from autotimm.training.run_folder import claim_run_folder


def test_no_run_gets_the_folder_of_another(tmp_path: Path) -> None:
    folders = [claim_run_folder(tmp_path / "runs", "cells") for _ in range(3)]
    assert [folder.name for folder in folders] == ["cells", "cells-2", "cells-3"]
    assert all(folder.is_dir() and folder.is_absolute() for folder in folders)
    assert claim_run_folder(tmp_path / "runs", "other").name == "other"


def test_a_gap_is_filled_and_a_file_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "cells").write_text("a file")
    (tmp_path / "cells-3").mkdir()
    assert [claim_run_folder(tmp_path, "cells").name for _ in range(2)] == ["cells-2", "cells-4"]


def test_a_root_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(ConfigError, match="default_root_dir"):
        claim_run_folder(tmp_path / "runs", "cells")
