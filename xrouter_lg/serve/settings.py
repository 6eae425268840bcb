"""What a server is told beside its pool: limits, and where things are kept."""

from __future__ import annotations

from dataclasses import dataclass, fields

from xrouter_lg.calls.chat_model import is_loopback
from xrouter_lg.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Limits of one server. Sizes are in bytes, times in seconds."""

    max_body_bytes: int = 20_000_000
    """Of a request's body: images ride in it as base64."""
    max_header_bytes: int = 32_768
    """Of all headers of a request together."""
    max_choices: int = 16
    """The highest ``n`` of a request: each choice is a request of its own to a worker."""
    body_timeout_s: float = 30.0
    """How long a client may take to send the headers of a request, and then its body."""
    read_timeout_s: float = 120.0
    """How long a client may leave an answer unread of which more waits than its connection holds.
    Then the connection is cut, and the call to the worker ends as if the client had left."""
    drain_s: float = 60.0
    """How long open requests may go on after the server was told to stop."""
    keep_alive_s: int = 75

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not value > 0:
                raise ConfigurationError(f"{field.name} is {value!r}; it must be above 0")


def check_exposure(host: str, *, has_keys: bool) -> None:
    """A server that others can reach spends somebody's money: it needs keys.

    Raises:
        ConfigurationError: an address beyond this machine, and no keys.
    """
    if has_keys or is_loopback(host):
        return
    raise ConfigurationError(
        f"host is {host!r}, which other machines can reach, and the server has no keys: whoever "
        "finds it spends your money. Make one with `xrouter keys add NAME --keys keys.db` and "
        "serve with --keys keys.db, or stay on 127.0.0.1"
    )
