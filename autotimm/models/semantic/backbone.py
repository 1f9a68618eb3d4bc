"""A timm backbone for segmentation: dilated where it can be, with the fine map that a decoder needs."""

from __future__ import annotations

from collections.abc import Sequence

from autotimm.models.backbones import BackboneConfig
from autotimm.models.pyramid.backbone import PyramidBackbone, create_pyramid_backbone
from autotimm.runtime.errors import CheckpointError, ConfigError, one_line

LOW_LEVEL_STRIDE = 4
"""Of the map that the decoder of DeepLabV3+ refines its edges with (arXiv:1802.02611, section 3)."""
USUAL_OUTPUT_STRIDE = 16
"""Of that paper: stride 8 is a little better, and several times as slow."""
OUTPUT_STRIDES = (8, 16, 32)


def create_semantic_backbone(
    config: BackboneConfig, output_stride: int | None
) -> tuple[PyramidBackbone, BackboneConfig]:
    """A backbone of three maps: at stride 4, the last but one, and the last, at the output stride.

    In a dilated network the last two have the same stride. A plain transformer has one map, which the last two are
    made of.

    Args:
        config: which, with which weights.
        output_stride: 8, 16 or 32. Where absent it is 16 by dilation, or the network's own where timm cannot dilate it.

    Returns:
        The backbone, and how it is created (without the stride, as checkpoints record it).

    Raises:
        ConfigError: no such backbone, it has no such maps, or cannot have the stride; the reason is named.
        CheckpointError: its weights cannot be had.
    """
    if output_stride is not None and output_stride not in OUTPUT_STRIDES:
        raise ConfigError(f"output_stride is {output_stride}, but must be 8, 16 or 32")
    if "output_stride" in config.extra_kwargs:
        raise ConfigError("give output_stride to the segmentor, not in the extra_kwargs of its backbone")
    wanted = USUAL_OUTPUT_STRIDE if output_stride is None else output_stride
    refusal = "timm does not dilate it"
    if wanted < OUTPUT_STRIDES[-1]:
        try:
            backbone, resolved = create_pyramid_backbone(config, _maps, output_stride=wanted)
        except (ConfigError, CheckpointError) as error:
            if not _is_about_stride(error):
                raise
            refusal = f"timm does not dilate it ({one_line(error.__cause__ or error)[:120]})"
        else:
            if backbone.strides[-1] == wanted:  # some networks take the argument and do nothing with it
                return backbone, resolved
    backbone, resolved = create_pyramid_backbone(config, _maps)
    own = backbone.strides[-1]
    if output_stride not in (None, own):
        raise ConfigError(
            f"backbone {config.model_name} has no output_stride of {output_stride}: {refusal}; its own is {own}: leave "
            "output_stride out"
        )
    return backbone, resolved


def _maps(found: Sequence[int]) -> tuple[int, ...]:
    """Strides of the wanted maps, from those of all maps of a network."""
    coarsest = max(found)
    before = found[-2] if len(set(found)) > 1 and len(found) > 2 else coarsest
    return LOW_LEVEL_STRIDE, max(before, LOW_LEVEL_STRIDE), coarsest


def _is_about_stride(error: Exception) -> bool:
    """Whether a network could not be created for its stride: it does not know the word, or not the number."""
    cause = error.__cause__
    if isinstance(cause, TypeError):
        return "output_stride" in str(cause)
    return isinstance(cause, AssertionError | NotImplementedError | ValueError)
