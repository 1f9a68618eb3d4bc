"""Real engines on a real device: ``python -m pytest -m gpu``. They need TensorRT (or TensorRT-RTX), pycuda or
cuda-python, and what exports need; without a device they are skipped."""

from __future__ import annotations

import importlib.util
import multiprocessing
import threading
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from autotimm.runtime import (
    ArtifactError,
    BackendUnavailableError,
    ConfigError,
    Detections,
    ImageError,
    Predictor,
    load,
    read_manifest,
)
from autotimm.runtime.backends import cuda_buffers
from autotimm.runtime.files import sha256_of
from autotimm.runtime.pictures import generate
from autotimm.runtime.sidecar import sidecar_of

pytestmark = pytest.mark.gpu

FLAVOURS = [name for name in ("tensorrt", "tensorrt_rtx") if importlib.util.find_spec(name) is not None]
MEGABYTE = 1 << 20


@pytest.fixture(scope="module", autouse=True)
def device() -> cuda_buffers.Device:
    if not FLAVOURS:
        pytest.skip("neither tensorrt nor tensorrt_rtx is installed")
    try:
        return cuda_buffers.open_device()
    except BackendUnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture(params=list(cuda_buffers.LIBRARIES))
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each of the libraries that reach a device and are installed."""
    monkeypatch.setattr(cuda_buffers, "LIBRARIES", {request.param: cuda_buffers.LIBRARIES[request.param]})
    try:
        cuda_buffers.open_device()
    except BackendUnavailableError as error:
        pytest.skip(str(error))
    return str(request.param)


class Built:
    """The same networks as ONNX artifacts and as engines of one flavour."""

    def __init__(self, folder: Path, flavour: Any, detector: Path, classifier: Path) -> None:
        from autotimm.export import export_to_onnx
        from autotimm.export.tensorrt import export_to_tensorrt

        self.flavour = flavour
        for name, checkpoint, onnx_options, options in (
            ("detector", detector, {"batch": "dynamic"}, {"profile_batch": (1, 2, 8)}),
            ("classifier", classifier, {"batch": "dynamic"}, {"profile_batch": (1, 4, 8)}),
            ("single", classifier, {"batch": 1}, {}),
            ("half", classifier, {"precision": "fp16"}, {}),
            ("int8", classifier, {"precision": "int8"}, {}),
            ("fours", classifier, {"batch": "dynamic"}, {"profile_batch": (4, 4, 8)}),
            (
                "image",
                detector,
                {"input": "image"},
                {"profile_height": (32, 96, 400), "profile_width": (32, 128, 400)},
            ),
        ):
            export_to_onnx(checkpoint, folder / f"{name}.onnx", target="portable", **onnx_options)
            export_to_tensorrt(folder / f"{name}.onnx", folder / f"{name}.engine", flavour=flavour, **options)
        self.folder = folder

    def engine(self, name: str) -> Predictor:
        return load(self.folder / f"{name}.engine")

    def onnx(self, name: str) -> Predictor:
        return load(self.folder / f"{name}.onnx")


@pytest.fixture(scope="module", params=FLAVOURS or ["tensorrt"])
def built(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    detector_checkpoint: Path,
    trained_checkpoint: Path,
) -> Built:
    return Built(tmp_path_factory.mktemp("engines"), request.param, detector_checkpoint, trained_checkpoint)


@pytest.fixture
def engines(built: Built, library: str) -> Built:
    return built


def batch_of(predictor: Predictor, count: int) -> NDArray[np.uint8]:
    height, width = predictor.manifest.preprocess.size
    return np.stack([generate(height, width, seed) for seed in range(count)])


def assert_same_detections(found: Detections, expected: Detections) -> None:
    """What stands clear of the threshold is found by both, no corner more than a pixel apart."""
    assert len(expected) > 5
    threshold = expected.scores.min() + 0.02
    for one, other in ((found, expected), (expected, found)):
        for box, score, label in zip(one.boxes, one.scores, one.labels, strict=True):
            if score < threshold:
                continue
            near = (np.abs(other.boxes - box).max(1) < 1) & (other.labels == label)
            assert near.any(), (box, score, label)
            assert np.abs(other.scores[near] - score).min() < 0.01


def assert_close(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-3, atol=1e-3, err_msg=name)


def test_an_engine_was_verified_where_it_was_built(built: Built) -> None:
    for name in ("detector", "classifier", "single", "half", "int8", "fours", "image"):
        manifest = read_manifest(built.folder / f"{name}.engine")
        assert manifest.verification.status == "passed", manifest.verification.reason
        assert manifest.engine is not None
        assert manifest.engine.flavour == built.flavour


@pytest.mark.parametrize("name", ["classifier", "single"])
def test_classes_are_those_of_onnx_runtime(engines: Built, name: str) -> None:
    with engines.engine(name) as engine, engines.onnx(name) as onnx:
        for seed in range(8):
            found, expected = (predictor.predict(generate(60, 90, seed)) for predictor in (engine, onnx))
            np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-3)


def test_detections_are_those_of_onnx_runtime(engines: Built) -> None:
    with engines.engine("detector") as engine, engines.onnx("detector") as onnx:
        images = [generate(90 + 7 * seed, 120, seed) for seed in range(6)]
        for found, expected in zip(engine.predict(images, batch_size=4), onnx.predict(images), strict=True):
            assert_same_detections(found, expected)


def test_any_batch_of_the_profile(engines: Built) -> None:
    with engines.engine("classifier") as engine:
        images = batch_of(engine, 8)
        alone = [engine.run(image[None]) for image in images]
        for count in (8, 1, 3, 5, 8):
            together = engine.run(images[:count])
            for index in range(count):
                row = {name: value[index : index + 1] for name, value in together.items()}
                assert_close({"p": row["probabilities"]}, {"p": alone[index]["probabilities"]})
        with pytest.raises(ConfigError, match="give it 1 to 8 images at a time"):
            engine.run(batch_of(engine, 9))
        assert_close(engine.run(images[:1]), alone[0])


def test_fewer_images_than_the_profile_begins_with(engines: Built) -> None:
    with engines.engine("fours") as engine, engines.onnx("single") as onnx:
        images = [generate(60, 90, seed) for seed in range(5)]
        for found, expected in zip(engine.predict(images), onnx.predict(images), strict=True):
            np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-3)


def test_images_of_any_size(engines: Built) -> None:
    with engines.engine("image") as engine, engines.onnx("image") as onnx:
        for seed, (height, width) in enumerate(((96, 128), (50, 60), (400, 300), (200, 400), (33, 399))):
            image = generate(height, width, seed)
            assert_same_detections(engine.predict(image), onnx.predict(image))
        with pytest.raises(ImageError, match="larger range of --profile-height and --profile-width"):
            engine.predict(generate(401, 100, 0))
        assert_same_detections(engine.predict(image), onnx.predict(image))


def test_threads_share_an_engine(engines: Built) -> None:
    with engines.engine("classifier") as engine:
        images = batch_of(engine, 8)
        expected = {count: engine.run(images[:count]) for count in range(1, 9)}
        problems: list[BaseException] = []

        def work(seed: int) -> None:
            try:
                for index in range(50):
                    count = 1 + (seed + index) % 8
                    assert_close(engine.run(images[:count]), expected[count])
            except BaseException as error:
                problems.append(error)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert problems == []


def free_memory() -> int:
    device = cuda_buffers.open_device()
    with device.current():
        return device.free_memory()


def resident_memory() -> int:
    """Bytes of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def test_ten_thousand_runs_take_no_more(engines: Built) -> None:
    with engines.engine("classifier") as engine:
        batches = [batch_of(engine, count) for count in (1, 8)]
        for batch in batches * 50:
            engine.run(batch)
        free, resident = free_memory(), resident_memory()
        for index in range(10_000):
            engine.run(batches[index // 100 % 2])
        assert free - free_memory() < 2 * MEGABYTE
        assert resident_memory() - resident < 32 * MEGABYTE


def test_opening_and_closing_leaves_nothing(engines: Built) -> None:
    for _ in range(3):
        with engines.engine("detector") as engine:
            engine.run(batch_of(engine, 8))
    free, resident = free_memory(), resident_memory()
    for index in range(30):
        engine = engines.engine("detector")
        engine.run(batch_of(engine, 1 + index % 8))
        if index % 2:
            engine.close()  # the others are dropped
        del engine
    assert free - free_memory() < 32 * MEGABYTE
    assert resident_memory() - resident < 128 * MEGABYTE


def test_closing_in_another_thread(engines: Built) -> None:
    engine = engines.engine("classifier")
    engine.run(batch_of(engine, 2))
    thread = threading.Thread(target=engine.close)
    thread.start()
    thread.join()
    with pytest.raises(ArtifactError, match="is closed"):
        engine.run(batch_of(engine, 2))


def test_two_engines_at_once(engines: Built) -> None:
    with engines.engine("classifier") as one, engines.engine("detector") as other, engines.engine("single") as third:
        expected = one.run(batch_of(one, 3))
        other.run(batch_of(other, 8))
        third.run(batch_of(third, 1))
        assert_close(one.run(batch_of(one, 3)), expected)


def test_a_forked_process_gets_an_error(engines: Built) -> None:
    with engines.engine("single") as engine:
        batch = batch_of(engine, 1)
        expected = engine.run(batch)
        context = multiprocessing.get_context("fork")
        answers = context.Queue()

        def child() -> None:
            try:
                engine.run(batch)
            except BackendUnavailableError as error:
                answers.put(str(error))
            engine.close()

        process = context.Process(target=child)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python's own about forks beside threads
            process.start()
        assert "forked" in answers.get(timeout=30)
        process.join(30)
        assert process.exitcode == 0
        assert_close(engine.run(batch), expected)


def test_what_tensorrt_cannot_read(built: Built, tmp_path: Path) -> None:
    """A plan that passes every check of the file beside it, and is cut off."""
    source = built.folder / "single.engine"
    plan = source.read_bytes()
    damaged = tmp_path / "damaged.engine"
    damaged.write_bytes(plan[: len(plan) // 2])
    manifest = read_manifest(source)
    assert manifest.engine is not None
    record = replace(manifest.engine, plan_sha256=sha256_of(damaged))
    sidecar_of(damaged).write_text(replace(manifest, engine=record).to_json())
    with pytest.raises(ArtifactError, match=r"cannot read it .* autotimm build"):
        load(damaged)
    sidecar_of(damaged).write_text(manifest.to_json())
    with pytest.raises(ArtifactError, match="SHA-256"):
        load(damaged)


def test_torch_goes_on_beside_it(engines: Built) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA")
    values = torch.arange(1000, device="cuda")
    with engines.engine("single") as engine:
        engine.run(batch_of(engine, 1))
        assert int(values.sum()) == 499_500
    assert int((values * 2).sum()) == 999_000
