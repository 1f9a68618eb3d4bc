"""The manifest: what an artifact says about itself, as JSON that travels with it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from autotimm.runtime.errors import ArtifactError, ConfigError
from autotimm.runtime.preprocess import Preprocess
from autotimm.runtime.sidecar import EngineRecord

SCHEMA = "autotimm.manifest/1"
METADATA_KEY = "autotimm"
"""Key of the manifest in an ONNX file's ``metadata_props``."""

Task = Literal["classification", "detection", "semantic_segmentation", "instance_segmentation"]
Precision = Literal["fp32", "fp16", "int8"]
"""Of the network; pixels come as uint8, and everything before and after the network is fp32 in each of them."""
InputMode = Literal["batch", "image"]
"""``batch``: ``images`` uint8 ``[N, H, W, 3]`` at the network's size. ``image``: ``image`` uint8 ``[H, W, 3]``, any."""
Target = Literal["onnxruntime", "portable"]
"""The engines that a graph is written for: what is fastest on ONNX Runtime, or what every engine runs."""


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of an artifact. A dimension is a number, or a name where it is free."""

    name: str
    dtype: str
    """numpy's name: ``uint8``, ``float32``, ``int32``."""
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.dtype}[{', '.join(str(side) for side in self.shape)}]"


@dataclass(frozen=True)
class Verification:
    """The record of comparing an artifact with the PyTorch model it was made from."""

    status: Literal["passed", "failed", "not run"] = "not run"
    reason: str = "the artifact was written without verification"
    """One sentence: why it failed or was not run; what was seen where it passed."""
    images: int = 0
    image_source: str = ""
    """Where the images came from: a folder, the checkpoint's validation images, or generated pictures."""
    reference: str = ""
    """What it was compared with: the model class, the engine and its version."""
    compared: dict[str, int] = field(default_factory=dict)
    """How many results of each kind were compared."""
    worst: dict[str, float] = field(default_factory=dict)
    """The largest difference seen, by name; box differences in network-input pixels."""
    tolerance: dict[str, float] = field(default_factory=dict)
    """The largest difference allowed, under the same names."""


@dataclass(frozen=True)
class Quantization:
    """How an int8 network came about."""

    flavour: str
    """What is held in eight bits, and how."""
    method: str
    """By which the ranges were chosen: ``percentile``, ``entropy`` or ``minmax``."""
    images: int
    """On how many."""
    image_source: str
    seed: int
    """Of the choice of the images."""
    images_sha256: str
    """Over the names and contents of the image files."""
    layers: int
    """So many could be quantised."""
    kept: tuple[str, ...] = ()
    """Those that stay in fp32: what gives the answers, and what would have changed them most."""
    relative_error: float = 0.0
    """Of the network's answers: root mean square over their standard deviation, on a few of the images."""
    relative_error_of_all: float = 0.0
    """The same with nothing kept but what gives the answers."""


@dataclass(frozen=True)
class Accuracy:
    """What a lower precision costs on annotated data."""

    figure: str
    """The task's main figure, 0..1: ``map``, ``accuracy``, ``miou``, ``mask_map``."""
    data: str
    split: str
    images: int
    reference: float
    """Of the PyTorch model, in fp32."""
    value: float
    """Of the artifact."""
    max_drop: float | None = None
    """What it was allowed to lose."""

    @property
    def drop(self) -> float:
        """How much lower the artifact's is."""
        return self.reference - self.value

    @property
    def too_low(self) -> bool:
        """Whether it lost more than it was allowed to; a figure that is not a number lost everything."""
        return self.max_drop is not None and not self.drop <= self.max_drop

    def __str__(self) -> str:
        points = f"{100 * abs(self.drop):.2f} points {'lower' if self.drop >= 0 else 'higher'}"
        return f"{self.figure} {self.value:.4f}, in fp32 {self.reference:.4f}: {points}, on {self.images} images"


@dataclass(frozen=True)
class Manifest:
    """Everything that a consumer needs to know to run one artifact and to trust it."""

    task: Task
    architecture: str
    """The network, as a person names it: ``yolox-nano``, ``resnet50``."""
    class_names: tuple[str, ...]
    preprocess: Preprocess
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    input_mode: InputMode = "batch"
    format: str = "onnx"
    precision: Precision = "fp32"
    opset: int | None = None
    target: str = "onnxruntime"
    """Which engines the graph was written for: ``portable`` (standard tensor operators only) or ``onnxruntime``."""
    thresholds: dict[str, float] = field(default_factory=dict)
    """Numbers baked into the graph's post-processing (score, iou, max_detections, candidates, ...)."""
    postprocessing: dict[str, str | bool] = field(default_factory=dict)
    """How the graph post-processes: activation, NMS form, class-agnostic or not, one or several labels a box."""
    quantization: Quantization | None = None
    """Of int8: how it came about."""
    accuracy: Accuracy | None = None
    """What the precision costs, where it was measured."""
    palette: tuple[tuple[int, int, int], ...] | None = None
    """Semantic segmentation: RGB 0..255 of each class, for drawings and mask files."""
    model_class: str = ""
    """The AutoTimm class that was exported."""
    hashes: dict[str, str] = field(default_factory=dict)
    """SHA-256 of the checkpoint file and of the graph."""
    versions: dict[str, str] = field(default_factory=dict)
    """Versions of AutoTimm and of the packages that wrote the artifact."""
    created: str = ""
    """UTC, ISO 8601."""
    verification: Verification = Verification()
    engine: EngineRecord | None = None
    """Engines only: where and how it was built."""
    schema: str = SCHEMA

    def to_json(self) -> str:
        """Serialise; the inverse of :meth:`from_json`."""
        data = asdict(self)
        data["preprocess"] = self.preprocess.to_dict()
        if self.engine is None:
            del data["engine"]
        return json.dumps(data, indent=1, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, where: str) -> Manifest:
        """Parse a manifest.

        Args:
            text: the JSON text.
            where: the artifact it came from, for messages.

        Raises:
            ArtifactError: not JSON, not a manifest, or of a schema or task that this version does not know.
        """
        try:
            data = json.loads(text)
            schema = data["schema"]
        except (ValueError, KeyError, TypeError) as error:
            raise ArtifactError(f"{where}: the manifest is not readable ({error!r}); export the model again") from error
        _check_schema(str(schema), where)
        if data.get("task", "") not in ("", *get_args(Task)):
            raise ArtifactError(
                f"{where}: its task is {data['task']!r}, which this version does not know: "
                "pip install --upgrade autotimm-deploy"
            )
        try:
            return cls._from_dict(data)
        except (KeyError, TypeError, ValueError, AttributeError, ConfigError) as error:
            raise ArtifactError(f"{where}: the manifest is damaged ({error}); export the model again") from error

    @classmethod
    def of_artifact(cls, text: str | None, artifact: Path) -> Manifest:
        """Parse the manifest that was found in an artifact.

        Args:
            text: the JSON text; ``None`` where there was none.
            artifact: the file.

        Raises:
            ArtifactError: as :meth:`from_json` does, or there was none.
        """
        if text is None:
            raise ArtifactError(
                f"{artifact}: has no AutoTimm manifest, so it was not exported by AutoTimm; make an artifact with: "
                f"autotimm export CHECKPOINT --format {'torchscript' if artifact.suffix == '.pt' else 'onnx'}"
            )
        return cls.from_json(text, str(artifact))

    @classmethod
    def _from_dict(cls, data: Mapping[str, Any]) -> Manifest:
        known = {name: data[name] for name in cls.__dataclass_fields__ if name in data}
        known["class_names"] = tuple(data["class_names"])
        known["preprocess"] = Preprocess.from_dict(data["preprocess"])
        for side in ("inputs", "outputs"):
            known[side] = tuple(TensorSpec(spec["name"], spec["dtype"], tuple(spec["shape"])) for spec in data[side])
        if data.get("palette") is not None:
            known["palette"] = tuple((int(red), int(green), int(blue)) for red, green, blue in data["palette"])
            if len(known["palette"]) != len(known["class_names"]):
                raise ValueError(f"{len(known['palette'])} colours for {len(known['class_names'])} classes")
        if data.get("engine") is not None:
            known["engine"] = EngineRecord.from_dict(data["engine"])
        if data.get("quantization") is not None:
            fields = _known_fields(Quantization, data["quantization"])
            known["quantization"] = Quantization(**{**fields, "kept": tuple(fields.get("kept", ()))})
        if data.get("accuracy") is not None:
            known["accuracy"] = Accuracy(**_known_fields(Accuracy, data["accuracy"]))
        record = data.get("verification", {})
        known["verification"] = Verification(
            **{name: record[name] for name in Verification.__dataclass_fields__ if name in record}
        )
        return cls(**known)


def _known_fields(kind: type[Quantization] | type[Accuracy], data: Mapping[str, Any]) -> dict[str, Any]:
    """Those that this version knows."""
    return {name: data[name] for name in kind.__dataclass_fields__ if name in data}


def _check_schema(schema: str, where: str) -> None:
    name, _, version = schema.partition("/")
    ours, _, our_version = SCHEMA.partition("/")
    if name != ours or not version.isdigit():
        raise ArtifactError(f"{where}: the manifest says it is {schema!r}, which is not an AutoTimm manifest")
    if int(version) > int(our_version):
        raise ArtifactError(
            f"{where}: the manifest is {schema}, but this AutoTimm reads up to {SCHEMA}: "
            "pip install --upgrade autotimm-deploy, or export again with this version"
        )
