"""Official YOLOX as plain torch modules."""

from autotimm.models.yolox.network import YOLOXNetwork
from autotimm.models.yolox.official import read_official
from autotimm.models.yolox.sizes import YOLOXSize, find_size, list_yolox_models

__all__ = ["YOLOXNetwork", "YOLOXSize", "find_size", "list_yolox_models", "read_official"]
