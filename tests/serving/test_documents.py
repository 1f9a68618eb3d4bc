"""What docs/serving.md shows works, line by line."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from autotimm.runtime.pictures import generate

from .conftest import Running, serving, write_brightness

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
CURLS = re.findall(r"^curl .*$", PAGE, re.MULTILINE)
CODE = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a reader has there."""
    folder = tmp_path_factory.mktemp("reader")
    write_brightness(folder / "cells.onnx")
    Image.fromarray(generate(40, 60, 0)).save(folder / "photo.jpg")
    tensor = {"name": "images", "datatype": "UINT8", "shape": [1, 8, 8, 3], "data": [7] * 192}
    (folder / "request.json").write_text(json.dumps({"inputs": [tensor]}))
    return folder


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[Running]:
    with serving({"cells": folder / "cells.onnx"}) as running:
        yield running


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("line", CURLS)
def test_curl_lines(running: Running, folder: Path, line: str) -> None:
    words = shlex.split(line.replace(":8000", f":{running.port}"))
    done = subprocess.run(
        [words[0], "--silent", "--show-error", "--fail-with-body", *words[1:]],
        cwd=folder,
        capture_output=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    if "metrics" in line:
        assert b"nv_inference_count" in done.stdout
    elif "ready" not in line:
        content = json.loads(done.stdout)
        assert "error" not in content
        assert ("/predict" in line) == ("predictions" in content)


def test_the_client_of_triton(
    running: Running, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tritonclient.http", reason="needs tritonclient[http]")
    monkeypatch.chdir(folder)
    exec(compile(CODE[0].replace(":8000", f":{running.port}"), "docs/serving.md", "exec"), {})
    assert (
        json.loads(capsys.readouterr().out.replace("'", '"'))
        == running.post("/predict", (folder / "photo.jpg").read_bytes()).json
    )


def test_the_application(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    names: dict[str, object] = {}
    exec(compile(CODE[1], "docs/serving.md", "exec"), names)
    assert callable(names["app"])


def test_figures_are_of_the_defaults() -> None:
    """The table of limits says what ServerSettings says."""
    from autotimm.serving import ServerSettings

    known = ServerSettings()
    for text in (
        f"| headers | {known.header_timeout:g} s, {known.max_header_bytes >> 10} KiB |",
        f"| body | {known.body_timeout:g} s |",
        f"| whole request, waiting included | {known.request_timeout:g} s |",
        f"| body, as sent and as unpacked | {known.max_body_bytes >> 20} MiB |",
        f"| JSON of a request for inference | {known.max_json_bytes >> 20} MiB |",
        f"| bodies of all requests together | {known.max_pending_bytes >> 20} MiB |",
        f"| pixels of an image, by its header | {known.max_pixels // 10**6} million |",
        f"| connections | {known.max_connections:,} |",
        f"| a client that does not read its answer | {known.write_timeout:g} s |",
        f"{known.queue_size} places in the queue",
    ):
        assert text in PAGE, text
