"""Any timm backbone as a pyramid: one map for each stride, channels first, whatever its family."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from autotimm.models.backbones import BackboneConfig, create_without_classifier
from autotimm.models.pyramid.plain_transformer import SimplePyramid
from autotimm.runtime.errors import ConfigError, one_line

_TRIAL_SIZE = (128, 192)
"""Of the input with which a new backbone is tried: not square, and of no backbone's own size."""
_ANY_SIZE: tuple[dict[str, Any], ...] = ({"dynamic_img_size": True}, {"strict_img_size": False}, {})
"""timm's arguments for inputs of any size: of plain transformers, of windowed ones; convolutions need none."""


Strides = Sequence[int] | Callable[[Sequence[int]], Sequence[int]]
"""Of the wanted maps, finest first; or what chooses them, given those of all maps of a network, in their order."""


class PyramidBackbone(nn.Module):
    """A timm network whose feature maps come out, one for each stride.

    Args:
        network: of timm, without its classifier; what lies above the last map is taken out.
        name: of the backbone, as the user gave it.
        strides: pixels between neighbouring cells of the wanted maps, finest first. A stride that is wanted twice is
            that of the last two maps which have it: of a dilated network.

    Raises:
        ConfigError: it has no such maps; the reason is named.
    """

    def __init__(self, network: nn.Module, name: str, strides: Strides) -> None:
        super().__init__()
        self.body = network
        self.fixed_size: tuple[int, int] | None = None
        """Height and width of the only input it takes; ``None`` where it takes any."""
        maps = _maps_of(network, name)
        found = [int(entry["reduction"]) for entry in maps]
        strides = strides(found) if callable(strides) else strides
        self.strides = tuple(strides)
        is_plain = len(set(found)) == 1
        if is_plain:
            chosen = [len(found) - 1]
        else:
            absent = [stride for stride in strides if found.count(stride) < self.strides.count(stride)]
            if absent:
                raise ConfigError(
                    f"backbone {name} cannot be a pyramid: it has feature maps at strides "
                    f"{', '.join(map(str, sorted(set(found))))}, and none at {', '.join(map(str, absent))}"
                )
            # of several maps at a stride, the last has seen most
            at = {stride: [index for index, one in enumerate(found) if one == stride] for stride in found}
            chosen = sorted(
                index for stride in at for index in at[stride][len(at[stride]) - self.strides.count(stride) :]
            )
        channels = tuple(int(maps[index]["num_chs"]) for index in chosen)
        # before the trial, in which patches of an unfit size would fail in a way that tells less
        self.spread = SimplePyramid(channels[0], found[-1], strides, name) if is_plain else None
        self.channels = channels if self.spread is None else self.spread.channels
        body: Any = network
        self.indices: list[int] = body.prune_intermediate_layers(chosen, prune_norm=True, prune_head=True)
        self._try_out(name, list(zip([found[index] for index in chosen], channels, strict=True)))

    def forward(self, x: Tensor) -> list[Tensor]:
        """The maps of normalised pixels.

        Args:
            x: float ``[N, 3, H, W]``, H and W multiples of the coarsest stride.

        Returns:
            For each stride ``[N, channels, H / stride, W / stride]``.
        """
        maps = self._maps(x)
        return maps if self.spread is None else self.spread(maps[-1])

    def _maps(self, x: Tensor) -> list[Tensor]:
        body: Any = self.body
        maps: list[Tensor] = body.forward_intermediates(
            x, indices=self.indices, output_fmt="NCHW", intermediates_only=True
        )
        return maps

    def _try_out(self, name: str, expected: list[tuple[int, int]]) -> None:
        """Look at the maps of a trial input, and find out whether its size is free.

        Args:
            name: of the backbone.
            expected: stride and channels of each map.
        """
        try:
            self._check_maps(name, _TRIAL_SIZE, expected)
        except ConfigError:
            raise
        except Exception as refusal:  # assertions of timm, errors of torch: whatever a network meets with that size
            body: Any = self.body
            height, width = (int(side) for side in body.pretrained_cfg["input_size"][1:])
            try:
                self._check_maps(name, (height, width), expected)
            except ConfigError:
                raise
            except Exception as error:
                raise ConfigError(
                    f"backbone {name} cannot be a pyramid: it gives no feature maps ({type(error).__name__}: "
                    f"{one_line(error)[:200]})"
                ) from refusal
            self.fixed_size = height, width

    @torch.no_grad()
    def _check_maps(self, name: str, size: tuple[int, int], expected: list[tuple[int, int]]) -> None:
        was_training = self.training
        self.eval()
        maps = self._maps(torch.zeros(1, 3, *size))
        self.train(was_training)
        for found, (stride, channels) in zip(maps, expected, strict=True):
            wanted = (1, channels, size[0] // stride, size[1] // stride)
            if tuple(found.shape) != wanted:
                raise ConfigError(
                    f"backbone {name} cannot be a pyramid: for an input of {size[0]}x{size[1]} its map at stride "
                    f"{stride} is {list(found.shape)}, but should be {list(wanted)} (its convolutions do not pad, or "
                    "its maps are not those that timm tells of)"
                )


def create_pyramid_backbone(
    config: BackboneConfig, strides: Strides, **kwargs: Any
) -> tuple[PyramidBackbone, BackboneConfig]:
    """A timm backbone as a pyramid.

    Args:
        config: which, with which weights. A network of one input size gets another by ``img_size`` in ``extra_kwargs``.
        strides: of the wanted maps, finest first.
        **kwargs: further arguments of timm, which are not recorded.

    Returns:
        The backbone, and how it is created (as checkpoints record it).

    Raises:
        ConfigError: no such backbone, or it cannot be a pyramid; the reason is named.
        CheckpointError: its weights cannot be had.
    """
    for options in _ANY_SIZE:
        try:
            network, resolved = create_without_classifier(config, **{**options, **_own(config, options), **kwargs})
        except ConfigError as error:
            if isinstance(error.__cause__, TypeError) and any(name in str(error.__cause__) for name in options):
                continue
            raise
        return PyramidBackbone(network, config.model_name, strides), resolved
    raise AssertionError("the last choice has no options to be refused")


def check_fixed_size(backbone: PyramidBackbone, name: str, size: tuple[int, int]) -> None:
    """Refuse another size of the network input than that of a backbone of one size.

    Raises:
        ConfigError: saying how it is created for that size.
    """
    fixed = backbone.fixed_size
    if fixed is not None and size != fixed:
        raise ConfigError(
            f"the size is {size[0]}x{size[1]}, but backbone {name} was created for {fixed[0]}x{fixed[1]} and takes no "
            f"other; create it for that size: BackboneConfig({name!r}, extra_kwargs={{'img_size': {size}}})"
        )


def _own(config: BackboneConfig, options: dict[str, Any]) -> dict[str, Any]:
    """Those of the options that the user has set."""
    return {name: config.extra_kwargs[name] for name in options if name in config.extra_kwargs}


def _maps_of(network: Any, name: str) -> list[dict[str, Any]]:
    """What timm tells of the feature maps of a network."""
    told = getattr(network, "feature_info", None)
    if not told or not hasattr(network, "forward_intermediates"):
        raise ConfigError(f"backbone {name} cannot be a pyramid: timm gets no feature maps out of it")
    return list(told)
