"""What a card's fields and a pool file's keys may be; every refusal names the place and the fix."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from xrouter_lg.errors import PoolError
from xrouter_lg.json_text import check_size, shown

# A key pasted where a variable's name belongs: a known prefix, or too motley for a name.
_LOOKS_LIKE_KEY = re.compile(
    r"^(sk|pk|rk|gsk|xai|hf|r8|ghp|nvapi|lsv2|AIza|AKIA|pplx)_?[A-Za-z0-9_]{16,}$"
    r"|^(?=.*[a-z])(?=.*[A-Z])(?=.*\d)\w{20,}$"
)
_SECRET_PARAM = re.compile(
    r"api[-_]?key$|secret|password|credential|access_key|^token$|auth_token$"
)
_QUANTILE = re.compile(r"p(\d{1,2})")
_MOST_VALUES = 50_000
"""Values in all that a pool file may hold, what an alias repeats counted as often."""


def refuse_unknown(data: Mapping[Any, Any], known: tuple[str, ...], where: str) -> None:
    for key in data:
        if key not in known:
            near = difflib.get_close_matches(shown(key).strip("'"), known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
            raise PoolError(f"{where}: unknown key {shown(key)}{hint}")


def check_values(where: str, values: Any) -> None:
    """Refuse what aliases, a circle or depth make larger than any pool before it is walked."""
    try:
        check_size(values, most=_MOST_VALUES)
    except ValueError as error:
        raise PoolError(
            f"{where}: {error}; write out what an alias (&, *) repeats, and leave out the rest"
        ) from None


def check_number(
    where: str,
    name: str,
    value: object,
    *,
    whole: bool,
    least: float,
    most: float,
    optional: bool = False,
) -> None:
    if value is None and optional:
        return
    kind: type | tuple[type, ...] = int if whole else (int, float)
    if (
        isinstance(value, bool) or not isinstance(value, kind) or not least <= value <= most  # type: ignore[operator]
    ):
        unit = "a whole number" if whole else "a number"
        raise PoolError(
            f"{where}: {name} is {shown(value)}; it must be {unit}, at least {least:g} and at "
            f"most {most:g}"
        )


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
            f"{where}: base_url is {shown(url)}; it must be a URL that starts with http:// or https://"
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
            raise PoolError(f"{where}: params has the key {shown(key)}; its keys must be text")
        if _SECRET_PARAM.search(key.lower()):
            raise PoolError(
                f"{where}: params.{key} would put a secret into the pool; put it into an "
                "environment variable and the variable's name into api_key_env"
            )
    return dict(params)


def hedge_after(value: Any) -> float | str | None:
    """After how long without a first token another card is asked beside: None for never, seconds,
    or a quantile of what the card has shown, such as ``"p95"``.

    Raises:
        ValueError: something else; says what it may be.
    """
    if value is None:
        return None
    if isinstance(value, str) and (found := _QUANTILE.fullmatch(value)) and int(found[1]) > 0:
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 10**6:
        return float(value)
    raise ValueError(
        "a number of seconds above 0, or a quantile of the card's own times to its first token, "
        "such as 'p95'"
    )
