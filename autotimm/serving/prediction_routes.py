"""An encoded image in, the JSON of ``autotimm predict --json`` out; and a page to try it on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from autotimm.runtime import Detections, Instances, Predictor, Result, SemanticMask, decode_image
from autotimm.runtime.drawing import color_of
from autotimm.runtime.mask_drawing import class_colors
from autotimm.runtime.mask_regions import MaskRegion
from autotimm.serving.bodies import unpacked
from autotimm.serving.hosting import HostedModel
from autotimm.serving.inference_routes import named
from autotimm.serving.metrics import MEDIA_TYPE, prometheus_text
from autotimm.serving.multipart import file_of_form
from autotimm.serving.request_errors import RequestError
from autotimm.serving.service import Service
from autotimm.serving.workers import Answer, Outputs, Prepared

FORMATS = ("JPEG", "PNG")
"""What is decoded for strangers; other decoders of Pillow are less widely tested."""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src blob:"


@dataclass(frozen=True)
class PredictOptions:
    """What the query of a request asks for."""

    min_score: float | None = None
    """Leave out predictions with a lower score."""
    top: int | None = None
    """Leave out all but the first so many."""
    masks: bool = False
    """Semantic segmentation: with the mask of each class, as RLE."""


class PredictionRoutes:
    """``/predict``, ``/models/NAME/predict``, the page and the metrics.

    Args:
        service: what is served.
    """

    def __init__(self, service: Service) -> None:
        self.service = service
        self._page = resources.files("autotimm.serving").joinpath("page.html").read_text(encoding="utf-8")

    def routes(self) -> list[Route]:
        """For a router."""
        return [
            Route("/predict", named("predict", self._predict), methods=["POST"]),
            Route("/models/{name}/predict", named("predict", self._predict), methods=["POST"]),
            Route("/models/{name}/versions/{version}/predict", named("predict", self._predict), methods=["POST"]),
            Route("/models", named("models", self._list), methods=["GET"]),
            Route("/metrics", named("metrics", self._metrics), methods=["GET"]),
            Route("/", named("page", self._show_page), methods=["GET"]),
        ]

    async def _show_page(self, request: Request) -> Response:
        return HTMLResponse(
            self._page, headers={"Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff"}
        )

    async def _metrics(self, request: Request) -> Response:
        return Response(prometheus_text(self.service), media_type=MEDIA_TYPE)

    async def _list(self, request: Request) -> Response:
        return JSONResponse([_described(model) for model in self.service.models])

    async def _predict(self, request: Request) -> Response:
        model = self._model(request)
        options = _options(request, model)
        kind = request.headers.get("content-type", "")
        encoding, settings = request.headers.get("content-encoding"), self.service.settings

        def prepare(body: bytes, predictor: Predictor) -> Prepared:
            content = unpacked(body, encoding, settings.max_body_bytes)
            if kind.lower().startswith("multipart/form-data"):
                content = file_of_form(content, kind)
            image = decode_image(content, max_pixels=settings.max_pixels, formats=FORMATS)
            pixels, placement = predictor.prepare(image)

            def finish(predictor: Predictor, outputs: Outputs) -> Answer:
                (result,) = predictor.finish(dict(outputs), [placement])
                text = json.dumps(_chosen(result, options), ensure_ascii=False, allow_nan=False)
                return Answer(text.encode(), headers={"X-Model": f"{model.name}:{model.version}"})

            return Prepared(pixels[None], finish)

        return await self.service.answer(request, model, prepare)

    def _model(self, request: Request) -> HostedModel:
        name = request.path_params.get("name")
        names = self.service.models.names
        if name is None and len(names) > 1:
            raise RequestError(400, f"several models are served here; post to /models/NAME/predict: {', '.join(names)}")
        return self.service.find(name or names[0], request.path_params.get("version"))


def _options(request: Request, model: HostedModel) -> PredictOptions:
    query = dict(request.query_params)
    try:
        min_score = float(query.pop("min_score")) if "min_score" in query else None
        top = int(query.pop("top")) if "top" in query else None
    except ValueError as error:
        raise RequestError(400, f"min_score and top must be numbers: {error}") from error
    masks = query.pop("masks", "false")
    if query:
        raise RequestError(400, f"there is no option {', '.join(query)}; known: min_score, top, masks")
    if min_score is not None and not 0 <= min_score <= 1:
        raise RequestError(400, f"min_score is {min_score}, but must be in 0..1")
    if top is not None and top < 1:
        raise RequestError(400, f"top is {top}, but must be at least 1")
    if masks not in ("true", "false"):
        raise RequestError(400, f"masks is {masks!r}, but must be true or false")
    if min_score is not None and model.manifest.task == "semantic_segmentation":
        raise RequestError(400, "the classes of pixels have no score; leave min_score out")
    return PredictOptions(min_score, top, masks == "true")


def _chosen(result: Result, options: PredictOptions) -> dict[str, Any]:
    if options.min_score is not None and isinstance(result, Detections | Instances):
        result = result.above(options.min_score)
    content = result.to_dict()
    predictions = content["predictions"]
    if options.masks and isinstance(result, SemanticMask):
        for prediction in predictions:
            region = MaskRegion.of(result.mask == prediction["label"])
            prediction["mask"] = region.rle(result.image_size)
    if options.min_score is not None:
        predictions = [entry for entry in predictions if entry["score"] >= options.min_score]
    content["predictions"] = predictions[: options.top]
    return content


def _described(model: HostedModel) -> dict[str, Any]:
    """For the page: what a model is, and its colours."""
    manifest = model.manifest
    names = manifest.class_names
    if manifest.task == "semantic_segmentation":
        colors = class_colors(names, manifest.palette)
    else:
        colors = [color_of(label) for label in range(len(names))]
    return {
        "name": model.name,
        "version": model.version,
        "task": manifest.task,
        "architecture": manifest.architecture,
        "classes": list(names),
        "colors": ["#{:02x}{:02x}{:02x}".format(*color) for color in colors],
        "verification": manifest.verification.status,
    }
