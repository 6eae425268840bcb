"""Packages that an extra brings: imported when they are needed, and named when they are missing."""

from __future__ import annotations

import importlib
from typing import Any

from xrouter_lg.errors import MissingExtraError

EXTRAS = {
    "filelock": "cli",
    "rich": "cli",
    "typer": "cli",
    "tokenizers": "remote",
    "safetensors": "checkpoint",
    "numpy": "checkpoint",
    "torch": "torch",
    "transformers": "torch",
    "peft": "torch",
    "huggingface_hub": "torch",
    "psycopg": "postgres",
    "polars": "data",
    "scipy": "data",
    "scikit-learn": "data",
    "math-verify": "data",
    "jsonschema": "data",
    "openevals": "data",
    "jinja2": "data",
    "fastapi": "serve",
    "uvicorn": "serve",
    "httptools": "serve",
    "prometheus_client": "serve",
    "aiohttp": "serve",
    "trl": "train",
    "datasets": "train",
    "matplotlib": "train",
    "gguf": "torch",
}
"""The smallest extra that brings a package, by the name that pip knows it by."""

_DISTRIBUTIONS = {"math_verify": "math-verify", "sklearn": "scikit-learn"}


def need(module: str, purpose: str) -> Any:
    """Import a module by its name, so that the package itself depends on no extra. ``purpose``
    is the subject of the message: "a checkpoint in this process".

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise missing(module, purpose) from error


def missing(module: str, purpose: str) -> MissingExtraError:
    """The error for a module that is not installed: it names the extra that brings it, or for a
    package that only comes along with others the largest one."""
    name = module.partition(".")[0]
    package = _DISTRIBUTIONS.get(name, name)
    return MissingExtraError(package, EXTRAS.get(package, "train"), purpose)
