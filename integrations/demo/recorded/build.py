"""Judge a recording and write the tables:

    python -m integrations.demo.recorded.build

Reads what ``python -m integrations.demo.recorded.record`` wrote, lets the verifiers of
``verifiers.yaml`` score every answer, prices its tokens, and writes ``outcomes.parquet`` and
``prompts.parquet``. Scores and prices can be made anew without asking a model again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from integrations.demo.recorded.card import digests, family_table, update_card
from integrations.demo.recorded.generate import tasks
from integrations.demo.recorded.record import MODELS, WORK, asked
from integrations.demo.recorded.recording import RecordedAnswer, Recording
from integrations.demo.recorded.scores import Scorer
from integrations.demo.recorded.task import SOURCE, Task
from integrations.llama_cpp.measure import TokenPrice
from xrouter_lg.outcomes import OutcomeTable

HERE = Path(__file__).parent
PRICES = HERE / "prices.json"


def read_prices(path: Path = PRICES) -> dict[str, TokenPrice]:
    """USD per million tokens of each model, from measured speed; see the data card."""
    models = json.loads(path.read_text(encoding="utf-8"))["models"]
    return {name: TokenPrice(**found["usd_per_million"]) for name, found in models.items()}


def cost_usd(answer: RecordedAnswer, price: TokenPrice) -> float:
    """What an answer costs when nothing of its prompt is cached."""
    tokens_usd = answer.input_tokens * price.input + answer.output_tokens * price.output
    return tokens_usd / 1e6


def build(wanted: Sequence[Task], recording: Recording, folder: Path) -> OutcomeTable:
    """The table of all tasks that every model has answered, written to ``folder``.

    Raises:
        OutcomeError: nothing is recorded by every model.
        UnprovenVerifierError: a verifier misjudges an answer whose verdict is known.
        RuntimeError: an answer could not be judged; the message has the first reason.
    """
    prices = read_prices()
    found: list[tuple[Task, RecordedAnswer]] = []
    for task in wanted:
        answers = [recording.get(task, model) for model in MODELS]
        found += [(task, answer) for answer in answers if answer is not None and all(answers)]
    with Scorer() as judge:
        verdicts = judge.verdicts((task.family, a.text, task.reference) for task, a in found)
    outcomes = []
    for (task, answer), verdict in zip(found, verdicts, strict=True):
        if verdict.score is None:
            raise RuntimeError(f"no verdict on {answer}: {verdict.reason}")
        outcomes.append(
            {
                **_key(task),
                "model": answer.model,
                "score": verdict.score,
                "input_tokens": answer.input_tokens,
                "output_tokens": answer.output_tokens,
                "cost_usd": cost_usd(answer, prices[answer.model]),
                "latency_s": answer.latency_s,
                "response": answer.text,
                "scored_by": "integrations/demo/recorded/verifiers.yaml",
            }
        )
    prompts = [
        {
            **_key(task),
            "prompt": task.prompt,
            "category": task.family,
            "reference": task.reference,
            "meta": json.dumps({"max_tokens": task.max_tokens, "messages": asked(task.prompt)}),
        }
        for task in dict.fromkeys(task for task, _ in found)
    ]
    table = OutcomeTable.from_rows(outcomes, prompts)
    table.validate().raise_if_bad()
    table.write(folder)
    return table


def _key(task: Task) -> dict[str, str]:
    return {"source": SOURCE, "task": task.family, "prompt_id": task.prompt_id}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the tables, and print what they hold."""
    parser = argparse.ArgumentParser(
        prog="python -m integrations.demo.recorded.build",
        description="Judge a recording and write the tables.",
    )
    parser.add_argument("--work", type=Path, default=WORK, help="recording (default: %(default)s)")
    parser.add_argument("--to", type=Path, default=HERE, help="folder of the tables")
    options = parser.parse_args(arguments)
    table = build(tasks(), Recording(options.work), options.to)
    if options.to.joinpath("README.md").is_file():
        update_card(options.to, table)
    sys.stdout.write(f"{family_table(table)}\n{digests(options.to)}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
