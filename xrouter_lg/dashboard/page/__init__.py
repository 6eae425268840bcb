"""The page: its parts put together, so that nothing is fetched but the figures."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from functools import cache
from pathlib import Path

_HERE = Path(__file__).parent


@cache
def page() -> tuple[str, str]:
    """The HTML, without any figure in it, and the Content-Security-Policy that lets run what is in
    it and nothing else."""
    style, script = (_HERE.joinpath(name).read_text("utf-8") for name in ("style.css", "app.js"))
    html = _HERE.joinpath("page.html").read_text("utf-8")
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src '{_hash(script)}'",
            f"style-src '{_hash(style)}'",
            "connect-src 'self'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )
    return html.replace("/*style*/", style).replace("/*script*/", script), policy


def _hash(text: str) -> str:
    return f"sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
