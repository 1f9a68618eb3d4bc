"""Networks in half precision, around which everything stays float32."""

from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper

from autotimm.dense import DenseOutputs
from autotimm.export import export_to_onnx
from autotimm.export.graph.half import find_overflow, in_half
from autotimm.export.stages import stage_of
from autotimm.models import ImageClassifier
from autotimm.runtime.errors import ExportError, VerificationError


class Dense(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Conv2d(3, 8, 1)

    def forward(self, pixels: torch.Tensor) -> tuple[DenseOutputs, list[torch.Tensor]]:
        assert pixels.dtype == self.layer.weight.dtype
        found = self.layer(pixels).flatten(2)
        return DenseOutputs(found[:, :4], found[:, 4:5], found[:, 5:]), [found]


def test_only_the_copy_is_in_half() -> None:
    network = Dense()
    pixels = torch.rand(1, 3, 4, 4)
    half = in_half(network, pixels)
    (outputs, levels), (expected, _) = half(pixels), network(pixels)
    assert isinstance(outputs, DenseOutputs)
    assert {value.dtype for value in (*outputs, *levels)} == {torch.float32}
    assert half.layer.weight.dtype == torch.float16
    assert network.layer.weight.dtype == torch.float32
    torch.testing.assert_close(outputs.boxes, expected.boxes, atol=2e-3, rtol=2e-3)
    assert not torch.equal(outputs.boxes, expected.boxes)


def test_a_weight_that_half_cannot_hold_is_named() -> None:
    network = Dense()
    with torch.no_grad():
        network.layer.bias[2] = 1e6
    with pytest.raises(ExportError, match=r"layer\.bias holds 1e\+06, but float16 ends at 65504"):
        in_half(network, torch.rand(1, 3, 4, 4))


def test_a_layer_that_overflows_is_named() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    pixels = torch.ones(1, 2)
    assert find_overflow(network, lambda: [network(pixels)]) == ""
    with torch.no_grad():
        network[1].weight.fill_(6e4)
        network[0].weight.fill_(1.0)
    assert find_overflow(network, lambda: [network(pixels)]).startswith("1 gives values up to ")


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext"])
def test_the_graph_is_half_as_large_and_gives_the_same(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = ImageClassifier(name, 5, pretrained=False)
    single = export_to_onnx(model, tmp_path / "single.onnx", size=(160, 160) if name == "test_vit" else (64, 64))
    half = export_to_onnx(model, tmp_path / "half.onnx", precision="fp16", size=single.preprocess.size)
    assert half.verification.status == "passed"
    assert (single.precision, half.precision) == ("fp32", "fp16")
    graph = onnx.load(tmp_path / "half.onnx").graph
    weights = {node.input[1] for node in graph.node if node.op_type in ("Conv", "Gemm", "MatMul") and node.input[1:]}
    kinds = {value.data_type for value in graph.initializer if value.name in weights}
    assert kinds == {TensorProto.FLOAT16}
    sizes = [
        sum(numpy_helper.to_array(v).nbytes for v in onnx.load(tmp_path / f).graph.initializer)
        for f in ("half.onnx", "single.onnx")
    ]
    assert 0.48 < sizes[0] / sizes[1] < 0.55
    assert {stage_of(node.name) for node in graph.node if node.op_type == "Softmax"} >= {"postprocess"}
    assert next(model.parameters()).dtype == torch.float32


def test_overflow_fails_the_verification_by_name(tmp_path: Path) -> None:
    model = ImageClassifier("test_resnet", 5, pretrained=False)
    with torch.no_grad():
        for layer in (model.network.conv1[0], model.network.conv1[3]):
            layer.weight.mul_(1e4)  # fine in float32; and as weights in float16
    with pytest.raises(
        VerificationError, match=r"conv1\.\d gives values up to .*float16 ends at 65504: export with fp32"
    ):
        export_to_onnx(model, tmp_path / "half.onnx", precision="fp16", size=(32, 32))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["half.rejected.json", "half.rejected.onnx"]
