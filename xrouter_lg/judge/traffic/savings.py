"""What would the same requests have cost, and been worth, with one card for all of them?

Spend is what was paid, router included. What another card would have cost is not on the bill, so it
is estimated, request by request:

- where the card answered the request alone: what its calls cost;
- else what the card costs on requests of that kind and length (:mod:`xrouter_lg.value.costs`), from
  what was paid in the same traffic;
- where the log knows with what probability it drew its cards, and drew this one often enough,
  doubly robust: the same plus what was paid beyond it over that probability (Dudík et al. 2011,
  arXiv 1103.4601), which also undoes that a card was only sent requests of its own sort;
- where the card was never called: its price times the request's tokens, if a pool tells the price.

The scores of answers that were never given are estimated doubly robust, on the requests on which
the card could have been drawn, or not at all: then a difference in quality is unknown, and it is
said why. A request without an answer saves nothing: every
card is counted at what it cost. Intervals are 95 %, over threads, since their requests are alike;
each draw learns the costs anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from xrouter_lg.arrays import Floats
from xrouter_lg.checkpoints.aliases import alias_file, resolve_checkpoint
from xrouter_lg.checkpoints.folder import read_manifest
from xrouter_lg.judge.traffic.fixed_cards import FixedCard, FixedCards
from xrouter_lg.judge.traffic.logged import (
    LiveRequest,
    cost_weight_of,
    kinds_of,
    read_traffic,
    usual_feedback,
)
from xrouter_lg.pool.pool import ModelPool
from xrouter_lg.tracing.store.trace_store import TraceStore
from xrouter_lg.value.evidence import THUMB_ERROR
from xrouter_lg.value.model import CAUTION
from xrouter_lg.value.posterior import Posterior

PRODUCTION = Path("checkpoints/production")


@dataclass(frozen=True)
class Savings:
    """Spend against every fixed card."""

    requests: int
    threads: int
    first: float | None
    """Unix seconds."""
    last: float | None
    spent_usd: float
    """All that is known of these requests' bills, router included."""
    router_usd: float
    unpriced: int
    """Requests of unknown cost: not compared."""
    unanswered: int
    """Compared, and counted as no saving."""
    compared: int
    scored: int
    feedback: str | None
    """Its key."""
    cost_weight: float
    c_ref_usd: float | None
    """Its unit."""
    against: str | None
    """The card to compare with first."""
    against_because: str
    cards: tuple[FixedCard, ...]
    """The dearest first."""

    @property
    def best(self) -> FixedCard | None:
        """The card ``against``."""
        return next((one for one in self.cards if one.card == self.against), None)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def find_savings(
    requests: Sequence[LiveRequest],
    *,
    kinds: Sequence[str] | None = None,
    pool: ModelPool | None = None,
    c_ref_usd: float | None = None,
    cost_weight: float | None = None,
    feedback: str | None = None,
    thumb_error: float = THUMB_ERROR,
    draws: int = 200,
    seed: int = 0,
) -> Savings:
    """Compare requests with every card that they could have gone to. ``kinds`` tells each request's
    (a checkpoint reads them); ``pool`` gives prices of cards that were never called; ``feedback``
    is the key by which ``requests`` were scored, and ``thumb_error`` the share of scores taken to
    be wrong."""
    priced = [n for n, request in enumerate(requests) if request.usd is not None]
    compared = [requests[n] for n in priced]
    kind_of = None if kinds is None else [kinds[n] for n in priced]
    weight = cost_weight_of(requests) if cost_weight is None else cost_weight
    spent = [usd for r in requests if (usd := _known(r)) is not None]
    times = [request.record.started_at for request in requests]
    shared: dict[str, Any] = {
        "requests": len(requests),
        "threads": len({request.thread for request in requests}),
        "first": min(times, default=None),
        "last": max(times, default=None),
        "spent_usd": float(sum(spent)),
        "router_usd": float(sum(float(r.record.router_cost_usd or 0) for r in requests)),
        "unpriced": len(requests) - len(compared),
        "unanswered": sum(request.record.route is None for request in compared),
        "compared": len(compared),
        "scored": sum(request.score is not None for request in requests),
        "feedback": feedback,
        "cost_weight": weight,
    }
    log = FixedCards(compared, kind_of, pool, thumb_error)
    if not compared or not log.cards:
        because = "no request has a known cost" if requests else "no request"
        return Savings(
            **shared, c_ref_usd=c_ref_usd, against=None, against_because=because, cards=()
        )
    known = log.posterior()
    usd_M, by = log.mean_usd()
    unit = c_ref_usd
    if unit is None and known is not None:
        unit = float(np.nan_to_num(usd_M)[int((log.kind_share @ known.mean_F_M).argmax())]) or None
    against, because = _against(log, known, usd_M, weight, unit)
    cards = log.compare(by, None if unit is None else weight / unit, draws, seed)
    return Savings(**shared, c_ref_usd=unit, against=against, against_because=because, cards=cards)


def compared_with(
    requests: Sequence[LiveRequest],
    card: str | None,
    *,
    kinds: Sequence[str] | None = None,
    pool: ModelPool | None = None,
) -> tuple[Floats, Floats | None]:
    """[N] what each request has cost, NaN where unknown, and what it would have cost with the card;
    None where nobody knows. Sums are what they are for; see :meth:`FixedCards.usd_of`."""
    served = np.array([np.nan if r.usd is None else r.usd for r in requests])
    priced = [int(n) for n in np.flatnonzero(np.isfinite(served))]
    kind_of = None if kinds is None else [kinds[n] for n in priced]
    log = FixedCards([requests[n] for n in priced], kind_of, pool, THUMB_ERROR)
    usd = None if card is None or card not in log.cards else log.usd_of(card)
    if usd is None:
        return served, None
    found = np.full(len(requests), np.nan)
    found[priced] = usd
    return served, found


def read_savings(
    store: str | Path,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    project: str | None = None,
    feedback: str | None = None,
    checkpoint: Path | None = None,
    pool: Path | None = None,
    **settings: Any,
) -> Savings:
    """:func:`find_savings` of a store. ``feedback`` left out is the commonest key; ``checkpoint``
    left out is `checkpoints/production` where there is one.

    Raises:
        StoreError, CheckpointError, PoolError: what is named can't be read.
    """
    read_by = None
    if checkpoint is not None or alias_file(PRODUCTION.parent, PRODUCTION.name).is_file():
        read_by = resolve_checkpoint(checkpoint or PRODUCTION)
    with TraceStore(store, create=False) as opened:
        key = feedback or usual_feedback(opened, since)
        traffic = read_traffic(opened, since=since, until=until, project=project, feedback=key)
    return find_savings(
        traffic.requests,
        kinds=None if read_by is None else kinds_of(read_by, traffic.requests),
        pool=None if pool is None else ModelPool.from_yaml(pool, reload=False),
        c_ref_usd=None if read_by is None else read_manifest(read_by).c_ref_usd,
        feedback=key,
        **settings,
    )


def _against(
    log: FixedCards, known: Posterior | None, usd_M: Floats, weight: float, unit: float | None
) -> tuple[str | None, str]:
    """The card to compare with, and why it."""
    priced = np.isfinite(usd_M)
    if not priced.any():
        return None, "the cost of every card is unknown"
    if known is None:
        dearest = log.cards[int(np.nanargmax(usd_M))]
        return dearest, ("the dearest: no answer has a score, so nobody knows which card is best")
    worth = log.kind_share @ known.cautious(CAUTION) - weight * usd_M / (unit or np.inf)
    best = int(np.where(priced, worth, -np.inf).argmax())
    return log.cards[best], f"the best fixed card by the log's scores, at cost weight {weight:g}"


def _known(request: LiveRequest) -> float | None:
    return request.usd if request.usd is not None else float(request.record.known_cost_usd)
