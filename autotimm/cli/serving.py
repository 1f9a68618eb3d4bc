"""``autotimm serve``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autotimm.cli.console import err, out, working
from autotimm.cli.options import Provider

if TYPE_CHECKING:
    from autotimm.runtime import Predictor
    from autotimm.serving import HostedModels, ModelSource

_LIMITS = "Limits"


def serve(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="Artifacts: FILE, NAME=FILE or NAME:VERSION=FILE; or a model repository laid out as Triton has it.",
        ),
    ],
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 is every one of this machine.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes any that is free.")] = 8000,
    provider: Provider = None,
    workers: Annotated[
        int, typer.Option(min=0, help="Requests worked on at a time; 0 is one a core.", show_default="one a core")
    ] = 0,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads of one run; 1 if absent: the workers share the cores.")
    ] = None,
    max_batch: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Waiting requests put into one run, where the artifact leaves the batch free; 1 on CPUs, else 8.",
        ),
    ] = None,
    queue: Annotated[int, typer.Option(min=1, help="Requests that may wait; more are answered 503.")] = 64,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds for a whole request.", rich_help_panel=_LIMITS)
    ] = 60.0,
    body_timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds for the body of a request.", rich_help_panel=_LIMITS)
    ] = 30.0,
    header_timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds for its headers.", rich_help_panel=_LIMITS)
    ] = 10.0,
    max_body: Annotated[
        float, typer.Option(min=0.001, help="MiB of a body, also when unpacked.", rich_help_panel=_LIMITS)
    ] = 64.0,
    max_megapixels: Annotated[
        float, typer.Option(min=0.001, help="Megapixels of an image.", rich_help_panel=_LIMITS)
    ] = 50.0,
    max_connections: Annotated[int, typer.Option(min=1, help="Connections at a time.", rich_help_panel=_LIMITS)] = 1000,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="AUTOTIMM_API_KEY",
            show_envvar=True,
            help="Ask for this key on every path but health and the page; better set in the environment, since "
            "others can see command lines.",
        ),
    ] = None,
    reload: Annotated[
        bool, typer.Option("--reload", help="Take a model file that is replaced, if it proves to be sound.")
    ] = False,
    log_requests: Annotated[bool, typer.Option(help="Log a line of JSON for each request.")] = True,
) -> None:
    """Serve artifacts over HTTP: Open Inference Protocol v2, a route for images, a page to try them on."""
    from autotimm.serving import ServerSettings, bind, create_app, read_sources, run_server
    from autotimm.serving.logs import log_to_stderr

    sources = read_sources(models)
    on_cpu = all(_runs_on_cpu(source.path, provider) for source in sources)
    settings = ServerSettings(
        workers=workers,
        queue_size=queue,
        max_batch=max_batch or (1 if on_cpu else 8),
        header_timeout=header_timeout,
        body_timeout=body_timeout,
        request_timeout=timeout,
        max_body_bytes=max(1, int(max_body * (1 << 20))),
        max_pixels=max(1, int(max_megapixels * 1e6)),
        max_connections=max_connections,
        api_key=api_key,
        reload_seconds=1.0 if reload else None,
    )
    with bind(host, port) as bound:
        hosted = _open(sources, provider, threads)
        app = create_app(hosted, settings)
        shown = f"[{host}]" if ":" in host else host
        url = f"http://{shown}:{bound.getsockname()[1]}"
        log_to_stderr(requests=log_requests)
        run_server(app, bound, lambda: _announce(hosted, url, settings.worker_count, api_key is not None))
    err.print("stopped")


def _open(sources: list[ModelSource], provider: str | None, threads: int | None) -> HostedModels:
    from autotimm.runtime import load
    from autotimm.serving import HostedModel, HostedModels

    def opener(path: Path) -> Predictor:
        return load(path, provider=provider, threads=threads or (1 if _runs_on_cpu(path, provider) else None))

    opened = []
    for source in sources:
        with working(f"loading {source.path}"):
            opened.append(HostedModel.open(source, opener))
    return HostedModels(opened)


def _runs_on_cpu(path: Path, provider: str | None) -> bool:
    return provider == "cpu" or (provider is None and path.suffix.lower() not in (".engine", ".plan"))


def _announce(models: HostedModels, url: str, workers: int, key: bool) -> None:
    """The addresses, and a line to copy."""
    for model in models:
        manifest = model.manifest
        out.print(
            f"{model.name}, version {model.version}: {manifest.task.replace('_', ' ')} with {manifest.architecture}, "
            f"{len(manifest.class_names)} classes, verification {manifest.verification.status}"
        )
    name = models.names[0]
    path = "/predict" if len(models.names) == 1 else f"/models/{name}/predict"
    header = ' -H "Authorization: Bearer $AUTOTIMM_API_KEY"' if key else ""
    out.print(f"page          {url}/")
    out.print(f"an image      curl{header} --data-binary @photo.jpg {url}{path}")
    out.print(f"inference v2  {url}/v2/models/{name}")
    out.print(f"metrics       {url}/metrics")
    out.print(f"serving on {url} with {workers} worker{'s' * (workers > 1)}; Ctrl-C or SIGTERM ends it")
    out.file.flush()
