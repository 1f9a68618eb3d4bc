"""Artifacts to predictions with numpy, Pillow and one inference engine; nothing here imports torch or onnx."""

from autotimm.runtime.artifact import is_artifact, load, read_manifest
from autotimm.runtime.drawing import color_of, draw_boxes, draw_caption
from autotimm.runtime.errors import (
    ArtifactError,
    AutoTimmError,
    BackendUnavailableError,
    CheckpointError,
    ConfigError,
    DataError,
    DataWarning,
    ExportError,
    ImageError,
    VerificationError,
)
from autotimm.runtime.images import decode_image, list_images, load_image
from autotimm.runtime.manifest import Manifest, TensorSpec, Verification
from autotimm.runtime.mask_regions import MaskRegion
from autotimm.runtime.predictor import Predictor
from autotimm.runtime.preprocess import Placement, Preprocess
from autotimm.runtime.resize import fit_image
from autotimm.runtime.results import Classification, Detections, Result
from autotimm.runtime.segmentation_results import Instances, SemanticMask

__all__ = [
    "ArtifactError",
    "AutoTimmError",
    "BackendUnavailableError",
    "CheckpointError",
    "Classification",
    "ConfigError",
    "DataError",
    "DataWarning",
    "Detections",
    "ExportError",
    "ImageError",
    "Instances",
    "Manifest",
    "MaskRegion",
    "Placement",
    "Predictor",
    "Preprocess",
    "Result",
    "SemanticMask",
    "TensorSpec",
    "Verification",
    "VerificationError",
    "color_of",
    "decode_image",
    "draw_boxes",
    "draw_caption",
    "fit_image",
    "is_artifact",
    "list_images",
    "load",
    "load_image",
    "read_manifest",
]
