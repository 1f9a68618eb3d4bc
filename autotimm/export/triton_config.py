"""``config.pbtxt`` of a model of NVIDIA Triton Inference Server, from a manifest.

It is protobuf's text format (https://protobuf.dev/reference/protobuf/textformat-spec/) of Triton's ``ModelConfig``
(https://github.com/triton-inference-server/common/blob/main/protobuf/model_config.proto), written without protobuf.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from autotimm.runtime.errors import ConfigError
from autotimm.runtime.manifest import METADATA_KEY, Manifest, TensorSpec
from autotimm.runtime.sidecar import ProfileRange

LABELS = "labels.txt"
DEFAULT_MAX_BATCH = 8
_TYPES = {"uint8": "TYPE_UINT8", "int32": "TYPE_INT32", "int64": "TYPE_INT64", "float32": "TYPE_FP32"}
_ANY_SIZE = (480, 640)
"""Of the image to warm up on, where any size is taken."""


@dataclass(frozen=True)
class QueuePolicy:
    """What Triton does with requests that wait; past either limit a request is refused, not served late."""

    size: int = 64
    seconds: float = 30.0

    def __post_init__(self) -> None:
        if self.size < 1 or not self.seconds > 0:
            raise ConfigError(f"a queue of {self.size} requests and {self.seconds} seconds refuses every request")


def config_text(manifest: Manifest, name: str, *, max_batch: int | None = None, queue: QueuePolicy) -> str:
    """``config.pbtxt`` of a model.

    Where the batch is free, ``max_batch_size`` is more than 0, the dimensions leave the batch out, and waiting requests
    are put together without delay. Else Triton takes the tensors as the artifact has them, one request a run.

    Raises:
        ConfigError: a largest batch that the artifact does not take.
    """
    profile = profile_of_input(manifest)
    largest = _largest_batch(manifest, profile, max_batch)
    engine = manifest.engine is not None
    labelled = _labelled_output(manifest, batched=largest > 0)
    instances = 'KIND_GPU profile: [ "0" ]' if engine else "KIND_AUTO"
    lines = [
        "# Written by `autotimm export --format triton-repo`.",
        f"name: {_quoted(name)}",
        'platform: "tensorrt_plan"' if engine else 'backend: "onnxruntime"',
        f"default_model_filename: {_quoted('model.plan' if engine else 'model.onnx')}",
        f"max_batch_size: {largest}",
        *(_tensor("input", spec, batched=largest > 0) for spec in manifest.inputs),
        *(
            _tensor("output", spec, batched=largest > 0, labels=LABELS if spec.name == labelled else "")
            for spec in manifest.outputs
        ),
        "version_policy { latest { num_versions: 1 } }",
        f"instance_group [ {{ count: 1 kind: {instances} }} ]",
    ]
    if largest:
        lines += _batching(profile.best[0] if profile is not None else None, queue)
    lines += _warmup(manifest, profile, largest)
    facts: dict[str, str] = {
        "task": manifest.task,
        "precision": manifest.precision,
        "verification": manifest.verification.status,
    }
    if not engine:
        facts = {"intra_op_thread_count": "0", "inter_op_thread_count": "1", "execution_mode": "0", **facts}
    lines += [_parameter(key, value) for key, value in facts.items()]
    return "\n".join([*lines, manifest_line(manifest)]) + "\n"


def _largest_batch(manifest: Manifest, profile: ProfileRange | None, asked: int | None) -> int:
    """``max_batch_size``: 0 where Triton cannot choose the batch."""
    batch = manifest.inputs[0].shape[0]
    free = manifest.input_mode == "batch" and isinstance(batch, str)
    free = free and all(spec.shape and spec.shape[0] == batch for spec in (*manifest.inputs, *manifest.outputs))
    if free and profile is not None and profile.minimum[0] > 1:
        free = False  # Triton would run single images, which such an engine refuses
    if not free:
        if asked is not None:
            raise ConfigError(
                f"max_batch is {asked}, but the artifact takes {manifest.inputs[0]}; export it with --batch dynamic"
            )
        return 0
    limit = profile.maximum[0] if profile is not None else None
    if asked is not None and (asked < 1 or (limit is not None and asked > limit)):
        raise ConfigError(f"max_batch is {asked}, but must be at least 1" + (f" and at most {limit}" if limit else ""))
    return asked or min(DEFAULT_MAX_BATCH, limit or DEFAULT_MAX_BATCH)


def _batching(best: int | None, queue: QueuePolicy) -> list[str]:
    """Of an engine the batch that it is fastest at is preferred; ONNX Runtime has none."""
    return [
        "dynamic_batching {",
        *([f"  preferred_batch_size: [ {best} ]"] if best is not None and best > 1 else []),
        "  max_queue_delay_microseconds: 0",
        "  default_queue_policy {",
        "    timeout_action: REJECT",
        f"    default_timeout_microseconds: {round(queue.seconds * 1e6)}",
        "    allow_timeout_override: true",
        f"    max_queue_size: {queue.size}",
        "  }",
        "}",
    ]


def _warmup(manifest: Manifest, profile: ProfileRange | None, largest: int) -> list[str]:
    """Random images before the first request: one, and as many as a run may hold."""
    spec = manifest.inputs[0]
    if manifest.input_mode == "image":
        shape: tuple[int, ...] = tuple(profile.best) if profile is not None else (*_ANY_SIZE, 3)
        shape = tuple(side if isinstance(side, int) else free for side, free in zip(spec.shape, shape, strict=True))
    else:
        first = spec.shape[0] if isinstance(spec.shape[0], int) else profile.best[0] if profile is not None else 1
        shape = (first, *(int(side) for side in spec.shape[1:]))
    dims = shape[1:] if largest else shape
    return [
        f'model_warmup {{ name: "batch {size}" batch_size: {size} inputs {{ key: {_quoted(spec.name)} '
        f"value {{ data_type: {_type(spec)} dims: {_dims(dims)} random_data: true }} }} }}"
        for size in sorted({1, largest or 1})
    ]


def _tensor(kind: str, spec: TensorSpec, *, batched: bool, labels: str = "") -> str:
    shape = [side if isinstance(side, int) else -1 for side in spec.shape]
    sides = _dims(shape[1:] if batched else shape)
    if batched and len(shape) == 1:
        sides = "[ 1 ] reshape { shape: [ ] }"  # Triton takes no tensor without a dimension of its own
    label = f" label_filename: {_quoted(labels)}" if labels else ""
    return f"{kind} [ {{ name: {_quoted(spec.name)} data_type: {_type(spec)} dims: {sides}{label} }} ]"


def _labelled_output(manifest: Manifest, *, batched: bool) -> str | None:
    """The output whose places in a row are classes: what Triton's classification extension names.

    Without ``max_batch_size`` the extension takes all of the tensor for one row, so that only one image may be in it.
    """
    for spec in manifest.outputs:
        one_row = batched or spec.shape[:1] == (1,)
        if manifest.task == "classification" and spec.shape[1:] == (len(manifest.class_names),) and one_row:
            return spec.name
    return None


def profile_of_input(manifest: Manifest) -> ProfileRange | None:
    """The shapes that an engine takes; ``None`` of an ONNX artifact."""
    return manifest.engine.profile.get(manifest.inputs[0].name) if manifest.engine is not None else None


def _type(spec: TensorSpec) -> str:
    if spec.dtype not in _TYPES:
        raise ConfigError(f"Triton's config has no type for {spec}")
    return _TYPES[spec.dtype]


def _dims(sides: Sequence[int]) -> str:
    return f"[ {', '.join(str(side) for side in sides)} ]"


def _parameter(key: str, value: str) -> str:
    return f"parameters {{ key: {_quoted(key)} value {{ string_value: {_quoted(value)} }} }}"


def manifest_line(manifest: Manifest) -> str:
    """The line of the config that holds the manifest."""
    return _parameter(METADATA_KEY, json.dumps(json.loads(manifest.to_json()), separators=(",", ":")))


def _quoted(text: str) -> str:
    """A string of the text format; what is not printable ASCII as octal escapes of its UTF-8."""
    plain = {ord("\\"): "\\\\", ord('"'): '\\"'}
    return (
        '"'
        + "".join(plain.get(byte) or (chr(byte) if 32 <= byte < 127 else f"\\{byte:03o}") for byte in text.encode())
        + '"'
    )


def label_lines(manifest: Manifest) -> str:
    """A line for each class, in order."""
    return "".join(" ".join(name.split()) + "\n" for name in manifest.class_names)
