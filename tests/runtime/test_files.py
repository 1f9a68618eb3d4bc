import errno
from pathlib import Path

import pytest

from autotimm.runtime.errors import AutoTimmError
from autotimm.runtime.files import replacing


def test_the_name_appears_when_all_is_written(tmp_path: Path) -> None:
    target = tmp_path / "new" / "deep" / "file.txt"
    with replacing(target) as temporary:
        temporary.write_text("half")
        assert not target.exists()
        temporary.write_text("whole")
    assert target.read_text() == "whole"
    assert [entry.name for entry in target.parent.iterdir()] == ["file.txt"]


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "file.txt"
    target.write_text("old")
    with pytest.raises(TypeError), replacing(target) as temporary:
        temporary.write_text(2)
    assert target.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.txt"]


def test_a_failure_takes_the_folders_it_made_along(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "new" / "deep" / "file.txt"):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_the_outputs_failure(tmp_path: Path) -> None:
    said = r"file\.txt: could not be written: No space left"
    with pytest.raises(AutoTimmError, match=said), replacing(tmp_path / "file.txt"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_another_files_failure_passes_through(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent"), replacing(tmp_path / "file.txt"):
        (tmp_path / "absent").read_text()
    assert list(tmp_path.iterdir()) == []


def test_paths_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path, message in ((tmp_path, "is a folder"), (tmp_path / "file" / "below", "is not a folder")):
        with pytest.raises(AutoTimmError, match=message), replacing(path):
            pytest.fail("the work must not begin")


def test_a_read_only_file_system_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which refuses to delete what was never made as well."""

    def refuse(path: Path, **_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "touch", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    refused = pytest.raises(AutoTimmError, match=r"file\.txt: could not be written: Read-only file system")
    with refused, replacing(tmp_path / "file.txt"):
        pass
