"""A process that spends: ``python -m tests.support.spender BASE_URL STORE USD COUNT [LEASE_S]``.

Asks ``COUNT`` requests at once under a limit for all, and prints how many were answered, refused
for want of money, and failed otherwise.
"""

from __future__ import annotations

import asyncio
import json
import sys

from xrouter_lg import Budget, ChatXRouter, ModelCard, ModelPool
from xrouter_lg.calls.spend.limits import SpendLimit
from xrouter_lg.calls.spend.store import SpendStore
from xrouter_lg.errors import BudgetExceededError


async def spend(base_url: str, store: str, usd: str, count: int, lease_s: float) -> None:
    card = ModelCard(
        name="small",
        model="small",
        base_url=base_url,
        api_key_env="SPENDER_KEY",
        price={"input": 1, "output": 2},
        max_retries=0,
    )
    opened = SpendStore(store, lease_s=lease_s)
    budget = Budget(limits=[SpendLimit(usd)], store=opened, on_exceeded="error")
    model = ChatXRouter(ModelPool([card]), budget=budget)
    done = await asyncio.gather(
        *(model.ainvoke("Hi", max_tokens=100) for _ in range(count)), return_exceptions=True
    )
    refused = sum(isinstance(one, BudgetExceededError) for one in done)
    failed = [str(one) for one in done if isinstance(one, BaseException)]
    opened.close()
    told = {"answered": count - len(failed), "refused": refused, "failed": len(failed) - refused}
    sys.stdout.write(json.dumps({**told, "why": failed[0] if told["failed"] else None}))


if __name__ == "__main__":
    base_url, store, usd, count, *lease = sys.argv[1:]
    asyncio.run(spend(base_url, store, usd, int(count), float(lease[0]) if lease else 60.0))
