"""What the data card says of the tables: every family × model, and the files' digests."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import polars as pl

from integrations.demo.recorded.record import MODELS
from xrouter_lg.outcomes import OutcomeTable

COST_WEIGHTS = (0.1, 0.5)
FILES = ("outcomes.parquet", "prompts.parquet")


def family_table(table: OutcomeTable) -> str:
    """Markdown: mean score and mean micro-USD of each model by family, and the model that is worth
    its price at two cost weights: the highest mean score − λ · mean cost / c_ref, c_ref being the
    mean cost of the model that is best over all.
    """
    whole, of = means(table, "model"), means(table, "task", "model")
    c_ref = max((score, cost) for _, score, cost in whole.values())[1]
    names = [name.removeprefix("qwen2.5-") for name in MODELS]
    lines = [
        f"| family | tasks | {' | '.join(names)} | "
        + " | ".join(f"worth it at λ = {weight}" for weight in COST_WEIGHTS)
        + " |",
        f"|---|---:|{'---:|' * len(MODELS)}{'---|' * len(COST_WEIGHTS)}",
    ]
    for task in sorted({key[0] for key in of}):
        cells = [of[task, model] for model in MODELS]
        worth = [
            names[max(range(len(cells)), key=lambda m: cells[m][1] - w * cells[m][2] / c_ref)]
            for w in COST_WEIGHTS
        ]
        lines.append(f"| {task} | {cells[0][0]} | {_shown(cells)} | {' | '.join(worth)} |")
    cells = [whole[(model,)] for model in MODELS]
    blanks = " |" * len(COST_WEIGHTS)
    lines.append(f"| **all** | {cells[0][0]} | {_shown(cells)} |{blanks}")
    return "\n".join(lines)


def means(table: OutcomeTable, *by: str) -> dict[tuple[str, ...], tuple[int, float, float]]:
    """Outcomes, mean score and mean USD of every group."""
    found = table.outcomes.group_by(by).agg(
        pl.len(), pl.col("score").mean(), pl.col("cost_usd").mean()
    )
    return {row[:-3]: row[-3:] for row in found.collect().iter_rows()}


def digests(folder: Path) -> str:
    """Sha256 and size of both files, as a text block."""
    lines = []
    for name in FILES:
        data = folder.joinpath(name).read_bytes()
        lines.append(f"{hashlib.sha256(data).hexdigest()}  {name}  {len(data):,} bytes")
    return "\n".join(["```text", *lines, "```"])


def update_card(folder: Path, table: OutcomeTable) -> None:
    """Write table and digests into the folder's README, between its marks."""
    page = folder / "README.md"
    text = page.read_text(encoding="utf-8")
    for name, body in (("families", family_table(table)), ("digests", digests(folder))):
        pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
        plain = body.replace("\\", r"\\")
        text, found = re.subn(pattern, rf"\g<1>{plain}\n\g<2>", text, flags=re.DOTALL)
        if found != 1:
            raise ValueError(f"{page} has {found} places for {name!r}, not 1")
    page.write_text(text, encoding="utf-8")


def _shown(cells: list[tuple[int, float, float]]) -> str:
    return " | ".join(f"{score:.2f} · {cost * 1e6:.0f}" for _, score, cost in cells)
