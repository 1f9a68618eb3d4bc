"""The command line in this process, as a shell sees it."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from autotimm.cli import main
from autotimm.runtime.pictures import generate


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    status: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The one line of a command that failed and said nothing else."""
        assert self.status == 1
        (line,) = self.err.splitlines()
        assert line.startswith("error: ")
        return line


Run = Callable[..., Outcome]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run ``autotimm`` with these arguments."""

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["autotimm", *map(str, arguments)])
        monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # which the command line replaces
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main()
        captured = capsys.readouterr()
        code = exit_.value.code
        assert code is None or isinstance(code, int)
        return Outcome(code or 0, captured.out, captured.err)

    return run


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two folders with a good picture of one name, and one folder of bad files."""
    folder = tmp_path / "photos"
    for seed, name in enumerate(("one", "two")):
        (folder / name).mkdir(parents=True)
        Image.fromarray(generate(60 + 20 * seed, 100, seed)).save(folder / name / "photo.jpg")
    bad = folder / "bad"
    bad.mkdir()
    data = (folder / "one" / "photo.jpg").read_bytes()
    (bad / "cut.jpg").write_bytes(data[: len(data) // 2])
    (bad / "empty.png").touch()
    (bad / "text.jpg").write_text("not a picture")
    return folder
