"""A model repository in a real tritonserver: its answers are those of ``autotimm.runtime`` and ``autotimm serve``.

``nvidia-pytriton`` carries a tritonserver that starts without a GPU and has the python backend only. Triton takes a
python backend under any name, so that twenty lines of ``onnxruntime.InferenceSession``, named ``onnxruntime``, stand in
for the backend of a full installation; the repository is loaded unchanged. In an environment of its own:

    pip install nvidia-pytriton 'numpy<2' 'tritonclient[http,grpc]' onnxruntime starlette uvicorn httptools typer rich
    PYTHONPATH=. python tests/integration/triton_real.py REPOSITORY PHOTO...

libpython of this interpreter must be where the loader looks, or in LD_LIBRARY_PATH.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import numpy as np

from autotimm.runtime import load, read_manifest

SHIM = """
import json, sys
sys.path[:0] = {paths!r}
from pathlib import Path
import numpy as np
import onnxruntime
import triton_python_backend_utils as pb


class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config):
        return config

    def initialize(self, args):
        config = json.loads(args["model_config"])
        folder = Path(args["model_repository"]) / args["model_version"]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(folder / config["default_model_filename"]), options)
        self.inputs = [entry["name"] for entry in config["input"]]
        self.outputs = [entry["name"] for entry in config["output"]]
        self.batched = config["max_batch_size"] > 0

    def execute(self, requests):
        given = [[pb.get_input_tensor_by_name(r, n).as_numpy() for n in self.inputs] for r in requests]
        answers = []
        if self.batched:  # one run for all that Triton gathered, as its own backend does
            sizes = [len(values[0]) for values in given]
            joined = [np.concatenate(values) for values in zip(*given)]
            found = self.session.run(self.outputs, dict(zip(self.inputs, joined)))
            cuts = np.cumsum(sizes)[:-1]
            answers = list(zip(*(np.split(values, cuts) for values in found)))
        else:
            answers = [self.session.run(self.outputs, dict(zip(self.inputs, values))) for values in given]
        return [
            pb.InferenceResponse([pb.Tensor(n, np.ascontiguousarray(v)) for n, v in zip(self.outputs, values)])
            for values in answers
        ]
"""


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


@contextmanager
def process(command: list[str], url: str, log: Path, environment: dict[str, str]) -> Iterator[None]:
    """A server, until it says it is ready, and to the end of the block."""
    with log.open("wb") as file:
        started = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
        try:
            for _ in range(600):
                if started.poll() is not None:
                    break
                try:
                    urllib.request.urlopen(url, timeout=1)
                    break
                except OSError:
                    time.sleep(0.1)
            else:
                raise SystemExit(f"not ready in time:\n{log.read_text(errors='replace')}")
            if started.poll() is not None:
                raise SystemExit(f"ended with {started.returncode}:\n{log.read_text(errors='replace')}")
            yield
        finally:
            started.terminate()
            started.wait(30)


@contextmanager
def tritonserver(repository: Path, work: Path) -> Iterator[str]:
    """The address of a real tritonserver on a repository, with strict configurations."""
    packages = Path(str(distribution("nvidia-pytriton").locate_file("")))
    bundled = packages / "pytriton" / "tritonserver"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    backends = work / "backends"
    shutil.copytree(bundled / "backends", backends)
    shutil.copy2(bundled / "python_backend_stubs" / version / "triton_python_backend_stub", backends / "python")
    (backends / "onnxruntime").mkdir()
    (backends / "onnxruntime" / "model.py").write_text(SHIM.format(paths=[str(packages)]), encoding="utf-8")
    http = free_port()
    libraries = [str(packages / "nvidia_pytriton.libs"), str(sysconfig.get_config_var("LIBDIR"))]
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": os.pathsep.join([*libraries, os.environ.get("LD_LIBRARY_PATH", "")]),
        "PYTHONHOME": sys.base_prefix,
    }
    command = [str(bundled / "bin" / "tritonserver"), f"--model-repository={repository}"]
    command += [f"--backend-directory={backends}", "--disable-auto-complete-config", f"--http-port={http}"]
    command += ["--http-address=127.0.0.1", "--allow-grpc=false", "--allow-metrics=false"]
    with process(command, f"http://127.0.0.1:{http}/v2/health/ready", work / "triton.log", environment):
        yield f"127.0.0.1:{http}"


@contextmanager
def autotimm_serve(repository: Path, work: Path) -> Iterator[str]:
    """The address of ``autotimm serve`` on the same repository."""
    port = free_port()
    command = [sys.executable, "-m", "autotimm", "serve", str(repository), "--port", str(port)]
    with process(command, f"http://127.0.0.1:{port}/v2/health/ready", work / "serve.log", dict(os.environ)):
        yield f"127.0.0.1:{port}"


def ask(client: Any, model: str, pixels: np.ndarray, name: str, outputs: list[str]) -> dict[str, np.ndarray]:
    import tritonclient.http as triton

    tensor = triton.InferInput(name, list(pixels.shape), "UINT8")
    tensor.set_data_from_numpy(pixels)
    answer = client.infer(model, [tensor])
    return {output: answer.as_numpy(output) for output in outputs}


def top(client: Any, model: str, pixels: np.ndarray, name: str) -> list[str]:
    """The best two classes by Triton's classification extension, with the names from labels.txt."""
    import tritonclient.http as triton

    tensor = triton.InferInput(name, list(pixels.shape), "UINT8")
    tensor.set_data_from_numpy(pixels)
    wanted = triton.InferRequestedOutput("probabilities", class_count=2)
    found = client.infer(model, [tensor], outputs=[wanted]).as_numpy("probabilities")
    return [text.decode().split(":", 1)[1] for text in found.ravel()]


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def compare(repository: Path, photos: list[Path], clients: dict[str, Any]) -> bool:
    """Every photograph, and all of them at a time, through both servers and the runtime."""
    import tritonclient.http as triton

    good = True
    for model in sorted(path.name for path in repository.iterdir() if (path / "config.pbtxt").is_file()):
        version = max(int(path.name) for path in (repository / model).iterdir() if path.name.isdigit())
        artifact = repository / model / str(version) / "model.onnx"
        manifest = read_manifest(artifact)
        names, name = [spec.name for spec in manifest.outputs], manifest.inputs[0].name
        with load(artifact, threads=1) as predictor:
            prepared = [predictor.prepare(photo) for photo in photos]
            inputs = [predictor.as_input([pixels]) for pixels, _ in prepared]
            expected = [predictor.run(pixels) for pixels in inputs]
            results = [
                predictor.finish(outputs, [placement])[0].to_dict()
                for outputs, (_, placement) in zip(expected, prepared, strict=True)
            ]
            for server, client in clients.items():
                worst, same, strays = 0.0, 0, 0
                waiting = []
                for pixels, wanted, (_, placement), result in zip(inputs, expected, prepared, results, strict=True):
                    got = ask(client, model, pixels, name, names)
                    worst = max([worst, *(float(np.abs(got[n] - wanted[n]).max()) for n in names)])
                    same += predictor.finish(got, [placement])[0].to_dict() == result
                    waiting.append((pixels, wanted))
                flying = []
                for pixels, wanted in waiting * 4:
                    tensor = triton.InferInput(name, list(pixels.shape), "UINT8")
                    tensor.set_data_from_numpy(pixels)
                    flying.append((client.async_infer(model, [tensor]), wanted))
                for request, wanted in flying:
                    answer = request.get_result()
                    strays += any(np.abs(answer.as_numpy(n) - wanted[n]).max() > 1e-3 for n in names)
                counted = client.get_inference_statistics(model, str(version))["model_stats"][0]
                config = client.get_model_config(model)
                labels = top(client, model, inputs[0], name) if "probabilities" in names else []
                say(
                    f"{model} on {server}: {same} of {len(photos)} results equal, largest difference {worst:g}; "
                    f"{len(flying)} at a time, {strays} differ; max_batch_size {config['max_batch_size']}, "
                    f"{counted['inference_count']} images in {counted['execution_count']} runs {labels or ''}"
                )
                good = good and same == len(photos) and not strays
    return good


def main() -> None:
    import tritonclient.http as triton

    repository, photos = Path(sys.argv[1]).resolve(), [Path(name) for name in sys.argv[2:]]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        with tritonserver(repository, work) as real, autotimm_serve(repository, work) as ours:
            clients = {
                "tritonserver": triton.InferenceServerClient(real, concurrency=8),
                "autotimm serve": triton.InferenceServerClient(ours, concurrency=8),
            }
            say(f"tritonserver {clients['tritonserver'].get_server_metadata()['version']}")
            good = compare(repository, photos, clients)
            for client in clients.values():
                client.close()
    raise SystemExit(0 if good else 1)


if __name__ == "__main__":
    main()
