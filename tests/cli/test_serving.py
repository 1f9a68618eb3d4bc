"""``autotimm serve`` as a shell starts it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from autotimm.runtime.pictures import generate

from .conftest import Run

posix = pytest.mark.skipif(sys.platform == "win32", reason="signals are other things there")


@contextmanager
def served(*arguments: object, env: dict[str, str] | None = None) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """A server of its own, and the lines it printed when it was ready."""
    command = [sys.executable, "-m", "autotimm", "serve", *map(str, arguments), "--port", "0"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **(env or {})}
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        lines: list[str] = []
        while not any(line.startswith("serving on ") for line in lines):
            line = process.stdout.readline()
            assert line, process.stderr.read()
            lines.append(line.rstrip())
        yield process, lines
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
        process.stdout.close()
        process.stderr.close()


@posix
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_what_is_printed_works(objects_artifact: Path, tmp_path: Path) -> None:
    Image.fromarray(generate(32, 48, 0)).save(tmp_path / "photo.jpg")
    with served(objects_artifact, "--workers", "1", env={"AUTOTIMM_API_KEY": "k"}) as (process, lines):
        assert lines[0] == "two, version 1: instance segmentation with two, 2 classes, verification not run"
        (curl,) = [line for line in lines if " curl " in line]
        done = subprocess.run(
            ["sh", "-c", curl.partition("image")[2].strip() + " --silent"],
            cwd=tmp_path,
            env={**os.environ, "AUTOTIMM_API_KEY": "k"},
            capture_output=True,
            check=True,
        )
        answer = json.loads(done.stdout)
        assert [entry["name"] for entry in answer["predictions"]] == ["dog", "cat"]
        assert answer["predictions"][0]["box"] == [16, 8, 32, 24]
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    logged = [json.loads(line) for line in errors.splitlines() if line.startswith("{")]
    assert [(line["event"], line["status"]) for line in logged] == [("request", 200)]
    assert errors.splitlines()[-1] == "stopped"


def test_a_port_in_use(run: Run, objects_artifact: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert (
            f"port {port} of 127.0.0.1 is in use; choose another with --port"
            in run("serve", objects_artifact, "--port", port).complaint
        )


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["nope.onnx"], "nope.onnx: No such file or directory"),
        (["model.ckpt"], "model.ckpt: not an artifact this version can run"),
        (["a:x=model.onnx"], "the version 'x' is not a whole number"),
        (["broken.onnx"], "broken.onnx"),
        (["broken.onnx", "--host", "no.such.host.invalid"], "--host no.such.host.invalid: is not the name"),
        (["broken.onnx", "--provider", "nope"], "there is no provider 'nope'"),
    ],
)
def test_what_cannot_be_served(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], complaint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.onnx").write_bytes(b"broken")
    (tmp_path / "model.ckpt").touch()
    assert complaint in run("serve", *arguments, "--port", "0").complaint
