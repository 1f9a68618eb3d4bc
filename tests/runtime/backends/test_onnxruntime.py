import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest

from autotimm.runtime import ArtifactError, BackendUnavailableError, ConfigError, TensorSpec, load
from autotimm.runtime.backends.onnxruntime import PROVIDERS, OnnxRuntimeBackend

Maker = Callable[..., Path]


def test_what_the_backend_says_about_itself(detector: Maker) -> None:
    backend = OnnxRuntimeBackend(detector(), threads=2)
    assert backend.name == f"onnxruntime {onnxruntime.__version__}, cpu, 2 threads"
    assert backend.inputs == (TensorSpec("images", "uint8", ("batch", 32, 48, 3)),)
    assert backend.outputs[1] == TensorSpec("boxes", "float32", ("batch", 3, 4))
    assert OnnxRuntimeBackend(detector()).name.endswith("cpu, default threads")


def test_run_gives_every_output_by_name(detector: Maker) -> None:
    outputs = OnnxRuntimeBackend(detector()).run(np.full((2, 32, 48, 3), 255, np.uint8))
    assert list(outputs) == ["num_detections", "boxes", "scores", "labels"]
    assert outputs["num_detections"].tolist() == [[2], [2]]
    assert outputs["labels"].dtype == np.int32


def test_threads_are_given_to_the_session(detector: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    real = onnxruntime.InferenceSession

    def spy(path: str, options: onnxruntime.SessionOptions, providers: list[str]) -> onnxruntime.InferenceSession:
        seen.append(options.intra_op_num_threads)
        return real(path, options, providers=providers)

    monkeypatch.setattr(onnxruntime, "InferenceSession", spy)
    for threads in (1, 3, None):
        OnnxRuntimeBackend(detector(), threads=threads)
    assert seen == [1, 3, 0]  # 0: ONNX Runtime's own choice


@pytest.mark.parametrize("threads", [0, -2])
def test_fewer_than_one_thread(detector: Maker, threads: int) -> None:
    with pytest.raises(ConfigError, match="must be at least 1"):
        load(detector(), threads=threads)


def test_an_unknown_provider(detector: Maker) -> None:
    with pytest.raises(ConfigError, match=r"no provider 'gpu'; did you mean cpu\?.* Known: coreml, cpu, cuda"):
        load(detector(), provider="gpu")


@pytest.mark.parametrize(("provider", "package"), [("cuda", "autotimm-deploy[gpu]"), ("openvino", "openvino")])
def test_a_provider_that_is_not_there_is_an_error(
    detector: Maker, provider: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(BackendUnavailableError) as caught:
        load(detector(), provider=provider)
    assert f"no provider {provider!r}, only cpu: pip install" in str(caught.value)
    assert package in str(caught.value)
    assert "pip uninstall onnxruntime" in str(caught.value)


@pytest.mark.parametrize("provider", [name for name in PROVIDERS if name != "cpu"])
def test_a_provider_that_the_session_drops_is_an_error(
    detector: Maker, provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: [PROVIDERS[provider][0], "CPUExecutionProvider"]
    )
    # What ONNX Runtime does where a provider's libraries do not load: a warning, and the CPU.
    monkeypatch.setattr(
        onnxruntime, "InferenceSession", lambda path, options, providers: real(path, options, ["CPUExecutionProvider"])
    )
    with pytest.raises(BackendUnavailableError, match="could not start its provider"):
        load(detector(), provider=provider)


def test_without_onnxruntime(detector: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    path = detector()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BackendUnavailableError, match=r"onnxruntime.*pip install 'autotimm-deploy\[cpu\]'"):
        load(path)


def test_a_closed_backend_says_so(detector: Maker) -> None:
    with load(detector()) as predictor:
        predictor.predict(np.zeros((5, 5, 3), np.uint8))
    with pytest.raises(ArtifactError, match="is closed"):
        predictor.predict(np.zeros((5, 5, 3), np.uint8))
    predictor.close()


def test_a_failing_run_is_one_line(detector: Maker) -> None:
    backend = OnnxRuntimeBackend(detector())
    with pytest.raises(ArtifactError, match="ONNX Runtime failed: ") as caught:
        backend.run(np.zeros((1, 8, 8, 3), np.uint8))
    assert "\n" not in str(caught.value)


def test_an_operator_that_this_runtime_lacks(detector: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> SimpleNamespace:
        raise RuntimeError("[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : Could not find\nan implementation " + "x" * 900)

    monkeypatch.setattr(onnxruntime, "InferenceSession", fail)
    with pytest.raises(ArtifactError) as caught:
        OnnxRuntimeBackend(detector())
    assert "cannot load it: Could not find an implementation x" in str(caught.value)
    assert len(str(caught.value)) < 500
