"""Engines of TensorRT and TensorRT-RTX (``.engine``, ``.plan``) on a CUDA device.

Threads share one execution context, one after the other: a context for each would take the memory of a network for
each, and one run fills the device. In a forked process CUDA does not work; a run there is an error, and nothing is
freed.
"""

from __future__ import annotations

import os
import threading
import weakref
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autotimm.runtime.backends.cuda_buffers import FORKED, Buffer, Device, byte_count, never_destroy, open_device
from autotimm.runtime.backends.tensorrt_checks import check_device, check_record, rebuild
from autotimm.runtime.backends.tensorrt_engine import Shape, TensorRTEngine
from autotimm.runtime.backends.tensorrt_library import import_tensorrt
from autotimm.runtime.errors import ArtifactError, BackendUnavailableError, ConfigError, one_line
from autotimm.runtime.files import check_file
from autotimm.runtime.manifest import Manifest
from autotimm.runtime.sidecar import EngineRecord, read_sidecar

PROVIDER = "cuda"
"""The one provider that runs an engine; which device it is, ``CUDA_VISIBLE_DEVICES`` says."""


class TensorRTBackend:
    """One engine on the first CUDA device, behind :class:`autotimm.runtime.backends.Backend`.

    Inputs and outputs have their places in pinned and in device memory from the beginning: for the largest batch of the
    profile, and for images of any size at the size that the engine was tuned for, growing with the images.

    Args:
        path: the plan; its manifest lies beside it as ``NAME.engine.json``.
        provider: ``cuda``.
        threads: must be ``None``; an engine has no threads on the host.

    Raises:
        ConfigError: another provider, or a number of threads.
        ArtifactError: the engine or the file beside it is missing or damaged, or the engine was built by another
            version or for another device.
        BackendUnavailableError: no TensorRT, no CUDA, no device, or a process that was forked from one that used them.
    """

    def __init__(self, path: str | os.PathLike[str], *, provider: str = PROVIDER, threads: int | None = None) -> None:
        self._path = Path(path)
        if provider != PROVIDER:
            raise ConfigError(
                f"{self._path}: an engine runs on a CUDA device, not on {provider!r}; leave the provider out, or "
                "run the ONNX artifact that the engine was built from"
            )
        if threads is not None:
            raise ConfigError(f"{self._path}: an engine runs on the GPU and has no threads to set; leave them out")
        text = read_manifest_text(self._path)
        manifest = Manifest.from_json(text, str(self._path))
        record = _record(manifest, self._path)
        trt = import_tensorrt(record.flavour, f"running {self._path.name}")
        check_record(self._path, record, trt.__version__)
        self._device: Device = open_device()
        check_device(self._path, record, self._device)
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._shapes: dict[str, Shape] = {}
        held = ExitStack()  # freed from the last to the first: the engine, its buffers, the stream
        self._close = weakref.finalize(self, _release, self._process, self._device, held)
        described = {spec.name: spec for spec in (*manifest.inputs, *manifest.outputs)}
        try:
            with self._device.current():
                self._stream = self._device.create_stream()
                held.callback(self._stream.free)
                memory = ExitStack()
                held.callback(memory.close)
                self._session = TensorRTEngine(trt, self._path, record, described)
                held.callback(self._session.release)
                self.inputs, self.outputs = self._session.inputs, self._session.outputs
                self._dtypes = {spec.name: spec.dtype for spec in (*self.inputs, *self.outputs)}
                self._buffers = {name: Buffer(self._device, 0) for name in self._dtypes}
                for buffer in self._buffers.values():
                    memory.callback(buffer.free)
                self._prepare(self._first_shape())
        except self._device.failures as error:
            self.close()
            raise ArtifactError(f"{self._path}: could not be prepared to run: {_cuda_failed(error)}") from error
        except BaseException:
            self.close()
            raise
        self.name = f"{record.flavour} {trt.__version__}, {self._device.name}, {self._device.library}"
        self.manifest_text: str | None = text

    def run(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.generic]]:
        """Run on ``[N, H, W, 3]`` RGB uint8, or the one image ``[H, W, 3]``, and return every output by name.

        Raises:
            ConfigError: a batch outside the engine's profile, or other numbers than bytes.
            ImageError: an image of any size that is outside the profile.
            ArtifactError: TensorRT or CUDA failed, or the backend is closed.
            BackendUnavailableError: the process was forked after the engine was loaded.
        """
        if os.getpid() != self._process:  # asked first: the lock may have been taken when the process was forked
            raise BackendUnavailableError(f"{self._path}: {FORKED}")
        with self._lock:
            if not self._close.alive:
                raise ArtifactError(f"{self._path}: this backend is closed; load the artifact again")
            try:
                with self._device.current():
                    return self._run(images)
            except self._device.failures as error:
                raise ArtifactError(f"{self._path}: {_cuda_failed(error)}") from error

    def close(self) -> None:
        """Release the engine and its memory, when the run of another thread is at its end; may be called twice."""
        if os.getpid() != self._process:
            self._close()
            return
        with self._lock:
            try:
                self._close()
            except self._device.failures as error:
                raise ArtifactError(f"{self._path}: {_cuda_failed(error)}") from error

    def _run(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.generic]]:
        given = self.inputs[0]
        if images.dtype != given.dtype:
            raise ConfigError(f"{self._path}: the input is {images.dtype}, but the engine takes {given.dtype}")
        if self._shapes.get(given.name) != images.shape:
            self._prepare(images.shape)
        self._buffers[given.name].array(images.shape, given.dtype)[...] = images
        try:
            self._buffers[given.name].upload(self._stream, images.shape, given.dtype)
            self._session.enqueue(self._stream.handle)
            for spec in self.outputs:
                self._buffers[spec.name].download(self._stream, self._shapes[spec.name], spec.dtype)
        finally:
            self._stream.synchronize()
        return {
            spec.name: self._buffers[spec.name].array(self._shapes[spec.name], spec.dtype).copy()
            for spec in self.outputs
        }

    def _prepare(self, shape: Shape) -> None:
        """Make everything ready for an input of this shape."""
        self._shapes = {}  # whatever fails below, the next run begins here again
        shapes = {self.inputs[0].name: shape, **self._session.set_shape(shape)}
        for tensor, buffer in self._buffers.items():
            buffer.reserve(byte_count(shapes[tensor], self._dtypes[tensor]))
            self._session.set_address(tensor, buffer.address)
        self._shapes = shapes

    def _first_shape(self) -> Shape:
        _, best, most = self._session.profile
        return best if len(most) == 3 else most  # [H, W, 3]: the largest image may be far from any that comes


def open_backend(path: Path, *, provider: str, threads: int | None) -> TensorRTBackend:
    """What :func:`autotimm.runtime.load` calls."""
    return TensorRTBackend(path, provider=provider, threads=threads)


def read_manifest_text(path: str | os.PathLike[str]) -> str:
    """The manifest that lies beside an engine, as JSON text; neither TensorRT nor a device is needed.

    Raises:
        ArtifactError: the engine, or the file beside it, is missing or damaged.
    """
    check_file(Path(path))
    return read_sidecar(path)


def _record(manifest: Manifest, path: Path) -> EngineRecord:
    if manifest.engine is None:
        raise ArtifactError(
            f"{path}: the manifest beside it is of another kind of artifact and says nothing about an engine; "
            f"{rebuild(path)}"
        )
    return manifest.engine


def _release(process: int, device: Device, held: ExitStack) -> None:
    """Free what is held; in a forked process, see that nothing of it is ever freed."""
    if os.getpid() != process:
        never_destroy(held)
        return
    with device.current():
        held.close()


def _cuda_failed(error: Exception) -> str:
    return (
        f"CUDA failed: {one_line(error)}; if memory is short, end other programs that use the GPU or give it fewer "
        "images at a time"
    )
