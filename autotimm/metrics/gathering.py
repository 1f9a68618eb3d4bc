"""Rows that each process collects, and those of all processes together."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class GatheredRows(Metric):
    """Tables of rows under names, gathered by torchmetrics' own synchronisation.

    It takes whatever each process has, nothing included, and keeps the order of the processes: with contiguous shards
    that is the order of the data.

    Args:
        **templates: for each table a tensor of no rows, ``[0, ...]``, with the shape and dtype that its rows have.
    """

    full_state_update = False

    def __init__(self, **templates: Tensor) -> None:
        super().__init__(compute_with_cache=False)
        self._templates = templates
        for name in templates:
            self.add_state(name, default=[], dist_reduce_fx="cat")
        self.reset()

    def reset(self) -> None:
        """Forget all rows."""
        super().reset()
        self.update(**self._templates)  # so that a process that sees nothing has tables of the right shape to send

    def update(self, **rows: Tensor) -> None:
        """Add some rows to each table."""
        for name, value in rows.items():
            getattr(self, name).append(value.to(self.device))

    def compute(self) -> dict[str, Tensor]:
        """The tables as one vector each: torchmetrics takes a table of one number for a scalar."""
        return {name: dim_zero_cat(getattr(self, name)).reshape(-1) for name in self._templates}

    def gather(self) -> dict[str, Tensor]:
        """The rows of all processes, on the host. Where there are several, all of them must call this."""
        vectors = self.compute()
        return {
            name: vectors[name].reshape(-1, *template.shape[1:]).cpu() for name, template in self._templates.items()
        }


class GatheredSum(Metric):
    """Counts that each process adds up, and those of all processes together.

    Args:
        shape: of the counts.
    """

    full_state_update = False
    total: Tensor

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__(compute_with_cache=False)
        self._nothing = torch.zeros(shape, dtype=torch.int64)
        self.add_state("total", default=self._nothing, dist_reduce_fx="sum")
        self.reset()

    def reset(self) -> None:
        """Forget all counts."""
        super().reset()
        self.update(self._nothing)  # so that a process that sees nothing has counts to send

    def update(self, counts: Tensor) -> None:
        """Add some."""
        self.total += counts.to(self.total.device)

    def compute(self) -> Tensor:
        """The sum."""
        return self.total

    def gather(self) -> Tensor:
        """The sum over all processes, on the host. Where there are several, all of them must call this."""
        return self.compute().cpu()


def several_processes() -> bool:
    """Whether this is one process of several that train or evaluate together."""
    distributed = torch.distributed
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
