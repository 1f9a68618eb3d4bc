"""The building half of TensorRT: its names differ by version as those of the real packages do, plans are JSON.

That the names are the real ones is tested against ``tests/runtime/backends/tensorrt_names.json``.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import onnx

FLAGS = {
    (8, 6): ["FP16", "INT8", "OBEY_PRECISION_CONSTRAINTS"],
    (10, 0): ["FP16", "INT8", "OBEY_PRECISION_CONSTRAINTS"],
    (11, 0): [],
}
EVERYWHERE = ["GPU_FALLBACK", "TF32", "VERSION_COMPATIBLE"]


@dataclass
class Build:
    """What a builder was told, and how it behaves."""

    dla_cores: int = 0
    device: bool = True
    refuses: dict[str, str] = field(default_factory=dict)
    """Operators that the parser cannot read, and what it says."""
    fails: str = ""
    """An error that is logged in place of a plan."""
    says: list[str] = field(default_factory=list)
    """Warnings."""
    works: Callable[[], None] = lambda: None
    """Called within the build."""
    loses_precision: bool = False
    inspects: bool = True
    flags: set[str] = field(default_factory=set)
    cleared: set[str] = field(default_factory=set)
    network_flags: int = 0
    profile: dict[str, Any] = field(default_factory=dict)
    pinned: set[str] = field(default_factory=set)
    """Layers that are held to fp32."""
    settings: dict[str, Any] = field(default_factory=dict)
    steps: int = 0
    caches_fit: bool = True


def release_of(version: str) -> tuple[int, int]:
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


def tensorrt_that_builds(version: str = "10.3.0", build: Build | None = None, name: str = "tensorrt") -> Any:
    """A module of this name; ``module.build`` is the state."""
    state = build or Build()
    rtx = name == "tensorrt_rtx"
    release = (11, 4) if rtx else release_of(version)
    trt: Any = ModuleType(name)
    trt.__version__, trt.build = version, state

    class ILogger:
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    DataType = enum.Enum("DataType", ["FLOAT", "HALF", "INT8", "INT32", "UINT8", "BOOL"])  # noqa: N806
    DeviceType = enum.Enum("DeviceType", ["GPU", "DLA"])  # noqa: N806
    of_release = FLAGS[max((known for known in FLAGS if known <= release), default=(8, 6))]
    trt.BuilderFlag = enum.Enum("BuilderFlag", [*EVERYWHERE, *of_release])
    network_flags = ["EXPLICIT_BATCH"] if release < (10, 0) else ["EXPLICIT_BATCH", "STRONGLY_TYPED"]
    if release >= (11, 0):
        network_flags = ["STRONGLY_TYPED"]
    trt.NetworkDefinitionCreationFlag = enum.IntEnum("NetworkDefinitionCreationFlag", network_flags, start=0)
    levels = ["NONE", "AMPERE_PLUS", *(["SAME_COMPUTE_CAPABILITY"] if release >= (10, 9) else [])]
    trt.HardwareCompatibilityLevel = enum.Enum("HardwareCompatibilityLevel", levels)
    trt.ProfilingVerbosity = enum.Enum("ProfilingVerbosity", ["LAYER_NAMES_ONLY", "DETAILED", "NONE"])
    trt.MemoryPoolType = enum.Enum("MemoryPoolType", ["WORKSPACE"])
    trt.OnnxParserFlag = enum.Enum("OnnxParserFlag", ["NATIVE_INSTANCENORM"])
    trt.LayerInformationFormat = enum.Enum("LayerInformationFormat", ["ONELINE", "JSON"])
    trt.ILogger, trt.DataType, trt.DeviceType = ILogger, DataType, DeviceType
    trt.init_libnvinfer_plugins = lambda logger, namespace: True
    if release >= (10, 0):
        trt.IProgressMonitor = type("IProgressMonitor", (), {})

    class Network:
        def __init__(self) -> None:
            self.inputs: list[Any] = []
            self.layers: list[Any] = []

        num_inputs = property(lambda self: len(self.inputs))
        num_layers = property(lambda self: len(self.layers))

        def get_input(self, index: int) -> Any:
            return self.inputs[index]

        def get_layer(self, index: int) -> Any:
            return self.layers[index]

    class Layer:
        def __init__(self, name: str, dtype: Any) -> None:
            self.name, self.num_outputs = name, 1
            self._dtype = dtype

        def get_output(self, index: int) -> Any:
            return SimpleNamespace(dtype=self._dtype)

        def __setattr__(self, name: str, value: Any) -> None:
            if name == "precision":
                assert release < (11, 0)
                state.pinned.add(self.name)
            object.__setattr__(self, name, value)

        def set_output_type(self, index: int, dtype: Any) -> None:
            assert release < (11, 0)

    class OnnxParser:
        def __init__(self, network: Network, logger: Any) -> None:
            self._network, self._logger, self._errors = network, logger, list[Any]()

        num_errors = property(lambda self: len(self._errors))

        def set_flag(self, flag: Any) -> None:
            state.settings[flag.name] = True

        def get_used_vc_plugin_libraries(self) -> list[str]:
            return []

        def get_error(self, index: int) -> Any:
            return self._errors[index]

        def parse_from_file(self, path: str) -> bool:
            model = onnx.load(path)
            for value in model.graph.input:
                shape = [side.dim_value or -1 for side in value.type.tensor_type.shape.dim]
                self._network.inputs.append(SimpleNamespace(name=value.name, shape=shape))
            for index, node in enumerate(model.graph.node):
                if node.op_type in state.refuses:
                    self._errors.append(_error(node, index, state.refuses[node.op_type], release))
                    self._logger.log(ILogger.ERROR, f"While parsing node number {index} [{node.op_type}]:")
                    self._logger.log(ILogger.ERROR, f'--- Begin node ---\nname: "{node.name}"\nop_type: ...')
                    return False
                half = node.name.startswith("network") and state.settings.get("half")
                self._network.layers.append(Layer(node.name, DataType.HALF if half else DataType.FLOAT))
            return True

    class Config:
        def __init__(self) -> None:
            self.progress_monitor: Any = None

        def __setattr__(self, name: str, value: Any) -> None:
            if name == "progress_monitor":
                assert release >= (10, 0) or value is None
            else:
                state.settings[name] = getattr(value, "name", value)
            object.__setattr__(self, name, value)

        def set_flag(self, flag: Any) -> None:
            state.flags.add(flag.name)

        def clear_flag(self, flag: Any) -> None:
            state.cleared.add(flag.name)

        def set_memory_pool_limit(self, pool: Any, size: int) -> None:
            state.settings[pool.name] = size

        def add_optimization_profile(self, profile: Any) -> int:
            return 0

        def create_timing_cache(self, content: bytes) -> Any:
            state.settings["cache"] = bytes(content)
            return SimpleNamespace(serialize=lambda: b"what was measured")

        def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
            assert not ignore_mismatch
            self._cache = cache
            return state.caches_fit

        def get_timing_cache(self) -> Any:
            return self._cache

    class Builder:
        def __init__(self, logger: Any) -> None:
            assert isinstance(logger, ILogger)
            self._logger = logger
            if not state.device and not rtx:
                logger.log(ILogger.ERROR, "CUDA initialization failure with error: 35")
                raise TypeError("pybind11::init(): factory function returned nullptr")

        num_DLA_cores = property(lambda self: state.dla_cores)  # noqa: N815

        def create_network(self, flags: int) -> Network:
            state.network_flags = flags
            return Network()

        def create_builder_config(self) -> Config:
            return Config()

        def create_optimization_profile(self) -> Any:
            return SimpleNamespace(set_shape=lambda name, *shapes: state.profile.update({name: shapes}))

        def build_serialized_network(self, network: Network, config: Config) -> bytes | None:
            monitor = config.progress_monitor
            if monitor is not None:
                monitor.phase_start("Building engine", None, 2)
                monitor.phase_start("Timing graph nodes", "Building engine", 4)
            for step in range(4):
                state.works()
                state.steps = step + 1
                if monitor is not None and not monitor.step_complete("Timing graph nodes", step):
                    return None
            for warning in state.says:
                self._logger.log(ILogger.WARNING, warning)
            if state.fails:
                self._logger.log(ILogger.ERROR, state.fails)
                return None
            if monitor is not None:
                monitor.phase_finish("Timing graph nodes")
                monitor.step_complete("Building engine", 1)
                monitor.phase_finish("Building engine")
            types = ["Row major linear FP32" if state.loses_precision else _type_of(layer) for layer in network.layers]
            return json.dumps([{"Outputs": [{"Format/Datatype": kind}]} for kind in types]).encode()

    class Runtime:
        def __init__(self, logger: Any) -> None:
            pass

        def deserialize_cuda_engine(self, plan: bytes) -> Any:
            if not state.inspects:
                return None
            information = json.dumps({"Layers": json.loads(plan)})
            return SimpleNamespace(
                create_engine_inspector=lambda: SimpleNamespace(get_engine_information=lambda kind: information)
            )

    def _type_of(layer: Layer) -> str:
        return "Half" if layer.get_output(0).dtype is DataType.HALF else "Row major linear FP32"

    trt.OnnxParser, trt.Builder, trt.Runtime, trt.IBuilderConfig = OnnxParser, Builder, Runtime, Config
    return trt


def _error(node: Any, index: int, reason: str, release: tuple[int, int]) -> Any:
    error: dict[str, Any] = {"desc": lambda: reason, "node": lambda: index}
    if release >= (10, 0):
        error |= {"node_name": lambda: node.name, "node_operator": lambda: node.op_type}
    return SimpleNamespace(**error)


def written(folder: Path) -> set[str]:
    """Names of the files in a folder."""
    return {path.name for path in folder.iterdir()}
