"""Which columns of a CSV file say what, as the arguments of the data modules name them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from autotimm.data.box_csv import BoxColumns
from autotimm.data.tables import IMAGE_COLUMN, LABEL_COLUMN, SEPARATOR
from autotimm.runtime.errors import ConfigError

_EDGES = ("xmin", "ymin", "xmax", "ymax")
ROLES = ("image", "label", *_EDGES)
"""What a column can be."""


@dataclass(frozen=True)
class TableColumns:
    """The columns of a CSV file, of labels or boxes."""

    given: Mapping[str, str]
    """By their role: those with other names than usual."""
    label_separator: str = SEPARATOR
    """Between the names in a cell, for several labels an image."""

    def __post_init__(self) -> None:
        for role in self.given:
            if role not in ROLES:
                raise ConfigError.unknown("column of CSV files (columns)", role, ROLES)

    @property
    def image(self) -> str:
        """Of the paths."""
        return self.given.get("image", IMAGE_COLUMN)

    @property
    def label(self) -> str:
        """Of class names."""
        return self.given.get("label", LABEL_COLUMN)

    @property
    def boxes(self) -> BoxColumns:
        """All that a table of boxes needs."""
        return BoxColumns(self.image, [self.given.get(edge, edge) for edge in _EDGES], self.label)

    def check_used(self, source: Path) -> None:
        """Refuse names of columns where there are none.

        Raises:
            ConfigError: names were given, and the data are in no CSV file.
        """
        if self.given and source.suffix.lower() not in (".csv", ".tsv"):
            raise ConfigError(
                f"columns names columns of a CSV file ({', '.join(self.given)}), but the data is {source}"
            )
