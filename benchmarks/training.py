"""What training costs: the CPU recipe, a step of GRPO, replayed episodes, slots beside tools.

    python benchmarks/training.py --base FOLDER_OR_GGUF --outcomes FOLDER [--parts recipe grpo ...]

recipe   seconds per epoch of the warm start: frozen lower layers with cached activations, beside
         LoRA on all layers; a few steps of each, in turn, extrapolated to the table
grpo     share of a GRPO step that is spent in this project's own code
replay   episodes a second and core that the replay environment gives
codec    tokens and seconds of a decision by slots and by tool calls, same model, no training

Everything runs on one thread and is measured in that process's CPU seconds, which a busy machine
disturbs less than the clock. What is compared is measured in turns.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np
import torch
from langchain_core.messages import HumanMessage

from benchmarks.results import append, show
from training.config.grpo import GrpoSettings
from training.config.sampling import Sampling
from training.config.trainer import TrainerConfig
from training.config.warm_start import WarmStartConfig
from training.data.inputs import card_lines
from training.data.outcome_source import RecordedOutcomes
from training.data.reward import Reward
from training.grpo.episodes import EpisodeEnvironment
from training.grpo.trainer import train_grpo
from training.grpo.turns import OneTurn
from training.model.base import load_base
from training.model.features import build_cache
from training.model.reading import CachedReading, PlainReading, Reading
from training.model.slots import slot_model
from training.stage.callbacks import Report
from training.warm_start.targets import card_samples
from training.warm_start.trainer import train_slots
from xrouter_lg import ModelCard
from xrouter_lg.checkpoints.bases import materialise
from xrouter_lg.outcomes import OutcomeTable
from xrouter_lg.outcomes.grid import OutcomeGrid
from xrouter_lg.pool.card import normalise_name
from xrouter_lg.prompts import slots
from xrouter_lg.prompts import tools as tools_codec
from xrouter_lg.types import RouteRequest

EPOCHS = 2
"""Epochs that the cost of the features is spread over: the warm start's default."""


class TrainingTask:
    """A table, its prompts rendered, and a base on disk."""

    def __init__(
        self,
        outcomes: Path,
        base: Path,
        dtype: str,
        *,
        models: Sequence[str],
        sources: Sequence[str],
    ) -> None:
        table = OutcomeTable.load(outcomes).complete_grid(
            models=models or None, sources=sources or None
        )
        rng = np.random.default_rng(0)
        self.table: OutcomeGrid = table.rows(rng.permutation(len(table)))
        self.base_folder, self.dtype = base, getattr(torch, dtype)
        self.lines = card_lines(self.table, 3)
        self.prefix = slots.render_prefix(self.lines)
        self.questions = [slots.render_question([HumanMessage(p)]) for p in self.table.prompts]

    def reading(self, folder: Path, frozen: int, count: int) -> tuple[Any, Reading, float]:
        """A fresh base, the first prompts read from behind ``frozen`` layers (0: whole), and the
        CPU seconds that their features took."""
        base = load_base(self.base_folder, dtype=self.dtype)
        questions = self.questions[:count]
        if not frozen:
            return base, PlainReading(base.tokenizer, self.prefix, questions), 0.0
        started = time.process_time()
        cache = build_cache(base, self.prefix, questions, layers=frozen, folder=folder)
        seconds = time.process_time() - started
        return base, CachedReading(base, cache, self.prefix, questions), seconds


def recipe(task: TrainingTask, folder: Path, steps: int, share: float) -> str:
    """Seconds per epoch, side by side."""
    layers = load_base(task.base_folder).identity.layers
    frozen = round(layers * share)
    config = WarmStartConfig(epochs=1, frozen_layers=frozen)
    count = steps * config.batch_size
    seconds: dict[str, list[float]] = {"cached": [], "plain": []}
    *_, features = task.reading(folder / "features", frozen, count)
    for _ in range(2):  # in turns, so that a busy minute does not meet one of them alone
        for name in ("cached", "plain"):
            chosen = WarmStartConfig(
                recipe=name,
                epochs=1,
                frozen_layers=frozen if name == "cached" else 0,
            )
            if name == "plain":
                base, reading, _ = task.reading(folder, 0, count)
            else:
                base, reading, _ = task.reading(folder / "features", frozen, count)
            slot = slot_model(base, np.zeros(len(task.lines)), chosen)
            samples = card_samples(slot, reading, np.arange(count), task.table.score[:count])
            marks = [time.process_time()]
            train_slots(
                slot,
                reading,
                samples,
                chosen,
                tokenizer=base.tokenizer,
                folder=folder / name,
                # All layers of 16 prompts at once would need some 10 GB.
                trainer=TrainerConfig(device="cpu", accumulation=4 if name == "plain" else 1),
                callbacks=[Report(lambda *_, marks=marks: marks.append(time.process_time()))],
            )
            # The first step compiles kernels and builds caches.
            seconds[name] += np.diff(marks)[1:].tolist()
            del base, reading, slot
            gc.collect()  # a trainer and its model hold each other
    per_epoch = {
        name: statistics.median(values) * len(task.table) / config.batch_size
        for name, values in seconds.items()
    }
    once = features / count * len(task.table)
    whole = per_epoch["cached"] + once / EPOCHS
    ratio, fair = per_epoch["plain"] / per_epoch["cached"], per_epoch["plain"] / whole
    rows = [
        [
            "LoRA on all layers",
            f"{statistics.median(seconds['plain']):.2f}",
            f"{per_epoch['plain']:.0f}",
            "",
        ],
        [
            f"lower {frozen} of {layers} cached",
            f"{statistics.median(seconds['cached']):.2f}",
            f"{per_epoch['cached']:.0f}",
            f"{once:.0f}",
        ],
    ]
    show(
        f"warm start, {len(task.table)} prompts, batches of {config.batch_size} (CPU seconds)",
        ["recipe", "step", "epoch", "features, once"],
        rows,
    )
    print(f"per epoch ×{ratio:.1f} faster; features spread over {EPOCHS} epochs: ×{fair:.1f}")
    return (
        f"warm start per epoch of {len(task.table)} prompts: LoRA on all layers "
        f"{per_epoch['plain']:.0f} CPU s, lower {frozen} of {layers} layers cached "
        f"{per_epoch['cached']:.0f} CPU s (×{ratio:.1f}; with features over {EPOCHS} epochs "
        f"×{fair:.1f})"
    )


def grpo(task: TrainingTask, folder: Path, steps: int, share: float) -> str:
    """Where the seconds of a step go."""
    layers = load_base(task.base_folder).identity.layers
    parts = []
    for name, frozen in (("cached", round(layers * share)), ("plain", 0)):
        settings = GrpoSettings(steps=steps, prompts_per_step=8, generations=8)
        count = settings.episodes
        base, reading, _ = task.reading(folder / "features", frozen, count)
        slot = slot_model(
            base,
            np.zeros(len(task.lines)),
            WarmStartConfig(frozen_layers=frozen, recipe="cached" if frozen else "plain"),
        )
        turns = _turns(task, count)
        own = _Clock()
        for target, names in (
            (reading, ("find", "ids", "inputs")),
            (turns, ("state", "results")),
        ):
            for method in names:
                own.watch(target, method)
        marks = [time.process_time()]
        spent = [0.0]

        def mark(*_: Any, m: list[float] = marks, s: list[float] = spent, o: _Clock = own) -> None:
            m.append(time.process_time())
            s.append(o.seconds)

        report = Report(mark)
        train_grpo(
            slot,
            reading,
            turns,
            settings,
            tokenizer=base.tokenizer,
            folder=folder / f"grpo_{name}",
            callbacks=[report],
        )
        step_s = np.diff(marks)[1:]
        own_s = np.diff(spent)[1:]
        parts.append((name, float(step_s.mean()), float(own_s.sum() / step_s.sum())))
        del base, reading, slot, turns
        gc.collect()
    show(
        "a GRPO step of 8 prompts × 8 samples (CPU seconds)",
        ["recipe", "step", "in own code"],
        [[name, f"{seconds:.2f}", f"{own:.2%}"] for name, seconds, own in parts],
    )
    said = "; ".join(f"{name} {seconds:.2f} s, own code {own:.1%}" for name, seconds, own in parts)
    return f"GRPO step of 8 prompts × 8 samples: {said}"


def _turns(task: TrainingTask, count: int) -> OneTurn:
    environment = EpisodeEnvironment(
        RecordedOutcomes(task.table.score, task.table.cost),
        Reward(task.table.reference_cost()),
        sampling=Sampling(permute=False),
    )
    return OneTurn(
        environment,
        environment.sample(count, np.random.default_rng(0), np.arange(count)),
        task.questions,
        lambda cards: slots.render_prefix([task.lines[m] for m in cards]),
        prior_M=np.zeros(len(task.lines)),
        expected_usd_N_M=np.tile(task.table.cost.mean(0), (len(task.table), 1)),
        names=[normalise_name(name) for name in task.table.models],
    )


class _Clock:
    """CPU seconds inside watched methods; one that calls another counts once."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._depth = 0

    def watch(self, target: Any, name: str) -> None:
        inner: Callable[..., Any] = getattr(target, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            self._depth += 1
            started = time.process_time()
            try:
                return inner(*args, **kwargs)
            finally:
                self._depth -= 1
                if self._depth == 0:
                    self.seconds += time.process_time() - started

        setattr(target, name, timed)


def replay(task: TrainingTask, episodes: int) -> str:
    """Episodes a second."""
    environment = EpisodeEnvironment(
        RecordedOutcomes(task.table.score, task.table.cost), Reward(task.table.reference_cost())
    )
    rng, batch = np.random.default_rng(0), 256
    rates = []
    for _ in range(5):
        started = time.process_time()
        for _ in range(episodes // batch):
            drawn = environment.sample(batch, rng)
            environment.step(drawn, np.argmax(drawn.legal_B_S, axis=1))
        rates.append(episodes // batch * batch / (time.process_time() - started))
    rate = statistics.median(rates)
    show(
        f"replay, {len(task.table)} prompts × {len(task.table.models)} cards",
        ["", "episodes a second and core"],
        [["batches of 256", f"{rate:,.0f}"]],
    )
    return f"replay {rate:,.0f} episodes a second and core"


def codec(task: TrainingTask, decisions: int) -> str:
    """One decision each way, on the same weights."""
    import trl

    base = load_base(task.base_folder, dtype=task.dtype)
    template = Path(trl.__file__).parent / "chat_templates" / "qwen2_5.jinja"
    cards = [
        ModelCard(name=name, model="openai:x", price={"input": 1, "output": 2}, description=line)
        for name, line in zip(task.table.models, task.lines, strict=True)
    ]
    # What a decision has to say at least; a trained router says no more.
    call = f'<tool_call>\n{{"name": "{cards[0].tool_name}", "arguments": {{}}}}\n</tool_call>'
    spoken = len(base.tokenizer.encode(call, add_special_tokens=False)) + 1
    reading = PlainReading(base.tokenizer, task.prefix, task.questions[:decisions])
    slot = slot_model(
        base, np.zeros(len(task.lines)), WarmStartConfig(recipe="plain", frozen_layers=0)
    )
    slot.model.eval()
    tokens: dict[str, list[int]] = {"slots": [], "tools": []}
    seconds: dict[str, list[float]] = {"slots": [], "tools": []}
    with torch.inference_mode():
        for row in range(decisions):
            started = time.process_time()
            reading.contrast(slot, **reading.inputs([row]))
            seconds["slots"].append(time.process_time() - started)
            tokens["slots"].append(len(reading.ids(row)) + 1)
            request = RouteRequest([HumanMessage(task.table.prompts[row])], cost_weight=0.3)
            messages, schemas = tools_codec.render(request, cards, direct=False)
            roles = {"system": "system", "human": "user"}
            said = [{"role": roles[m.type], "content": str(m.text)} for m in messages]
            ids = base.tokenizer.apply_chat_template(
                said,
                tools=schemas,
                chat_template=template.read_text(),
                add_generation_prompt=True,
                return_dict=False,
            )
            started = time.process_time()
            slot.model.generate(
                input_ids=torch.tensor([ids]),
                attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                min_new_tokens=spoken,
                max_new_tokens=spoken,
                do_sample=False,
                pad_token_id=0,
            )
            seconds["tools"].append(time.process_time() - started)
            tokens["tools"].append(len(ids) + spoken)
    rows = [
        [name, f"{statistics.mean(tokens[name]):.0f}", f"{statistics.median(seconds[name]):.3f}"]
        for name in ("slots", "tools")
    ]
    ratio = statistics.median(seconds["tools"]) / statistics.median(seconds["slots"])
    fewer = statistics.mean(tokens["tools"]) / statistics.mean(tokens["slots"])
    show(
        f"one decision among {len(cards)} cards, nothing cached (CPU seconds)",
        ["codec", "tokens", "seconds"],
        rows,
    )
    print(f"slots: ×{fewer:.1f} fewer tokens, ×{ratio:.1f} faster")
    return (
        f"one decision among {len(cards)} cards: slots {rows[0][1]} tokens {rows[0][2]} s, tools "
        f"{rows[1][1]} tokens {rows[1][2]} s (×{ratio:.1f})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--base", required=True, help="base model: folder, .gguf or model id")
    parser.add_argument("--outcomes", type=Path, required=True, help="folder of the two tables")
    parser.add_argument("--models", nargs="*", default=[], help="models; all when left out")
    parser.add_argument("--sources", nargs="*", default=[], help="sources; all when left out")
    parser.add_argument("--parts", nargs="*", default=["recipe", "grpo", "replay", "codec"])
    parser.add_argument("--steps", type=int, default=5, help="steps of each that are measured")
    parser.add_argument("--frozen-share", type=float, default=2 / 3)
    parser.add_argument("--dtype", default="bfloat16")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = materialise(options.base, folder / "base")
        task = TrainingTask(
            options.outcomes,
            base,
            options.dtype,
            models=options.models,
            sources=options.sources,
        )
        parts: dict[str, Callable[[], str]] = {
            "recipe": lambda: recipe(task, folder, options.steps, options.frozen_share),
            "grpo": lambda: grpo(task, folder, options.steps, options.frozen_share),
            "replay": lambda: replay(task, 200_000),
            "codec": lambda: codec(task, options.steps),
        }
        found = [parts[part]() for part in options.parts]
    append("; ".join(found))


if __name__ == "__main__":
    main()
