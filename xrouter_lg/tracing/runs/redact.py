"""What never reaches the disk: credentials always, and whatever the user's redactor removes.

Anyone may send any text, so no pattern here takes longer than its text is long: repeats that could
begin again at every character are possessive, bounded, or held back by what stands before them.
Long texts are looked at window by window, since a pattern at work keeps all other threads waiting.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from xrouter_lg.json_text import from_json, to_json

MASK = "[redacted]"

_KEY_NAME = (
    r"(?:api|private|secret(?:[-_ ]?access)?|access|account|signing|encryption|subscription)"
    r"[-_ ]?key"
)
_WORD = r"(?:password|passwd|passphrase|secret)"
_BEARER = r"(?:access|refresh|auth|bearer|api|id|session|security|bot)[-_ ]?token"
_SECRET_KEY = re.compile(
    rf"(?:[\w.-]*{_KEY_NAME}|[\w-]*authorization|(?:set-)?cookie|[\w-]*{_WORD}|[\w-]*{_BEARER})\Z",
    re.IGNORECASE,
)
_KEY_ENDS = tuple(
    f'{end}":'
    for end in (
        *("key", "authorization", "cookie", "password", "passwd", "passphrase", "secret", "token"),
    )
)
"""Looked for first, in lower-cased text: ten times cheaper than parsing or a pattern."""

EMAIL = r"(?<![\w.+-])[\w.+-]++@[\w-]++(?:\.[\w-]++)++"
PHONE = (
    r"(?<![\w.+-])(?!\d{4}-\d\d-\d\d)(?=(?:[ .()+-]{0,4}\d){9})(?:\+\d{1,3}[ .-]?)?"
    r"\(?\d{2,4}\)?(?:[ .-]\d{2,4}){2,4}(?![\w-]|\.\d)"
    r"|(?<![\w+])\+\d{8,15}(?!\w)"
)
PAYMENT_CARD = r"(?<![\w.-])(?:\d{4}[ -]?){3}\d{1,7}(?![\w-])"
IBAN = r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}(?: ?[A-Z0-9]{1,3})?\b"
"""Patterns for :func:`redact_patterns`. They look for what is usually written so and don't mistake
ids and times for it; they are no proof that a text holds no personal data."""

_AT_START = r"(?:\b|(?<=\\[bfnrt])|(?<=\\u00[01][0-9A-Fa-f]))"
"""Where a word begins: JSON writes a line's end as a letter, ``\\nsk-...``."""

_TOKEN = re.compile(
    rf"(?i:{_AT_START}bearer\s{{1,64}}+)(?=[\w.~+/=-]{{0,256}}\d)[\w.~+/=-]{{8,}}+"
    rf"|{_AT_START}(?:sk-|sk_|rk_|pk_live_|gsk_|xai-|hf_|lsv2_|AIza|r8_|pplx-|fw_|nvapi-|csk-|tvly-"
    r"|npm_|dop_v1_|glpat-|gh[pousr]_|github_pat_|xox[abeoprs]-|xapp-|dapi|shpat_|SG\.|ya29\."
    r"|whsec_|pypi-|glsa_|sntrys_|sbp_|ntn_|shpss_|lin_api_|hvs\.|GOCSPX-|PMAK-|AGE-SECRET-KEY-"
    r"|ABSK(?=[\w+/]{0,64}\d))[\w.+/-]{16,}+"
    rf"|{_AT_START}(?:AKIA|ASIA)[A-Z0-9]{{16}}\b"
    r"|(?i:(?<=secret_access_key)|(?<=secretaccesskey)|(?<=accountkey)|(?<=sharedaccesskey))"
    r"[\\\"'\s]{0,8}[=:][\\\"'\s]{0,8}[\w+/]{24,}+={0,2}"
    r"|(?i:(?<=authorization)[\\\"'\s]{0,8}[=:][\\\"'\s]{0,8}basic\s{1,64}+)[\w+/=-]{8,}+"
    r"|(?<=hooks\.slack\.com/services/)[\w/]{16,}+"
    r"|(?:(?<=PASSWORD)|(?<=API_KEY)|(?<=SECRET)|(?<=SECRET_KEY)|(?<=TOKEN))=[\\\"']{0,2}"
    r"(?=[^\s\"'\\]{0,64}\d)(?=[^\s\"'\\]{0,64}[A-Za-z])[^\s\"'\\,;&}\]]{8,}+"
    r"|(?:(?<![\w-])|(?<=\\[bfnrt])|(?<=\\u00[01][0-9A-Fa-f]))eyJ[\w-]{8,}+\.eyJ[\w-]{8,}+\.[\w-]*+"
    r"|-----BEGIN [A-Z ]{0,64}PRIVATE KEY-----(?:(?!-----END )[^\"\\]|\\[^\"])*+"
    r"(?:-----END [A-Z ]{0,64}PRIVATE KEY-----)?"
)
"""Credentials by their issuer's prefix: model providers, clouds, code hosts, payment. None reaches
over the quote that ends a text in JSON."""

_TOKEN_STARTS = (
    *("bearer", "sk-", "xai-", "aiza", "pplx-", "nvapi-", "tvly-", "glpat-", "xox", "xapp-"),
    *("dapi", "sg.", "ya29.", "akia", "asia", "eyj", "private key", "pypi-", "hvs.", "gocspx-"),
    *("pmak-", "age-secret-key-", "absk", "authorization", "hooks.slack", "accountkey"),
    *(
        "accesskey",
        "secret_access_key",
        "password=",
        "api_key=",
        "secret=",
        "secret_key=",
        "token=",
    ),
)
"""What they begin with, lower-cased: looked for first, because a pattern costs ten times that."""

_ISSUED = re.compile(
    r"_(?=[A-Za-z0-9][\w.-]{15})(?:(?<=[sr]k_)|(?<=live_)|(?<=gh[pousr]_)|(?<=hf_)|(?<=lsv2_)"
    r"|(?<=r8_)|(?<=fw_)|(?<=npm_)|(?<=dop_v1_)|(?<=pat_)|(?<=whsec_)|(?<=glsa_)|(?<=sntrys_)"
    r"|(?<=sbp_)|(?<=ntn_)|(?<=shpss_)|(?<=lin_api_))"
)
"""The others have an underscore before something long. It is looked for first, which is quick."""

_WINDOW = 1 << 16
"""Characters that a pattern is given at a time: a few milliseconds."""
_LEAD = 1024
"""Characters by which every pattern knows whether it matches; how far it goes on does not count."""

_USERINFO = re.compile(r"(://)[^\s/@:\"']*+:[^\s/\"']{1,512}@")
"""User and password in a URL, in which an @ may stand too."""

_NESTED = re.compile(
    rf"(?i)((?:{_KEY_NAME}|authorization|cookie|{_WORD}|{_BEARER})"
    r"\\{1,15}\"\s{0,8}:\s{0,8}\\{1,15}\")(?!\[redacted\])[^\"\\]++(?:\\{1,15}[^\"\\]++)*+"
)
"""A value under a telling key in JSON that is a text in JSON, as a tool call's arguments are."""
_IN_NESTED = '\\":'

_ASSIGNED = re.compile(
    rf"(?i)((?:{_KEY_NAME}|authorization|{_WORD}|{_BEARER})\b"
    r"\\?['\"]?\s{0,64}+[=:]\s{0,64}+\\?['\"]?)(?!\[redacted\])"
    r"(?:(?:basic|bearer|token)\s{1,8}+)?[^\s'\"&,}{]{6,}+"
)
"""A name, or the end of one (``DB_PASSWORD=``), and what it is set to."""
# A word of the name (OPENAI_API_KEY_PROD), or its end (MYKEY); not KEYBOARD, not TOKENIZERS.
_SECRET_VARIABLE = re.compile(
    r"(?i)(?:\A|_)(?:api)?(?:key|token|secret|password|passwd|credential)s?(?:_|\Z)"
    r"|(?:key|token|secret|password)\Z"
)
_TELLING_VALUE = re.compile(r"(?=.*\d)(?=.*[A-Za-z]).{8,}\Z")


def names_secret(variable: str) -> bool:
    """Whether an environment variable holds a credential by its name."""
    return _SECRET_VARIABLE.search(variable) is not None


def known_secrets() -> tuple[str, ...]:
    """Values of environment variables that hold credentials by their name.

    They are removed wherever they occur, whatever they look like. Values under eight characters
    or without both a letter and a digit are left alone: ``not-needed`` is a usual key of local
    servers and an ordinary word, and digits alone may be a number.
    """
    return tuple(
        value
        for name, value in os.environ.items()
        if names_secret(name) and _TELLING_VALUE.match(value)
    )


def scrub_json(text: str, secrets: Sequence[str] = ()) -> str:
    """JSON text without credentials: values under telling keys, and ``secrets`` anywhere."""
    if _among(text.lower(), _KEY_ENDS):
        value = from_json(text)
        if _drop_secret_values(value):
            text = to_json(value)
    return _replace(text, secrets)


def scrub_tokens(text: str) -> str:
    """Text without what has the shape of a credential; JSON stays JSON."""
    text = without_userinfo(text)
    if _IN_NESTED in text:
        text = _replaced(_NESTED, rf"\g<1>{MASK}", text)
    return _replaced(_TOKEN, MASK, text) if _may_hold_token(text, text.lower()) else text


def without_userinfo(text: str) -> str:
    """Text whose URLs name no user with a password."""
    return _USERINFO.sub(rf"\g<1>{MASK}@", text) if "://" in text and "@" in text else text


def scrub_text(text: str, secrets: Sequence[str] = ()) -> str:
    """Free text (an error, a traceback) without credentials."""
    return _replaced(_ASSIGNED, rf"\g<1>{MASK}", scrub_tokens(_replace(text, secrets)))


def scrub_row(
    json_texts: Mapping[str, str | None], plain: Mapping[str, str], secrets: Sequence[str] = ()
) -> dict[str, str | None]:
    """All texts of a row without credentials. Most rows hold nothing suspicious: one look at all
    of them together is quicker than one at each."""
    texts: dict[str, str | None] = {**json_texts, **plain}
    joined = "\n".join(text for text in texts.values() if text)
    if not _suspicious(joined, secrets):
        return texts
    for name, text in texts.items():
        if text and name in plain:
            texts[name] = scrub_text(text, secrets)
        elif text:
            texts[name] = scrub_tokens(scrub_json(text, secrets))
    return texts


def _suspicious(text: str, secrets: Sequence[str]) -> bool:
    lowered = text.lower()
    return (
        _among(lowered, _KEY_ENDS)
        or _may_hold_token(text, lowered)
        or ("://" in lowered and "@" in lowered)
        or _IN_NESTED in text
        or any(secret in text for secret in secrets)
    )


def _may_hold_token(text: str, lowered: str) -> bool:
    return _among(lowered, _TOKEN_STARTS) or any(
        _ISSUED.search(text, at, at + _WINDOW + _LEAD) for at in range(0, len(text), _WINDOW)
    )


def _replaced(pattern: re.Pattern[str], by: str, text: str) -> str:
    """``pattern.sub(by, text)``, window by window where the text is long."""
    if len(text) <= _WINDOW:
        return pattern.sub(by, text)
    parts: list[str] = []
    kept = at = 0
    while at < len(text):
        stop = at + _WINDOW
        found = pattern.search(text, at, stop + _LEAD)
        if found is None or found.start() >= stop:
            at = stop
            continue
        whole = pattern.match(text, found.start())  # it may go on behind the window
        if whole is None:
            at = found.start() + 1
            continue
        parts += text[kept : whole.start()], whole.expand(by)
        kept = at = whole.end()
    return "".join([*parts, text[kept:]])


def scrub_value(value: Any, secrets: Sequence[str] = ()) -> Any:
    """A JSON value without credentials."""
    if isinstance(value, str):
        return scrub_text(value, secrets)
    text = to_json(value)
    return from_json(scrub_tokens(scrub_json(text, secrets)))


def redact_patterns(*patterns: str, replacement: str = MASK) -> Callable[[Any], Any]:
    """A redactor for :class:`Recorder`: every match of a regular expression in any string,
    dict keys included, becomes ``replacement``. A pattern of your own runs on what anyone sends:
    one that takes longer than its text is long, such as ``(a+)+b``, holds the process up."""
    compiled = [re.compile(pattern) for pattern in patterns]

    def redact(value: Any) -> Any:
        if isinstance(value, str):
            for pattern in compiled:
                value = pattern.sub(replacement, value)
            return value
        if isinstance(value, dict):
            return {redact(key): redact(item) for key, item in value.items()}
        if isinstance(value, list):
            return [redact(item) for item in value]
        return value

    return redact


def _among(lowered: str, parts: Sequence[str]) -> bool:
    for part in parts:  # noqa: SIM110  a generator takes twice as long
        if part in lowered:
            return True
    return False


def _replace(text: str, secrets: Sequence[str]) -> str:
    for secret in secrets:
        if secret in text:
            text = text.replace(secret, MASK)
    return text


def _drop_secret_values(value: Any) -> bool:
    """Mask in place; True if anything was masked. Only strings: a tool's schema may well
    describe an ``api_key`` argument, and that is no secret."""
    found = False
    if isinstance(value, dict):
        for key, item in value.items():
            if isinstance(item, str) and item and _SECRET_KEY.match(key):
                value[key] = MASK
                found = True
            elif isinstance(item, (dict, list)):
                found |= _drop_secret_values(item)
    elif isinstance(value, list):
        for item in value:
            if isinstance(item, (dict, list)):
                found |= _drop_secret_values(item)
    return found
