"""What ``import xrouter_lg`` costs beside ``import langgraph``, and what it does not load.

python benchmarks/imports.py
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.results import append, show

HEAVY = ("torch", "transformers", "trl", "vllm", "fastapi", "langchain_openai", "sqlalchemy")
IMPORTS = {
    "nothing": "pass",
    "langgraph": "import langgraph.graph",
    "xrouter_lg": "import xrouter_lg",
    "XRouterNode and ModelPool": "from xrouter_lg import ModelPool, XRouterNode",
}


def seconds(code: str, repeats: int = 5) -> float:
    """The best of several fresh interpreters, in seconds."""
    best = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        best = min(best, time.perf_counter() - started)
    return best


def main() -> None:
    times = {name: seconds(code) for name, code in IMPORTS.items()}
    base, langgraph = times["nothing"], times["langgraph"] - times["nothing"]
    rows = [
        [name, f"{took - base:.3f}", f"{(took - base) / langgraph:.2f}"]
        for name, took in times.items()
    ]
    show("Import", ["what", "seconds", "ratio to langgraph"], rows)
    probe = f"import json, sys; {IMPORTS['XRouterNode and ModelPool']}; "
    probe += f"print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    loaded = json.loads(subprocess.check_output([sys.executable, "-c", probe]))
    print(f"loaded of {', '.join(HEAVY)}: {', '.join(loaded) or 'none'}")
    append("; ".join(f"{row[0]} {row[1]} s" for row in rows) + f"; heavy modules loaded: {loaded}")


if __name__ == "__main__":
    main()
