"""From an ONNX file to a plan: one way for TensorRT 8.6, 10 and 11 and for TensorRT-RTX."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from autotimm.export.stages import stage_of
from autotimm.export.tensorrt_flavour import Library
from autotimm.export.tensorrt_inspection import Precisions, precisions_of
from autotimm.export.tensorrt_log import Problem, build_problems, parser_problems, remarks
from autotimm.export.tensorrt_options import EngineOptions, profile_of
from autotimm.export.tensorrt_progress import BuildProgress, ReportProgress, monitor_of
from autotimm.runtime.backends.tensorrt_library import logger_of, on_jetson
from autotimm.runtime.errors import BackendUnavailableError, ConfigError, ExportError, one_line
from autotimm.runtime.files import replacing
from autotimm.runtime.manifest import Manifest
from autotimm.runtime.sidecar import ProfileRange

_ONE_AT_A_TIME = threading.Lock()
"""A process has one logger of TensorRT, so a second build would read the first one's lines."""
_SECONDS_TO_STOP = 60.0
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Built:
    """A plan and what is known of it."""

    plan: Any
    """Supports the buffer protocol."""
    profile: dict[str, ProfileRange]
    precisions: Precisions
    remarks: tuple[str, ...]
    seconds: float


def build_plan(
    library: Library, onnx_path: Path, manifest: Manifest, options: EngineOptions, report: ReportProgress | None = None
) -> Built:
    """Parse an ONNX file and build it.

    Args:
        library: the TensorRT to use.
        onnx_path: a portable artifact.
        manifest: of that artifact.
        options: checked against the library.
        report: told how far the build is.

    Raises:
        ExportError: a node that this version cannot read or build, with its stage and the way out.
        ConfigError: options that do not fit the artifact, or a timing cache of another version.
        BackendUnavailableError: this TensorRT needs a CUDA device and there is none.
        KeyboardInterrupt: once the builder has stopped.
    """
    with _ONE_AT_A_TIME:
        return _build(library, onnx_path, manifest, options, BuildProgress(report))


def _build(
    library: Library, onnx_path: Path, manifest: Manifest, options: EngineOptions, progress: BuildProgress
) -> Built:
    trt = library.module
    logger = logger_of(trt)
    logger.problems.clear()
    logger.warnings.clear()
    builder = _builder(library, logger)
    types_from_graph = library.strongly_typed and not (options.dla_core is not None and _has_flag(trt, "FP16"))
    network = builder.create_network(_network_flags(trt, types_from_graph))
    parser = _parse(library, logger, network, onnx_path, options)
    config = builder.create_builder_config()
    profile = _add_profile(builder, config, network, manifest, options)
    if not types_from_graph:
        _set_precision_flags(trt, config, network, manifest, options.dla_core is not None)
    _configure(library, builder, config, options)
    if options.version_compatible:
        plugins = parser.get_used_vc_plugin_libraries()
        if plugins:
            config.plugins_to_serialize = plugins
    monitor = monitor_of(trt, progress)
    if monitor is not None:
        config.progress_monitor = monitor
    with _timing_cache(library, config, options.timing_cache):
        started = time.perf_counter()
        plan = _interruptible(lambda: builder.build_serialized_network(network, config), progress)
        seconds = time.perf_counter() - started
        if plan is None:
            raise ExportError(_failure(library, onnx_path, manifest, build_problems(list(logger.problems))))
    said = remarks(logger.warnings)
    precisions = precisions_of(trt, logger, plan, network)
    precisions.check(manifest.precision, library.name, onnx_path)
    return Built(plan, profile, precisions, said, seconds)


def _builder(library: Library, logger: Any) -> Any:
    """A builder; all but TensorRT-RTX need a CUDA device for it."""
    trt = library.module
    try:
        if not library.is_rtx:
            trt.init_libnvinfer_plugins(logger, "")
        builder = trt.Builder(logger)
    except Exception as error:  # pybind's TypeError: factory function returned nullptr
        said = "; ".join(dict.fromkeys(logger.problems)) or one_line(error)
        raise BackendUnavailableError(
            f"{library.name} could not start its builder, which needs a working CUDA device ({said[:240]}). Build on "
            "the device that the engine is for; TensorRT-RTX (--flavour tensorrt_rtx) builds without a device"
        ) from error
    return builder


def _network_flags(trt: Any, types_from_graph: bool) -> int:
    """Explicit batch is the only kind from 10 on, where the flag does nothing, and gone in 11."""
    flags = trt.NetworkDefinitionCreationFlag
    chosen = 0
    if types_from_graph:
        chosen |= 1 << int(flags.STRONGLY_TYPED)
    elif hasattr(flags, "EXPLICIT_BATCH"):
        chosen |= 1 << int(flags.EXPLICIT_BATCH)
    return chosen


def _parse(library: Library, logger: Any, network: Any, onnx_path: Path, options: EngineOptions) -> Any:
    trt = library.module
    parser = trt.OnnxParser(network, logger)
    if options.version_compatible and not library.strongly_typed:
        parser.set_flag(trt.OnnxParserFlag.NATIVE_INSTANCENORM)  # 8.6 wants it; set by itself from 10 on
    if not parser.parse_from_file(str(onnx_path)):
        problems = parser_problems(parser, list(logger.problems))
        advice = "make the artifact again with autotimm export --target portable, and report it if that does not help"
        words = "; ".join(problem.in_words(advice) for problem in problems[:3])
        raise ExportError(f"{onnx_path}: {library.name} cannot read {words or f'the file; {advice}'}")
    return parser


def _add_profile(
    builder: Any, config: Any, network: Any, manifest: Manifest, options: EngineOptions
) -> dict[str, ProfileRange]:
    profile = builder.create_optimization_profile()
    shapes = {}
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shape = tuple(int(side) for side in tensor.shape)
        found = profile_of(options, tensor.name, shape, manifest.input_mode)
        if found is not None:
            profile.set_shape(tensor.name, found.minimum, found.best, found.maximum)
            shapes[tensor.name] = found
    if shapes:
        config.add_optimization_profile(profile)
    return shapes


def _configure(library: Library, builder: Any, config: Any, options: EngineOptions) -> None:
    trt = library.module
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # names and types of layers can be read later
    config.clear_flag(trt.BuilderFlag.TF32)  # on by itself from Ampere on; fp32 is to be fp32, as it is verified
    if options.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace << 20)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.hardware_compatibility != "none":
        if on_jetson():
            raise ConfigError("a Jetson has no hardware compatibility: build on each kind of device, and leave it out")
        config.hardware_compatibility_level = library.hardware_levels()[options.hardware_compatibility]
    if options.dla_core is not None:
        cores = int(builder.num_DLA_cores)
        if not 0 <= options.dla_core < cores:
            there = f"has DLA cores 0 to {cores - 1}" if cores else "has no DLA"
            raise ConfigError(f"dla_core is {options.dla_core}, but this device {there}, as {library.name} sees it")
        config.default_device_type = trt.DeviceType.DLA
        config.DLA_core = options.dla_core
        config.set_flag(trt.BuilderFlag.GPU_FALLBACK)


def _set_precision_flags(trt: Any, config: Any, network: Any, manifest: Manifest, dla: bool) -> None:
    """Where types do not follow the graph: allow what the graph has, and hold all but the network to fp32.

    A DLA has no fp32, so that there the layers that int8 leaves out run in fp16.
    """
    if manifest.precision == "fp32":
        return
    if manifest.precision == "int8":
        config.set_flag(trt.BuilderFlag.INT8)
    if manifest.precision == "fp16" or dla:
        config.set_flag(trt.BuilderFlag.FP16)
    config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if "/" not in layer.name or stage_of(layer.name) == "network" or layer.num_outputs == 0:
            continue
        if layer.get_output(0).dtype == trt.DataType.FLOAT:
            layer.precision = trt.DataType.FLOAT
            layer.set_output_type(0, trt.DataType.FLOAT)


def _has_flag(trt: Any, name: str) -> bool:
    return hasattr(trt.BuilderFlag, name)


@contextmanager
def _timing_cache(library: Library, config: Any, path: Path | None) -> Iterator[None]:
    """Have the builder know what it measured before, and keep what it knows after the build.

    A file that cannot be written is found out before the build, which would be lost with it.
    """
    if path is None:
        yield
        return
    with replacing(path) as temporary:
        cache = config.create_timing_cache(path.read_bytes() if path.exists() else b"")
        if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
            raise ConfigError(
                f"{path}: is no timing cache of {library.name} on this GPU; name another file, or delete it to start "
                "anew"
            )
        yield
        temporary.write_bytes(memoryview(config.get_timing_cache().serialize()))


def _interruptible(build: Callable[[], _Result], progress: BuildProgress) -> _Result:
    """Build in a thread of its own, so that Ctrl-C is heard: it asks the builder to stop and waits until it has.

    Without a progress monitor (8.6) the builder cannot be asked, and is left behind.
    """
    results: list[_Result] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(build())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work, name="tensorrt-build", daemon=True)
    try:
        thread.start()
        while thread.is_alive():
            thread.join(0.1)
    except KeyboardInterrupt as interruption:
        progress.cancelled.set()
        thread.join(_SECONDS_TO_STOP)
        raise KeyboardInterrupt("the build was interrupted; nothing was written") from interruption
    if errors:
        raise errors[0]
    return results[0]


def _failure(library: Library, onnx_path: Path, manifest: Manifest, problems: list[Problem]) -> str:
    advice = "please report this with the file" if manifest.target == "portable" else "export with --target portable"
    words = "; ".join(problem.in_words(advice) for problem in problems[:3])
    return f"{onnx_path}: {library.name} cannot build {words or f'it, and does not say why; {advice}'}"
