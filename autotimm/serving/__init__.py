"""Artifacts over HTTP: the Open Inference Protocol, a route for images, and a page; needs the extra ``serve``."""

from autotimm.serving.app import create_app
from autotimm.serving.hosting import HostedModel, HostedModels
from autotimm.serving.server import bind, run_server
from autotimm.serving.settings import ServerSettings
from autotimm.serving.sources import ModelSource, read_sources

__all__ = [
    "HostedModel",
    "HostedModels",
    "ModelSource",
    "ServerSettings",
    "bind",
    "create_app",
    "read_sources",
    "run_server",
]
