"""Both support apps on scripted models, for LangGraph's Studio and for a first look.

    $ python -m graphs.support_offline
    before: Reset it under Account.
    after: Reset it under Account. (small)

With ``XROUTER_POOL=pool.yaml`` your models answer.
"""

from __future__ import annotations

from langchain_core.messages import HumanMessage
from graphs import support_app, support_app_routed
from graphs.shared import pool_of
from xrouter_lg import ChatXRouter

pool = pool_of(
    lambda messages: "Reset it under Account.", lambda messages: "Open Account, reset it."
)
before = support_app.build(ChatXRouter(pool, policy="fixed:small"))
after = support_app_routed.build(pool, policy="cheapest")

if __name__ == "__main__":
    asked = {"messages": [HumanMessage("How do I change my password?")]}
    print(f"before: {before.invoke(asked)['messages'][-1].text}")
    answer = after.invoke(asked)["messages"][-1]
    print(f"after: {answer.text} ({answer.response_metadata['xrouter']['route']})")
