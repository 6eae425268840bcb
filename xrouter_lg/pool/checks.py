"""Is a card's value one that it can have? Each error names the card, the field and the fix."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from xrouter_lg.errors import PoolError

# A key pasted where a variable's name belongs: a known prefix, or too motley for a name.
_LOOKS_LIKE_KEY = re.compile(
    r"^(sk|pk|rk|gsk|xai|hf|r8|ghp|nvapi|lsv2|AIza|AKIA|pplx)_?[A-Za-z0-9_]{16,}$"
    r"|^(?=.*[a-z])(?=.*[A-Z])(?=.*\d)\w{20,}$"
)
_SECRET_PARAM = re.compile(r"api_?key$|secret|password|credential|access_key|^token$|auth_token$")


def check_number(
    where: str,
    name: str,
    value: object,
    *,
    whole: bool,
    least: float,
    optional: bool = False,
) -> None:
    if value is None and optional:
        return
    kind: type | tuple[type, ...] = int if whole else (int, float)
    if (
        isinstance(value, bool) or not isinstance(value, kind) or not least <= value < math.inf  # type: ignore[operator]
    ):
        unit = "a whole number" if whole else "a number"
        raise PoolError(f"{where}: {name} is {value!r}; it must be {unit}, at least {least:g}")


def check_url(where: str, url: object) -> None:
    try:
        parts = urlsplit(url) if isinstance(url, str) and not re.search(r"\s", url) else None
        good = parts is not None and parts.scheme in ("http", "https") and bool(parts.hostname)
        good = good and (parts is None or parts.port is None or parts.port > 0)
    except ValueError:
        parts, good = None, False
    if parts is not None and "@" in parts.netloc:
        raise PoolError(
            f"{where}: base_url holds a user name or password; put the key into an environment "
            "variable and its name into api_key_env"
        )
    if not good:
        raise PoolError(
            f"{where}: base_url is {url!r}; it must be a URL that starts with http:// or https://"
        )


def is_variable(name: object) -> bool:
    return (
        isinstance(name, str)
        and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) is not None
        and _LOOKS_LIKE_KEY.match(name) is None
    )


def checked_params(where: str, params: object) -> dict[str, Any]:
    if not isinstance(params, Mapping):
        raise PoolError(f"{where}: params must be a mapping, not {type(params).__name__}")
    for key in params:
        if not isinstance(key, str):
            raise PoolError(f"{where}: params has the key {key!r}; its keys must be text")
        if _SECRET_PARAM.search(key.lower()):
            raise PoolError(
                f"{where}: params.{key} would put a secret into the pool; put it into an "
                "environment variable and the variable's name into api_key_env"
            )
    return dict(params)
