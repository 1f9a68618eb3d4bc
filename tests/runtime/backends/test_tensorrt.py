"""The flow of a run, on stand-ins for TensorRT and CUDA; what they are called is compared with the real packages in
``test_tensorrt_names.py``, and real engines run in ``tests/integration/test_tensorrt_gpu.py``."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_cuda import FakeCuda
from fake_cuda_python import cuda_python_of
from fake_pycuda import pycuda_of
from fake_tensorrt import BRIGHT, COLORS, bright, colors, tensorrt_of

from autotimm.runtime import (
    ArtifactError,
    Classification,
    ConfigError,
    ImageError,
    Manifest,
    Preprocess,
    TensorSpec,
    load,
)
from autotimm.runtime.backends import cuda_buffers, pycuda_memory
from autotimm.runtime.backends.tensorrt import TensorRTBackend
from autotimm.runtime.files import sha256_of
from autotimm.runtime.sidecar import EngineRecord, ProfileRange, sidecar_of, this_platform

RECORD = EngineRecord("tensorrt", "10.3.0", this_platform(), gpu="Orin", compute_capability="8.7")
MANIFESTS = {
    "colors": Manifest(
        task="classification",
        architecture="colours",
        class_names=("red", "green", "blue"),
        preprocess=Preprocess((4, 6), fit="stretch"),
        inputs=(TensorSpec("images", "uint8", ("batch", 4, 6, 3)),),
        outputs=(
            TensorSpec("probabilities", "float32", ("batch", 3)),
            TensorSpec("scores", "float32", ("batch", 2)),
            TensorSpec("labels", "int32", ("batch", 2)),
        ),
        format="trt",
    ),
    "bright": Manifest(
        task="semantic_segmentation",
        architecture="brightness",
        class_names=("dark", "bright"),
        preprocess=Preprocess((8, 8), fit="stretch"),
        inputs=(TensorSpec("image", "uint8", ("height", "width", 3)),),
        outputs=(TensorSpec("mask", "uint8", (1, "height", "width")),),
        input_mode="image",
        format="trt",
    ),
}

PAIRS = {
    "network": "colors",
    "inputs": {"images": ["uint8", [2, 4, 6, 3]]},
    "outputs": {"probabilities": ["float32", [2, 3]], "scores": ["float32", [2, 2]], "labels": ["int32", [2, 2]]},
}
"""An engine of exactly two images a run, which has no profile."""

Make = Callable[..., Path]


def write_engine(path: Path, plan: dict[str, Any] = COLORS, record: EngineRecord = RECORD, **changes: Any) -> Path:
    path.write_text(json.dumps(plan))
    record = replace(record, plan_sha256=sha256_of(path))
    manifest = replace(MANIFESTS[plan["network"]], engine=record, **changes)
    sidecar_of(path).write_text(manifest.to_json())
    return path


@pytest.fixture
def make(tmp_path: Path) -> Make:
    return lambda plan=COLORS, **options: write_engine(tmp_path / "model.engine", plan, **options)


def use(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch, library: str = "pycuda", **options: Any) -> Any:
    """Install the stand-ins for a test."""
    trt = tensorrt_of(cuda, **options)
    modules = {"pycuda": None, "pycuda.driver": None, trt.__name__: trt}
    modules |= pycuda_of(cuda) if library == "pycuda" else cuda_python_of(cuda)
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(cuda_buffers, "_opened_by", [])
    monkeypatch.setattr(pycuda_memory, "_primary_contexts", {})
    return trt


@pytest.fixture(params=["pycuda", "cuda-python"])
def cuda(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    cuda = FakeCuda()
    use(cuda, monkeypatch, request.param)
    return cuda


@pytest.fixture
def pycuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    cuda = FakeCuda()
    use(cuda, monkeypatch)
    return cuda


def pixels(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def assert_colors(outputs: dict[str, Any], images: Any) -> None:
    expected = colors(images)
    assert list(outputs) == list(expected)
    for name, value in expected.items():
        assert outputs[name].dtype == value.dtype
        np.testing.assert_array_equal(outputs[name], value)


def assert_nothing_left(cuda: FakeCuda) -> None:
    gc.collect()
    assert (cuda.memory, cuda.streams) == ({}, {})


def test_what_the_backend_says_about_itself(make: Make, cuda: FakeCuda) -> None:
    backend = TensorRTBackend(make())
    assert backend.name.startswith("tensorrt 10.3.0, Orin, ")
    assert backend.name.endswith((", pycuda 2026.1", ", cuda-python, CUDA runtime 12.6"))
    assert backend.inputs == MANIFESTS["colors"].inputs
    assert backend.outputs == MANIFESTS["colors"].outputs


def test_an_engine_predicts(make: Make, cuda: FakeCuda) -> None:
    images = [np.full((9, 9, 3), color, np.uint8) for color in ((200, 0, 0), (0, 0, 90), (0, 250, 0))] * 3
    with load(make()) as predictor:
        for size in (1, 2, 8):
            results = predictor.predict(images, batch_size=size)
            assert all(isinstance(result, Classification) for result in results)
            assert [result.names[0] for result in results] == ["red", "blue", "green"] * 3  # type: ignore[union-attr]
    assert_nothing_left(cuda)


def test_any_batch_of_the_profile(make: Make, cuda: FakeCuda) -> None:
    backend = TensorRTBackend(make())
    before = cuda.allocations
    kept = []
    for seed, count in enumerate((8, 1, 3, 3, 8, 2)):
        images = pixels(count, 4, 6, 3, seed=seed)
        kept.append((backend.run(images), images))
    for outputs, images in kept:  # what a run returned is not written over by the next
        assert_colors(outputs, images)
    assert cuda.allocations == before  # all were made for the largest batch


def test_images_that_do_not_lie_in_one_piece(make: Make, pycuda: FakeCuda) -> None:
    images = pixels(2, 4, 12, 3)[:, :, ::2]
    assert_colors(TensorRTBackend(make()).run(images), np.ascontiguousarray(images))


def test_an_integrated_device_copies_nothing(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    for library in ("pycuda", "cuda-python"):
        cuda = FakeCuda(integrated=True)
        use(cuda, monkeypatch, library)
        backend = TensorRTBackend(make())
        assert_colors(backend.run(pixels(3, 4, 6, 3)), pixels(3, 4, 6, 3))
        assert (cuda.copies, set(cuda.kinds.values())) == (0, {"pinned"})
        backend.close()
        assert_nothing_left(cuda)


def test_images_of_any_size_grow_the_buffers(make: Make, cuda: FakeCuda) -> None:
    backend = TensorRTBackend(make(BRIGHT))
    made = []
    for height, width in ((8, 10), (2, 3), (40, 30), (30, 40), (64, 64), (5, 64)):
        image = pixels(height, width, 3, seed=height)
        np.testing.assert_array_equal(backend.run(image)["mask"], bright(image)["mask"])
        made.append(cuda.allocations)
    assert made[0] == made[1] < made[2] == made[3] < made[4] == made[5]
    assert len(cuda.memory) == 4  # the smaller ones were given back: one pinned and one on the device a tensor
    backend.close()
    assert_nothing_left(cuda)


@pytest.mark.parametrize(
    ("plan", "shape", "said"),
    [
        (
            COLORS,
            (9, 4, 6, 3),
            "[9, 4, 6, 3], but the engine was built for [1, 4, 6, 3] to [8, 4, 6, 3]; give it 1 to 8 "
            "images at a time, or build the engine with a larger range of --profile-batch",
        ),
        (COLORS, (1, 4, 7, 3), "to [8, 4, 6, 3]; give it such input"),
        (COLORS, (4, 6, 3), "images is [4, 6, 3]"),
        (BRIGHT, (65, 4, 3), "image is [65, 4, 3], but the engine was built for [2, 2, 3] to [64, 64, 3]; resize"),
        (BRIGHT, (1, 4, 3), "build the engine with a larger range of --profile-height"),
        (PAIRS, (1, 4, 6, 3), "for exactly [2, 4, 6, 3]; give it 2 images at a time, or export with --batch dynamic"),
    ],
)
def test_input_outside_the_profile(
    make: Make, pycuda: FakeCuda, plan: dict[str, Any], shape: tuple[int, ...], said: str
) -> None:
    backend = TensorRTBackend(make(plan))
    with pytest.raises(ImageError if plan is BRIGHT else ConfigError) as caught:
        backend.run(np.zeros(shape, np.uint8))
    assert said in str(caught.value)
    good = backend._session.profile[1]
    assert backend.run(np.zeros(good, np.uint8))  # and it goes on


def test_an_image_outside_the_profile_does_not_stop_the_others(make: Make, pycuda: FakeCuda) -> None:
    images = [pixels(9, 9, 3), pixels(65, 4, 3), pixels(20, 30, 3)]
    with load(make(BRIGHT)) as predictor:
        first, problem, last = predictor.stream(images)
        assert isinstance(problem, ImageError)
        assert "image is [65, 4, 3], but the engine was built for" in str(problem)
        for found, image in ((first, images[0]), (last, images[2])):
            np.testing.assert_array_equal(found.mask, bright(image)["mask"][0])  # type: ignore[union-attr]
        with pytest.raises(ImageError):
            predictor.predict(images)


def test_fewer_images_than_the_profile_begins_with_are_filled_up(make: Make, cuda: FakeCuda) -> None:
    images = [np.full((4, 6, 3), color, np.uint8) for color in ((200, 0, 0), (0, 0, 90), (0, 250, 0))] * 2
    shapes = ProfileRange((4, 4, 6, 3), (4, 4, 6, 3), (8, 4, 6, 3))
    plan = {**COLORS, "profile": [shapes.minimum, shapes.best, shapes.maximum]}
    with load(make(plan, record=replace(RECORD, profile={"images": shapes}))) as predictor:
        for given in (images, images[:1]):  # runs of four and two; of one
            names = [result.names[0] for result in predictor.predict(given)]  # type: ignore[union-attr]
            assert names == (["red", "blue", "green"] * 2)[: len(given)]


def test_input_that_is_no_bytes(make: Make, pycuda: FakeCuda) -> None:
    with pytest.raises(ConfigError, match="the input is float32, but the engine takes uint8"):
        TensorRTBackend(make()).run(np.zeros((1, 4, 6, 3), np.float32))  # type: ignore[arg-type]


def test_ten_thousand_runs_take_no_more(make: Make, cuda: FakeCuda) -> None:
    backend = TensorRTBackend(make())
    batches = [pixels(count, 4, 6, 3) for count in (1, 2)]
    before = (cuda.allocations, sorted(cuda.memory), sorted(cuda.streams))
    for index in range(10_000):
        backend.run(batches[index // 100 % 2])
    assert (cuda.allocations, sorted(cuda.memory), sorted(cuda.streams)) == before


@pytest.mark.parametrize("library", ["pycuda", "cuda-python"])
def test_threads_share_an_engine(make: Make, monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    cuda = FakeCuda()
    trt = use(cuda, monkeypatch, library)
    backend = TensorRTBackend(make())
    problems: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for index in range(40):
                images = pixels(1 + (seed + index) % 8, 4, 6, 3, seed=seed * 100 + index)
                assert_colors(backend.run(images), images)
            assert cuda.stack == []
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert trt.contexts == 1
    closing = threading.Thread(target=backend.close)  # in another thread than that which opened it
    closing.start()
    closing.join()
    assert_nothing_left(cuda)


def test_closing(make: Make, cuda: FakeCuda) -> None:
    backend = TensorRTBackend(make())
    backend.run(pixels(1, 4, 6, 3))
    backend.close()
    assert cuda.log[:3] == ["context", "engine", "runtime"]
    assert sorted(cuda.log[3:-1]) == ["device"] * 4 + ["pinned"] * 4
    assert cuda.log[-1] == "stream"
    backend.close()
    assert cuda.log[-1] == "stream"
    assert len(cuda.log) == 12
    with pytest.raises(ArtifactError, match=r"model\.engine: this backend is closed; load the artifact again"):
        backend.run(pixels(1, 4, 6, 3))
    assert cuda.stack == []


def test_what_nobody_closed_is_freed_when_it_is_dropped(make: Make, cuda: FakeCuda) -> None:
    backend = TensorRTBackend(make())
    backend.run(pixels(1, 4, 6, 3))
    del backend
    assert_nothing_left(cuda)
    assert cuda.log[0] == "context"


OTHER_PROCESS = """
import os, sys
from pathlib import Path
import pytest
sys.path.insert(0, str(Path(sys.argv[2]).parent))
import test_tensorrt as here
from autotimm.runtime import BackendUnavailableError
from autotimm.runtime.backends.tensorrt import TensorRTBackend

cuda = here.FakeCuda()
here.use(cuda, pytest.MonkeyPatch())
backend = TensorRTBackend(sys.argv[1])
images = here.pixels(1, 4, 6, 3)
backend.run(images)
backend._lock.acquire()  # as if another thread were at work
if sys.argv[3] == "fork":
    child = os.fork()
    if child == 0:
        for attempt in (lambda: backend.run(images), lambda: TensorRTBackend(sys.argv[1])):
            try:
                attempt()
            except BackendUnavailableError as error:
                print(error, flush=True)
        backend.close()
        del backend
        print("in the child:", cuda.log, flush=True)
        sys.exit()
    assert os.waitpid(child, 0)[1] == 0
backend._lock.release()
backend.run(images)
import atexit
atexit._run_exitfuncs()
print("at the end:", cuda.log[:3], len(cuda.memory), len(cuda.streams))
"""


@pytest.mark.parametrize("forked", ["fork", "no fork"])
def test_another_process_and_the_end_of_this_one(make: Make, forked: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", OTHER_PROCESS, str(make()), __file__, forked],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    lines = done.stdout.splitlines()
    assert done.stderr == ""
    assert lines.pop() == "at the end: ['context', 'engine', 'runtime'] 0 0"
    if forked == "fork":
        assert lines.pop() == "in the child: []"
        assert len(lines) == 2
        assert all("CUDA was started before this process was forked" in line for line in lines)
        assert all("get_context('spawn')" in line for line in lines)


def test_memory_that_runs_out(make: Make, pycuda: FakeCuda) -> None:
    backend = TensorRTBackend(make(BRIGHT))
    pycuda.fails_at = "mem_alloc"
    for _ in range(2):
        with pytest.raises(
            ArtifactError, match=r"model\.engine: CUDA failed: mem_alloc failed: out of memory; if memory"
        ):
            backend.run(pixels(30, 30, 3))
    pycuda.fails_at = ""
    np.testing.assert_array_equal(backend.run(pixels(30, 30, 3))["mask"], bright(pixels(30, 30, 3))["mask"])


@pytest.mark.parametrize("call", ["mem_alloc", "pagelocked_empty", "Stream"])
def test_nothing_is_left_of_an_engine_that_does_not_start(make: Make, pycuda: FakeCuda, call: str) -> None:
    pycuda.fails_at = call
    with pytest.raises(ArtifactError, match="could not be prepared to run: CUDA failed"):
        TensorRTBackend(make())
    assert_nothing_left(pycuda)
    assert pycuda.stack == []


def test_a_run_that_fails(make: Make, cuda: FakeCuda) -> None:
    backend = TensorRTBackend(make({**COLORS, "fails": True}))
    with pytest.raises(ArtifactError, match=r"model\.engine: TensorRT 10\.3\.0 failed: an illegal instruction$"):
        backend.run(pixels(1, 4, 6, 3))
    backend.close()
    assert_nothing_left(cuda)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"too_large": True}, "cannot prepare it to run (out of memory); if memory is short"),
        ({"refuses": True}, "refused the input [8, 4, 6, 3] (it did not say why)"),
        ({"inputs": {"images": ["bfloat16", [-1, 4, 6, 3]]}}, "its tensor images is DataType.BF16"),
        ({"inputs": {**COLORS["inputs"], "more": ["uint8", [1]]}}, "has 2 inputs, but an artifact of AutoTimm has one"),
        ({"outputs": {"probabilities": ["float32", [8, 4]]}}, "not those of its manifest"),
    ],
)
def test_engines_that_cannot_be_used(make: Make, pycuda: FakeCuda, change: dict[str, Any], said: str) -> None:
    with pytest.raises(ArtifactError) as caught:
        load(make({**COLORS, **change}))
    assert said in str(caught.value)
    assert str(caught.value).count("model.engine: ") == 1
    del caught
    assert_nothing_left(pycuda)


def test_a_side_that_tensorrt_does_not_know_is_held_to_the_manifest(make: Make, pycuda: FakeCuda) -> None:
    unknown = {**COLORS, "outputs": {**COLORS["outputs"], "scores": ["float32", [-1, -1]]}}
    assert TensorRTBackend(make({**unknown, "actual": {"scores": [8, 2]}})).outputs == MANIFESTS["colors"].outputs
    with pytest.raises(
        ArtifactError, match=r"output scores is \[8, 4\] .* but the manifest says scores float32\[batch, 2\]"
    ):
        TensorRTBackend(make({**unknown, "actual": {"scores": [8, 4]}}))


def test_threads_and_other_providers(make: Make, pycuda: FakeCuda) -> None:
    with pytest.raises(ConfigError, match="has no threads to set"):
        load(make(), threads=2)
    with pytest.raises(ConfigError, match=r"runs on a CUDA device, not on 'cpu'; leave the provider out"):
        load(make(), provider="cpu")
    assert load(make(), provider="cuda").backend.name.startswith("tensorrt")


def test_a_plan_by_its_other_name(tmp_path: Path, pycuda: FakeCuda) -> None:
    path = write_engine(tmp_path / "model.plan")
    assert sidecar_of(path).name == "model.plan.json"
    with load(path) as predictor:
        assert isinstance(predictor.predict(pixels(4, 6, 3)), Classification)


def test_a_version_compatible_engine_is_let_bring_its_runtime(make: Make, pycuda: FakeCuda) -> None:
    record = replace(RECORD, version="10.0.1", options={"version_compatible": True})
    backend = TensorRTBackend(make({**COLORS, "version_compatible": True}, record=record))
    assert_colors(backend.run(pixels(2, 4, 6, 3)), pixels(2, 4, 6, 3))


def test_an_engine_of_a_dla_goes_to_its_core(make: Make, pycuda: FakeCuda) -> None:
    record = replace(RECORD, options={"dla_core": 1})
    backend = TensorRTBackend(make({**COLORS, "dla_core": 1}, record=record))
    assert_colors(backend.run(pixels(2, 4, 6, 3)), pixels(2, 4, 6, 3))
