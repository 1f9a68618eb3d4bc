"""The flow of a build, on a stand-in for TensorRT; real engines are built in ``test_tensorrt_rtx.py``."""

import _thread
import json
import shutil
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from fake_builder import Build, tensorrt_that_builds, written

from autotimm.export import export_to_tensorrt
from autotimm.export.onnx import embed_manifest
from autotimm.export.tensorrt_flavour import choose_library
from autotimm.export.tensorrt_log import remarks
from autotimm.models import ImageClassifier
from autotimm.runtime import read_manifest
from autotimm.runtime.errors import (
    ArtifactError,
    AutoTimmError,
    BackendUnavailableError,
    ConfigError,
    DataError,
    ExportError,
)
from autotimm.runtime.files import sha256_of
from autotimm.runtime.manifest import Manifest
from autotimm.runtime.sidecar import sidecar_of

NAMES = Path(__file__).parents[1] / "runtime" / "backends" / "tensorrt_names.json"


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Install a stand-in; returns what its builder is told."""
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)

    def use(version: str = "10.3.0", name: str = "tensorrt", **behaviour: Any) -> Build:
        build = Build(**behaviour)
        monkeypatch.setitem(sys.modules, name, tensorrt_that_builds(version, build, name))
        return build

    return use


def changed(portable: Path, path: Path, **changes: Any) -> Path:
    """The artifact with another manifest."""
    proto = onnx.load(portable)
    embed_manifest(proto, replace(read_manifest(portable), **changes))
    onnx.save(proto, path)
    return path


def test_an_engine_and_what_is_known_of_it(use: Any, portable: Path, tmp_path: Path) -> None:
    build = use(says=["[W] kMIN values in profile 0 are not self-consistent."] * 3)
    seen: list[float] = []
    engine = tmp_path / "new" / "model.engine"
    manifest = export_to_tensorrt(
        portable,
        engine,
        profile_batch=(1, 2, 4),
        workspace=64,
        optimization_level=2,
        progress=lambda what, share: seen.append(share),
    )
    assert written(engine.parent) == {"model.engine", "model.engine.json"}
    assert Manifest.from_json(sidecar_of(engine).read_text(), "") == manifest == read_manifest(engine)
    assert manifest.format == "trt"
    assert manifest.class_names == read_manifest(portable).class_names
    record = manifest.engine
    assert record is not None
    assert (record.flavour, record.version) == ("tensorrt", "10.3.0")
    assert (record.plan_sha256, record.onnx_sha256) == (sha256_of(engine), sha256_of(portable))
    assert record.options == {"workspace": 64, "optimization_level": 2}
    assert record.inspected == "engine"
    assert record.remarks == ("the smallest shapes of the profile do not fit together; raise them",)
    shapes = record.profile["images"]
    assert [shapes.minimum[0], shapes.best[0], shapes.maximum[0]] == [1, 2, 4]
    assert build.profile == {"images": (shapes.minimum, shapes.best, shapes.maximum)}
    assert build.settings["WORKSPACE"] == 64 << 20
    assert build.settings["profiling_verbosity"] == "DETAILED"
    assert seen == sorted(seen)
    assert 0 < seen[-1] <= 1
    assert manifest.verification.status == "not run"
    assert "no CUDA device" in manifest.verification.reason
    assert "autotimm verify model.engine --against model.onnx" in manifest.verification.reason


def test_a_size_is_free_only_where_the_artifact_leaves_it_free(use: Any, portable: Path, tmp_path: Path) -> None:
    build = use()
    export_to_tensorrt(portable, tmp_path / "a.engine")
    assert [shape[0] for shape in build.profile["images"]] == [1, 1, 8]
    for profile in ((0, 1, 2), (4, 2, 8), (1, 9, 8)):
        with pytest.raises(ConfigError, match="must be MIN OPT MAX, rising"):
            export_to_tensorrt(portable, tmp_path / "b.engine", profile_batch=profile)
    with pytest.raises(ConfigError, match="a profile of height was given, but this artifact takes images at the size"):
        export_to_tensorrt(portable, tmp_path / "b.engine", profile_height=(32, 64, 128))
    proto = onnx.load(portable)
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(proto, tmp_path / "fixed.onnx")
    with pytest.raises(ConfigError, match="images takes exactly 1: export with --batch dynamic"):
        export_to_tensorrt(tmp_path / "fixed.onnx", tmp_path / "b.engine", profile_batch=(1, 2, 4))
    assert written(tmp_path) == {"a.engine", "a.engine.json", "fixed.onnx"}


def test_images_of_any_size_have_a_profile_of_height_and_width(use: Any, portable: Path, tmp_path: Path) -> None:
    proto = onnx.load(portable)
    dimensions = proto.graph.input[0].type.tensor_type.shape.dim
    for name, dimension in zip(("height", "width"), dimensions, strict=False):
        dimension.dim_param = name
    dimensions[2].dim_value = 3
    del dimensions[3:]
    embed_manifest(proto, replace(read_manifest(portable), input_mode="image"))
    onnx.save(proto, tmp_path / "image.onnx")
    build = use()
    export_to_tensorrt(tmp_path / "image.onnx", tmp_path / "a.engine", profile_height=(100, 200, 300))
    assert build.profile["images"] == ((100, 32, 3), (200, 1280, 3), (300, 4096, 3))
    with pytest.raises(ConfigError, match="takes one image of any size"):
        export_to_tensorrt(tmp_path / "image.onnx", tmp_path / "a.engine", profile_batch=(1, 1, 2))


@pytest.mark.parametrize(
    ("version", "typed", "flags"),
    [
        ("8.6.1", False, {"FP16", "OBEY_PRECISION_CONSTRAINTS"}),
        ("10.3.0", True, set()),
        ("10.16.1.11", True, set()),
        ("11.4.0.106", True, set()),
    ],
)
def test_precision_lives_in_the_graph_and_in_flags_on_old_versions(
    use: Any, portable: Path, tmp_path: Path, version: str, typed: bool, flags: set[str]
) -> None:
    half = changed(portable, tmp_path / "half.onnx", precision="fp16")
    build = use(version)
    build.settings["half"] = True
    manifest = export_to_tensorrt(half, tmp_path / "half.engine")
    assert build.flags == flags
    assert build.cleared == {"TF32"}
    network_flag = tensorrt_that_builds(version).NetworkDefinitionCreationFlag
    wanted = network_flag.STRONGLY_TYPED if typed else network_flag.EXPLICIT_BATCH
    assert build.network_flags == 1 << wanted
    assert manifest.engine is not None
    assert manifest.engine.precisions["float16"] > 10
    outside = {node.name for node in onnx.load(half).graph.node if not node.name.startswith("network")}
    assert build.pinned == (set() if typed else outside)


def test_layers_that_int8_leaves_out_stay_in_fp32_on_old_versions(use: Any, portable: Path, tmp_path: Path) -> None:
    """Only a DLA, which has no fp32, computes them in half."""
    eight = changed(portable, tmp_path / "eight.onnx", precision="int8")
    for options, flags in (({}, {"INT8"}), ({"dla_core": 0}, {"INT8", "FP16", "GPU_FALLBACK"})):
        build = use("8.6.1", dla_cores=1)
        with pytest.raises(ExportError, match="int8 was asked for"):  # the stand-in has none
            export_to_tensorrt(eight, tmp_path / "eight.engine", **options)  # type: ignore[arg-type]
        assert build.flags == flags | {"OBEY_PRECISION_CONSTRAINTS"}


def test_a_precision_that_is_not_in_the_engine_is_an_error(use: Any, portable: Path, tmp_path: Path) -> None:
    half = changed(portable, tmp_path / "half.onnx", precision="fp16")
    build = use(loses_precision=True)
    build.settings["half"] = True
    with pytest.raises(
        ExportError, match=r"fp16 was asked for, but TensorRT 10.3.0 built no layer in it \(layers: \d+ f"
    ):
        export_to_tensorrt(half, tmp_path / "half.engine")
    build.inspects = False  # then the parsed network tells
    assert "float16" in export_to_tensorrt(half, tmp_path / "half.engine").engine.precisions  # type: ignore[union-attr]
    build.settings["half"] = False
    with pytest.raises(ExportError, match="read from the parsed network"):
        export_to_tensorrt(half, tmp_path / "other.engine")
    assert written(tmp_path) == {"half.onnx", "half.engine", "half.engine.json"}


@pytest.mark.parametrize("version", ["8.6.1", "10.3.0"])
def test_a_node_that_cannot_be_read_is_named_with_its_stage(
    use: Any, portable: Path, tmp_path: Path, version: str
) -> None:
    use(version, refuses={"Conv": "Assertion failed: kernel is even: In node 3 at /_src/conv.cpp:48"})
    node = next(node.name for node in onnx.load(portable).graph.node if node.op_type == "Conv")
    with pytest.raises(ExportError) as caught:
        export_to_tensorrt(portable, tmp_path / "model.engine")
    message = str(caught.value)
    assert f"TensorRT {version} cannot read Conv in the network ({node.partition('/')[0]}): kernel is even" in message
    assert "--target portable" in message
    assert ".cpp" not in message
    assert written(tmp_path) == set()


def test_a_node_that_cannot_be_built_is_named_with_its_stage_and_the_way_out(
    use: Any, portable: Path, tmp_path: Path
) -> None:
    use(
        fails="[tacticSupply.cpp::getSupportedFormats::48] Error Code 2: Internal Error (Assertion !layerImpls.empty() "
        "failed. postprocess/NonMaxSuppression_399_128 has no runners that implement it In getSupportedFormats at "
        "/_src/optimizer/builder/tacticSupply.cpp:48)"
    )
    with pytest.raises(ExportError) as caught:
        export_to_tensorrt(portable, tmp_path / "model.engine")
    assert "cannot build NonMaxSuppression in the post-processing" in str(caught.value)
    assert "plain tensor operations: export with --target portable" in str(caught.value)
    assert "tacticSupply" not in str(caught.value)
    use(fails="out of memory")
    with pytest.raises(ExportError, match="a larger --workspace"):
        export_to_tensorrt(portable, tmp_path / "model.engine")
    assert written(tmp_path) == set()


def test_an_artifact_for_another_engine_is_refused(use: Any, portable: Path, tmp_path: Path) -> None:
    use()
    foreign = changed(portable, tmp_path / "foreign.onnx", target="onnxruntime")
    with pytest.raises(ArtifactError, match=r"written for ONNX Runtime.*--target portable"):
        export_to_tensorrt(foreign, tmp_path / "model.engine")
    with pytest.raises(ConfigError, match=r"the name of an engine ends in \.engine or \.plan"):
        export_to_tensorrt(portable, tmp_path / "model.trt")
    with pytest.raises(ConfigError, match=r"size cannot be set on .*model.onnx, whose graph is done"):
        export_to_tensorrt(portable, tmp_path / "model.engine", onnx_options={"size": (64, 64)})
    assert written(tmp_path) == {"foreign.onnx"}


@pytest.mark.parametrize(("version", "opset"), [("8.6.1", 18), ("10.3.0", 21), ("11.4.0.106", 25)])
def test_an_opset_that_is_too_new_is_refused(
    use: Any, portable: Path, tmp_path: Path, version: str, opset: int
) -> None:
    use(version)
    newer = changed(portable, tmp_path / "newer.onnx", opset=opset)
    with pytest.raises(ExportError, match=f"is of opset {opset}, and TensorRT {version} reads up to {opset - 1}"):
        export_to_tensorrt(newer, tmp_path / "model.engine")


@pytest.mark.parametrize(
    ("version", "name", "options", "message"),
    [
        ("1.7.1", "tensorrt_rtx", {"dla_core": 0}, "TensorRT-RTX 1.7.1 is for desktop GPUs, which have no DLA"),
        ("11.2.0", "tensorrt", {"dla_core": 0}, r"TensorRT 11\.2\.0 has no DLA: 11\.0 to 11\.3 left it out"),
        ("10.3.0", "tensorrt", {"dla_core": 0}, "fp16 and int8 only: export with --precision fp16"),
        ("1.7.1", "tensorrt_rtx", {"version_compatible": True}, "version_compatible is of TensorRT: TensorRT-RTX"),
        ("1.7.1", "tensorrt_rtx", {"timing_cache": "cache"}, "measures nothing while it builds"),
        ("10.3.0", "tensorrt", {"hardware_compatibility": "same_compute_capability"}, "needs TensorRT 10.9"),
        ("10.3.0", "tensorrt", {"optimization_level": 6}, "must be 0 to 5"),
        ("10.3.0", "tensorrt", {"workspace": 0}, "at least 1"),
    ],
)
def test_what_a_version_lacks_is_said_before_the_build(
    use: Any, portable: Path, tmp_path: Path, version: str, name: str, options: dict[str, Any], message: str
) -> None:
    build = use(version, name)
    with pytest.raises(ConfigError, match=message):
        export_to_tensorrt(portable, tmp_path / "model.engine", **options)
    assert build.steps == 0
    assert written(tmp_path) == set()


def test_a_dla_that_is_there_is_used_and_one_that_is_not_is_an_error(use: Any, portable: Path, tmp_path: Path) -> None:
    half = changed(portable, tmp_path / "half.onnx", precision="fp16")
    build = use("10.3.0", dla_cores=2)
    build.settings["half"] = True
    manifest = export_to_tensorrt(half, tmp_path / "half.engine", dla_core=1)
    assert manifest.engine is not None
    assert manifest.engine.options == {"dla_core": 1}
    assert (build.settings["default_device_type"], build.settings["DLA_core"]) == ("DLA", 1)
    assert {"GPU_FALLBACK", "FP16"} <= build.flags  # a DLA takes no strongly typed networks
    for cores, said in ((2, "has DLA cores 0 to 1"), (0, "has no DLA")):
        use("10.3.0", dla_cores=cores)
        with pytest.raises(ConfigError, match=f"dla_core is 2, but this device {said}"):
            export_to_tensorrt(half, tmp_path / "other.engine", dla_core=2)


def test_compatibility_options_reach_the_builder(use: Any, portable: Path, tmp_path: Path) -> None:
    build = use("10.9.0")
    options = {"version_compatible": True, "hardware_compatibility": "same_compute_capability"}
    manifest = export_to_tensorrt(portable, tmp_path / "a.engine", **options)  # type: ignore[arg-type]
    assert "VERSION_COMPATIBLE" in build.flags
    assert build.settings["hardware_compatibility_level"] == "SAME_COMPUTE_CAPABILITY"
    assert manifest.engine is not None
    assert manifest.engine.version_compatible
    assert manifest.engine.hardware_compatibility == "same_compute_capability"
    assert "NATIVE_INSTANCENORM" not in build.settings
    build = use("8.6.1")
    export_to_tensorrt(portable, tmp_path / "b.engine", version_compatible=True)
    assert build.settings["NATIVE_INSTANCENORM"]


def test_a_timing_cache_is_read_and_written(use: Any, portable: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    build = use()
    export_to_tensorrt(portable, tmp_path / "a.engine", timing_cache=cache)
    assert build.settings["cache"] == b""
    assert cache.read_bytes() == b"what was measured"
    build = use(caches_fit=False)
    with pytest.raises(ConfigError, match=r"cache: is no timing cache of TensorRT 10\.3\.0 on this GPU"):
        export_to_tensorrt(portable, tmp_path / "b.engine", timing_cache=cache)
    assert build.settings["cache"] == b"what was measured"
    assert written(tmp_path) == {"a.engine", "a.engine.json", "cache"}


@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_build_stops_and_leaves_nothing(use: Any, portable: Path, tmp_path: Path) -> None:
    pressed = threading.Event()

    def interrupted() -> None:
        if not pressed.is_set():
            pressed.set()
            _thread.interrupt_main()
        time.sleep(0.5)

    build = use(works=interrupted)
    with pytest.raises(KeyboardInterrupt, match="nothing was written"):
        export_to_tensorrt(portable, tmp_path / "model.engine")
    assert 0 < build.steps < 4
    assert written(tmp_path) == set()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_leaves_nothing(use: Any, portable: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use()
    old = tmp_path / "model.engine"
    old.write_bytes(b"the engine of last week")

    def onto_a_full_disk(path: Path, content: Any) -> int:
        with Path("/dev/full").open("wb") as full:
            return full.write(bytes(content))

    monkeypatch.setattr(Path, "write_bytes", onto_a_full_disk)
    with pytest.raises(AutoTimmError, match=r"model\.engine: could not be written: No space left on device"):
        export_to_tensorrt(portable, old)
    assert written(tmp_path) == {"model.engine"}
    assert old.read_bytes() == b"the engine of last week"


def test_where_it_cannot_be_written_is_said_before_the_build(use: Any, portable: Path, tmp_path: Path) -> None:
    build = use()
    (tmp_path / "file").touch()
    with pytest.raises(AutoTimmError, match="file is not a folder"):
        export_to_tensorrt(portable, tmp_path / "file" / "model.engine")
    for cache in (tmp_path / "file" / "cache", tmp_path):
        with pytest.raises(AutoTimmError, match=r"is not a folder|is a folder"):
            export_to_tensorrt(portable, tmp_path / "model.engine", timing_cache=cache)
    with pytest.raises(DataError, match="photos"):
        export_to_tensorrt(portable, tmp_path / "model.engine", verify_images=tmp_path / "photos")
    assert build.steps == 0
    assert written(tmp_path) == {"file"}


def test_the_library_is_the_one_asked_for_or_the_one_that_is_there(use: Any) -> None:
    with pytest.raises(BackendUnavailableError) as caught:
        choose_library()
    for remedy in ("JetPack", "--system-site-packages", "autotimm-deploy[trt]", "autotimm-deploy[trt-rtx]"):
        assert remedy in str(caught.value)
    use("1.7.1", "tensorrt_rtx")
    assert choose_library().name == "TensorRT-RTX 1.7.1"
    use("10.3.0")
    assert choose_library().name == "TensorRT 10.3.0"
    assert choose_library("tensorrt_rtx").is_rtx
    with pytest.raises(ConfigError, match="there is no flavour 'onnx'"):
        choose_library("onnx")  # type: ignore[arg-type]
    use("8.5.2")
    with pytest.raises(BackendUnavailableError, match=r"TensorRT 8\.5\.2 is too old"):
        choose_library()


def test_a_checkpoint_without_tensorrt_gives_the_artifact_and_the_command(
    use: Any, portable: Path, classifier: ImageClassifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported = []

    def export(source: object, path: Path, **options: object) -> None:
        exported.append((source, options))
        shutil.copyfile(portable, path)

    monkeypatch.setattr("autotimm.export.onnx.export_to_onnx", export)
    options = {"size": (32, 32)}
    for wrong, message in (
        ({"profile_height": (32, 64, 128)}, "a profile of height was given"),
        ({"profile_batch": (1, 2, 4)}, "takes exactly 1: export with --batch dynamic"),
        ({"workspace": 0}, "at least 1"),
        ({"dla_core": 0}, "fp16 and int8 only"),
    ):
        with pytest.raises(ConfigError, match=message):
            export_to_tensorrt(classifier, tmp_path / "model.engine", onnx_options=options, **wrong)  # type: ignore[arg-type]
    assert not exported
    with pytest.raises(BackendUnavailableError) as caught:
        export_to_tensorrt(
            classifier,
            tmp_path / "model.engine",
            workspace=64,
            timing_cache="my cache",
            version_compatible=True,
            verify=False,
            onnx_options=options,
        )
    assert "model.portable.onnx was written" in str(caught.value)
    assert str(caught.value).endswith(
        "autotimm build model.portable.onnx -o model.engine --workspace 64 --timing-cache 'my cache' "
        "--version-compatible"
    )
    given = {"target": "portable", "size": (32, 32), "verify": False, "verify_images": None}
    assert exported == [(classifier, given)]
    assert written(tmp_path) == {"model.portable.onnx"}
    use()
    assert export_to_tensorrt(classifier, tmp_path / "model.engine", onnx_options=options).engine is not None
    assert written(tmp_path) == {"model.engine", "model.engine.json", "model.portable.onnx"}


def test_without_a_device_tensorrt_says_so(use: Any, portable: Path, tmp_path: Path) -> None:
    use(device=False)
    with pytest.raises(BackendUnavailableError, match=r"needs a working CUDA device \(CUDA initialization failure"):
        export_to_tensorrt(portable, tmp_path / "model.engine")
    assert written(tmp_path) == set()


def test_remarks_are_said_once_and_in_our_words() -> None:
    said = [
        "TensorRT was linked against cuDNN 8.9.0 but loaded cuDNN 8.7.0",
        "TensorRT was linked against cuBLAS 12 but loaded cuBLAS 11",
        "The logger passed into createInferBuilder differs from one already registered",
        "Your ONNX model has been generated with INT64 weights. Attempting to cast down to INT32.",
        "something that nobody has met yet",
        "something that nobody has met yet",
    ]
    first, second = remarks(said)
    assert first.startswith("TensorRT was built for another version of a CUDA library")
    assert second == "something that nobody has met yet"


@pytest.mark.parametrize(
    ("name", "version", "real"),
    [
        ("tensorrt", "8.6.1", "8.6.1"),
        ("tensorrt", "10.3.0", "10.3.0"),
        ("tensorrt", "10.16.1.11", "10.16.1.11"),
        ("tensorrt", "11.4.0.106", "11.4.0.106"),
        ("tensorrt_rtx", "1.7.1.116", "RTX 1.7.1.116"),
    ],
)
def test_the_stand_in_has_only_names_of_the_real_packages(name: str, version: str, real: str) -> None:
    there: dict[str, set[str]] = {}
    for versions, classes in json.loads(NAMES.read_text())["tensorrt"].items():
        if real in versions.split(", "):
            for owner, names in classes.items():
                there.setdefault(owner, set()).update(names.split())
    module = tensorrt_that_builds(version, name=name)
    flavour_only = {"EXPLICIT_BATCH"} if name == "tensorrt_rtx" else set()
    for owner, stand_in in vars(module).items():
        if owner.startswith("__") or owner == "build":
            continue
        assert owner in there[""], owner
        if not isinstance(stand_in, type):
            continue
        members = getattr(stand_in, "__members__", None)
        names = set(members) if members else {one for one in vars(stand_in) if not one.startswith("_")}
        names -= {"progress_monitor"} | flavour_only if owner == "IBuilderConfig" else flavour_only
        assert names <= there[owner], (owner, names - there[owner])


def test_a_golden_output_stands_in_for_the_artifact(portable: Path, tmp_path: Path) -> None:
    from autotimm.export.golden import open_golden, write_golden
    from autotimm.runtime import load
    from autotimm.runtime.pictures import choose_pictures

    write_golden(portable, tmp_path, choose_pictures(None, None))
    reference, pictures = open_golden(tmp_path)
    assert "recorded" in reference.backend.name
    with load(portable) as predictor:
        outputs = predictor.run(np.stack(pictures.images))
    for row, result in enumerate(reference.predict(pictures.images)):
        np.testing.assert_array_equal(result.probabilities, outputs["probabilities"][row])  # type: ignore[union-attr]
    with pytest.raises(ArtifactError, match="not one of the golden ones"):
        reference.predict(np.zeros((32, 32, 3), np.uint8) + 1)
    (tmp_path / "output.npz").unlink()
    with pytest.raises(ArtifactError, match=r"has no output\.npz; --golden is the folder 'golden' of an edge kit"):
        open_golden(tmp_path)
    shutil.copyfile(portable, tmp_path / "output.npz")
    with pytest.raises(ArtifactError, match="cannot be read"):
        open_golden(tmp_path)


def test_an_engine_that_can_run_is_compared_with_its_artifact(
    use: Any, portable: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from autotimm.export import engine_verification, tensorrt
    from autotimm.runtime.cuda_device import CudaDevice
    from autotimm.runtime.errors import VerificationError
    from autotimm.runtime.manifest import Verification

    use()
    records: list[Verification | Exception] = [
        Verification("passed", "equal", images=6),
        Verification("failed", "probability 0.2 is over 0.0001"),
        BackendUnavailableError("running an engine needs pycuda"),
        VerificationError("nothing was found on the 6 images"),
    ]

    def compare(engine: Path, against: Path, *, images: object, remembered: object) -> Verification:
        assert read_manifest(engine).engine is not None  # it can be loaded: its manifest is beside it
        assert against == portable
        record = records.pop(0)
        if isinstance(record, Exception):
            raise record
        return record

    monkeypatch.setattr(tensorrt, "cuda_device", lambda: CudaDevice("Orin", "8.7", "12.6"))
    monkeypatch.setattr(engine_verification, "compare_with_artifact", compare)
    manifest = export_to_tensorrt(portable, tmp_path / "model.engine")
    assert manifest.verification.status == "passed"
    assert manifest.engine is not None
    assert (manifest.engine.gpu, manifest.engine.compute_capability, manifest.engine.cuda) == ("Orin", "8.7", "12.6")
    with pytest.raises(
        VerificationError, match=r"other\.engine: the engine does not give the answers of .*0\.2 is over"
    ):
        export_to_tensorrt(portable, tmp_path / "other.engine")
    rejected = tmp_path / "other.rejected.engine"
    assert read_manifest(rejected).verification.status == "failed"
    assert read_manifest(rejected).engine.plan_sha256 == sha256_of(rejected)  # type: ignore[union-attr]
    manifest = export_to_tensorrt(portable, tmp_path / "third.engine")
    assert manifest.verification.status == "not run"
    assert manifest.verification.reason.startswith("running an engine needs pycuda; complete it on the device: ")
    manifest = export_to_tensorrt(portable, tmp_path / "third.engine")  # is kept, after minutes of building
    assert manifest.verification.status == "not run"
    assert manifest.verification.reason.startswith("nothing was found on the 6 images; complete it")
    assert export_to_tensorrt(portable, tmp_path / "x.engine", verify=False).verification.reason == "not asked for"
    names = {f"{name}.engine{end}" for name in ("model", "other.rejected", "third", "x") for end in ("", ".json")}
    assert written(tmp_path) == names
