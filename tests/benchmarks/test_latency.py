from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from autotimm.benchmarks.latency import STAGES, LatencyReport, measure_latency
from autotimm.benchmarks.timing import Timing
from autotimm.models import ImageClassifier
from autotimm.models.torch_backend import TorchBackend, describe, input_specs, output_specs
from autotimm.runtime import ImageError, Placement, Predictor, Result, load
from autotimm.runtime.pictures import write_pictures

ROWS = (*STAGES, "predict", "end to end", "bare session")


def report(batch: int = 1, **medians: float) -> LatencyReport:
    stages = {name: Timing(medians.get(name.replace(" ", "_"), 1.0), 9.0, 9.0, 3) for name in ROWS}
    return LatencyReport("m.onnx", "engine", 1.0, 2.0, 3.0, 10, batch, stages)


def test_overhead_and_throughput_are_of_the_medians() -> None:
    measured = report(predict=6.0, bare_session=4.0, end_to_end=8.0)
    assert measured.overhead == 1.5
    assert measured.throughput == 125.0
    assert report(batch=4, end_to_end=8.0).throughput == 500.0
    content = measured.to_dict()
    assert (content["overhead"], content["throughput"]) == (1.5, 125.0)
    assert list(content["stages"]) == list(ROWS)
    assert content["stages"]["predict"] == {"p50": 6.0, "p90": 9.0, "p99": 9.0, "runs": 3}


def test_every_stage_is_measured_as_often_as_asked(classifier_artifact: Path, tmp_path: Path) -> None:
    images = write_pictures(tmp_path)
    with load(classifier_artifact) as predictor:
        measured = measure_latency(predictor, classifier_artifact, images, runs=7, load_ms=4.0)
    assert tuple(measured.stages) == ROWS
    for timing in measured.stages.values():
        assert timing.runs == 7
        assert 0 < timing.p50 <= timing.p90 <= timing.p99
    assert measured.model == str(classifier_artifact)
    assert measured.backend.startswith("onnxruntime")
    assert measured.file_mb == pytest.approx(classifier_artifact.stat().st_size / 1e6)
    assert measured.load_ms == 4.0
    assert measured.first_ms > 0
    assert 5 <= measured.warm_up_runs <= 60


@pytest.mark.parametrize("count", [1, 3])
def test_a_fixed_batch_is_of_different_images_and_all_are_finished(count: int, tmp_path: Path) -> None:
    """Stages and bare session run what predict() runs: a graph made for three images gets three."""
    seen: list[np.ndarray] = []
    finished: list[int] = []

    class Watched(Predictor):
        def run(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
            seen.append(pixels)
            return super().run(pixels)

        def finish(self, outputs: dict[str, np.ndarray], placements: Sequence[Placement]) -> list[Result]:
            finished.append(len(placements))
            return super().finish(outputs, placements)

    model = ImageClassifier("test_resnet", 2, pretrained=False)
    backend = TorchBackend(model)
    if count > 1:
        backend.inputs, backend.outputs = input_specs(model, count), output_specs(model, count)
    images = write_pictures(tmp_path)[:2]
    batch = count if count > 1 else "batch"
    measured = measure_latency(Watched(backend, describe(model, batch)), images[0], images, runs=2, load_ms=0.0)
    assert {len(pixels) for pixels in seen} == set(finished) == {count}
    assert measured.batch == measured.to_dict()["batch"] == count
    if count > 1:  # two images in turn: the first is the third again
        assert all((pixels[0] != pixels[1]).any() and (pixels[0] == pixels[2]).all() for pixels in seen)


def test_images_are_taken_in_turn(classifier_artifact: Path, tmp_path: Path) -> None:
    good = write_pictures(tmp_path)[:2]
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"")
    with load(classifier_artifact) as predictor:
        measure_latency(predictor, classifier_artifact, [*good, bad], runs=2, load_ms=0.0)
        with pytest.raises(ImageError, match=r"bad\.jpg"):
            measure_latency(predictor, classifier_artifact, [*good, bad], runs=3, load_ms=0.0)
