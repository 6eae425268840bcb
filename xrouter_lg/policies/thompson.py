"""How likely is each card the best one, given what is not known? Probabilities to explore by.

Thompson sampling (Thompson 1933; Russo et al. 2018, arXiv 1707.02038) takes each card as often as
it is the best one under what may still be true. With q the cards' expected scores on a request, as
normal as the head knows them (``FamilyHead.expected``), w_m the weight of the head's reading of a
card in its expected score, and e_m the rest of it,

    u_m = e_m + w_m · q_m - λ · E[cost_m] / c_ref,   chance_m = P(u_m > u_k for all k),

counted over draws of q, all cards jointly: where one card fails its kin may too, and then neither
is worth a try. The draws follow from the request's text, so that anybody can repeat them.

A decision counts on a little less than the mean of a card of which little is known
(``quality_F_M``); here the mean counts, and doubt is a reason to try. Of a card that joined since
the head was fitted nothing is known but how far cards differ: it is drawn as widely as that.
"""

from __future__ import annotations

import hashlib
import math

from xrouter_lg.extras import need
from xrouter_lg.policies.utility import Utilities

DRAWS = 512
"""A chance of 0.1 is then known to 0.013."""
NEWCOMER = math.sqrt(0.025)
"""Standard deviation of the score of a card of which nothing is known; what
:func:`xrouter_lg.value.posterior.unlearned` says of one."""


def best_chances(found: Utilities) -> dict[str, float] | None:
    """For each candidate the probability that its utility is the highest. None where nothing tells
    the uncertainty: without a head, or with one that does not know its own."""
    doubt = found.doubt
    known = None if doubt is None else doubt.head.expected(doubt.reading)
    if doubt is None or known is None:
        return None
    np = need("numpy", "a trained checkpoint")
    mean_M, root = known
    names = list(found.utility)
    place = {name: at for at, name in enumerate(doubt.head.cards)}
    read = [at for at, name in enumerate(names) if doubt.weight.get(name, 0.0) > 0.0]
    rows = [place[names[at]] for at in read]
    weight = np.array([doubt.weight[names[at]] for at in read])
    counted = np.array([doubt.reading.quality[names[at]] for at in read])
    utility_C = np.array(list(found.utility.values()))
    utility_C[read] += weight * (mean_M[rows] - counted)
    normal = np.random.Generator(np.random.SFC64(_seed(doubt.text)))
    drawn = np.broadcast_to(utility_C, (DRAWS, len(names))).copy()
    drawn[:, read] += (
        normal.standard_normal((DRAWS, len(mean_M))) @ (weight[:, None] * root[rows]).T
    )
    new = [at for at, name in enumerate(names) if name not in place]
    drawn[:, new] += NEWCOMER * normal.standard_normal((DRAWS, len(new)))
    counts = np.bincount(drawn.argmax(axis=1), minlength=len(names))
    return dict(zip(names, (counts / DRAWS).tolist(), strict=True))


def _seed(text: str) -> int:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big")
