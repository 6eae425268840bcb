"""Evaluation results as a LangSmith experiment on a dataset."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID, uuid5

from langsmith.schemas import ExampleCreate

from xrouter_lg.errors import ConfigurationError
from xrouter_lg.langsmith.connection import LangSmith, Project
from xrouter_lg.langsmith.errors import LangSmithRefusedError, ProjectNotFoundError
from xrouter_lg.langsmith.pull_feedback import to_langsmith
from xrouter_lg.langsmith.runs import RunQuery
from xrouter_lg.langsmith.traces import moment
from xrouter_lg.tracing.store.write import pieces

_NAMESPACE = UUID("6f5f7a0e-6c5b-5b7e-9a43-3f6a9a7d2c11")
_TOGETHER = 100


@dataclass(frozen=True, kw_only=True)
class Result:
    """What was done with one prompt."""

    key: str
    """Names the prompt within the dataset; the same prompt keeps it from run to run."""
    prompt: str
    model: str
    """The card that was chosen."""
    scores: Mapping[str, float]
    """Feedback of the experiment: ``score``, ``cost_usd`` ..."""
    response: str | None = None
    reference: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class ExperimentSummary:
    """What a push of results did; what was there already was left alone."""

    dataset: str
    experiment: str
    url: str | None
    examples: int = 0
    new_examples: int = 0
    new_runs: int = 0
    new_scores: int = 0

    def __str__(self) -> str:
        said = (
            f"experiment {self.experiment!r} on dataset {self.dataset!r}: {self.examples} "
            f"examples ({self.new_examples} new), {self.new_runs} new runs, "
            f"{self.new_scores} new scores"
        )
        return f"{said}\n{self.url}" if self.url else said

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def push_experiment(
    results: Iterable[Result],
    *,
    dataset: str,
    experiment: str,
    langsmith: LangSmith,
    metadata: Mapping[str, Any] | None = None,
    description: str | None = None,
) -> ExperimentSummary:
    """Results as runs of ``experiment`` on the examples of ``dataset``; both are made if missing.

    Ids follow from the names and keys: pushing again, or after a kill, adds what is missing and
    doubles nothing. An experiment of that name on another dataset is refused.

    Raises:
        ConfigurationError: no results, or two of them with one key.
        LangSmithRefusedError, AccessDeniedError, UnreachableError: see their docstrings.
    """
    listed = list(results)
    keys = {result.key for result in listed}
    if not listed or len(keys) != len(listed):
        raise ConfigurationError(
            f"experiment {experiment!r}: {len(listed)} results with {len(keys)} keys; give at "
            "least one, and one per prompt (choose one cost weight)"
        )
    return _Push(langsmith, dataset, experiment).run(listed, metadata or {}, description)


def results_of_choices(
    choices: Any, prompts: Any, *, cost_weight: float | None = None
) -> Iterator[Result]:
    """A judge's choices (a polars frame: source, task, prompt_id, cost_weight, model, score,
    cost_usd, router_cost_usd) with the prompts of the outcome table they are about.

    ``cost_weight`` chooses one of the dial's settings, the nearest; left out, the smallest.
    """
    import polars as pl

    key = ["source", "task", "prompt_id"]
    weights = choices["cost_weight"].unique().sort().to_list()
    if not weights:
        return
    wanted = weights[0] if cost_weight is None else cost_weight
    weight = min(weights, key=lambda known: abs(known - wanted))
    have = [name for name in ("prompt", "reference", "category") if name in prompts.columns]
    rows = choices.filter(pl.col("cost_weight") == weight).join(
        prompts.select(*key, *have), on=key, how="left"
    )
    for row in rows.iter_rows(named=True):
        numbers = ("score", "cost_usd", "router_cost_usd")
        yield Result(
            key="|".join(str(row[name]) for name in key),
            prompt=row.get("prompt") or "",
            model=row["model"],
            scores={n: float(row[n]) for n in numbers if row.get(n) is not None},
            reference=row.get("reference"),
            metadata={**{name: row[name] for name in key}, "cost_weight": weight},
        )


class _Push:
    def __init__(self, langsmith: LangSmith, dataset: str, experiment: str) -> None:
        self._langsmith = langsmith
        self._dataset, self._experiment = dataset, experiment

    def run(
        self, results: Sequence[Result], metadata: Mapping[str, Any], description: str | None
    ) -> ExperimentSummary:
        dataset_id = self._dataset_id()
        new_examples = sum(
            self._add_examples(dataset_id, some) for some in pieces(results, _TOGETHER)
        )
        project, url = self._project(dataset_id, len(results), metadata, description)
        summary = ExperimentSummary(self._dataset, self._experiment, url, len(results))
        summary.new_examples = new_examples
        starts = self._add_runs(dataset_id, project, results, summary)
        self._add_scores(project, results, starts, summary)
        client = self._langsmith.client
        self._langsmith.ask(
            lambda: client.update_project(project.id, end_time=datetime.now(UTC)),
            what=f"experiment {self._experiment!r}",
        )
        return summary

    def _dataset_id(self) -> str:
        client, what = self._langsmith.client, f"dataset {self._dataset!r}"
        try:
            found = self._langsmith.ask(
                lambda: client.read_dataset(dataset_name=self._dataset), what=what
            )
        except LangSmithRefusedError as error:
            if error.status != 404:
                raise
            found = self._langsmith.ask(
                lambda: client.create_dataset(
                    self._dataset, description="Prompts that routers are judged on."
                ),
                what=what,
            )
        return str(found.id)

    def _add_examples(self, dataset_id: str, results: Sequence[Result]) -> int:
        """Those that are missing; how many they were."""
        client = self._langsmith.client
        ids = [self._example_id(dataset_id, result) for result in results]
        there = self._langsmith.ask(
            lambda: {
                str(example.id)
                for example in client.list_examples(dataset_id=dataset_id, example_ids=ids)
            },
            what="examples",
        )
        missing = [
            ExampleCreate(  # type: ignore[no-untyped-call]
                id=UUID(example_id),
                inputs={"prompt": result.prompt},
                reference_outputs=(
                    None if result.reference is None else {"answer": result.reference}
                ),
                metadata={"key": result.key},
            )
            for example_id, result in zip(ids, results, strict=True)
            if example_id not in there
        ]
        if missing:
            self._langsmith.ask(
                lambda: client.create_examples(dataset_id=dataset_id, examples=missing),
                what="examples",
            )
        return len(missing)

    def _project(
        self, dataset_id: str, count: int, metadata: Mapping[str, Any], description: str | None
    ) -> tuple[Project, str | None]:
        client, what = self._langsmith.client, f"experiment {self._experiment!r}"
        try:
            known = self._langsmith.project(self._experiment)
        except ProjectNotFoundError:
            made = self._langsmith.ask(
                lambda: client.create_project(
                    self._experiment,
                    description=description,
                    metadata={"made_by": "xrouter_lg", **metadata},
                    reference_dataset_id=dataset_id,
                    num_examples=count,
                ),
                what=what,
            )
        else:
            made = self._langsmith.ask(lambda: client.read_project(project_id=known.id), what=what)
            if str(made.reference_dataset_id) != dataset_id:
                raise LangSmithRefusedError(
                    f"there is a project {self._experiment!r} already, and it is no experiment on "
                    f"dataset {self._dataset!r}. Choose another name for the experiment."
                ) from None
        return Project(str(made.id), self._experiment), made.url

    def _add_runs(
        self,
        dataset_id: str,
        project: Project,
        results: Sequence[Result],
        summary: ExperimentSummary,
    ) -> dict[str, datetime]:
        """Start of each run by its id, new ones and old ones."""
        far_back = datetime.now(UTC) - timedelta(days=400)
        query = RunQuery(project_id=project.id, start=far_back, light=True)
        starts = {run["id"]: moment(run["start_time"]) for run in self._langsmith.runs(query)}
        for some in pieces(results, _TOGETHER):
            made = [
                self._run(dataset_id, project, result)
                for result in some
                if self._run_id(project, result) not in starts
            ]
            if made:
                self._langsmith.ask(
                    partial(self._langsmith.client.batch_ingest_runs, create=made),
                    what="runs of the experiment",
                )
            starts.update((str(run["id"]), run["start_time"]) for run in made)
            summary.new_runs += len(made)
        return starts

    def _run(self, dataset_id: str, project: Project, result: Result) -> dict[str, Any]:
        run_id, now = self._run_id(project, result), datetime.now(UTC)
        return {
            "id": run_id,
            "trace_id": run_id,
            "dotted_order": f"{now:%Y%m%dT%H%M%S%fZ}{run_id}",
            "name": "xrouter_choice",
            "run_type": "chain",
            "start_time": now,
            "end_time": now,
            "session_id": project.id,
            "session_name": project.name,
            "reference_example_id": self._example_id(dataset_id, result),
            "inputs": {"prompt": result.prompt},
            "outputs": {"model": result.model, "answer": result.response},
            "extra": {"metadata": {**result.metadata, "model": result.model}},
        }

    def _add_scores(
        self,
        project: Project,
        results: Sequence[Result],
        starts: Mapping[str, datetime],
        summary: ExperimentSummary,
    ) -> None:
        there = {str(entry.id) for page in self._langsmith.feedback(project) for entry in page}
        for result in results:
            run_id = self._run_id(project, result)
            for name, number in result.scores.items():
                feedback_id = str(uuid5(_NAMESPACE, f"{run_id}|{name}"))
                if feedback_id in there:
                    continue
                score, value = to_langsmith(number, None)
                self._langsmith.ask(
                    partial(
                        self._langsmith.client.create_feedback,
                        key=name,
                        score=score,
                        value=value,
                        trace_id=run_id,
                        session_id=project.id,
                        start_time=starts[run_id],
                        feedback_id=feedback_id,
                        feedback_source_type="model",
                        extend_trace_retention=False,
                        stop_after_attempt=1,
                    ),
                    what=f"score {name!r}",
                )
                summary.new_scores += 1

    def _example_id(self, dataset_id: str, result: Result) -> str:
        return str(uuid5(_NAMESPACE, f"{dataset_id}|{result.key}"))

    def _run_id(self, project: Project, result: Result) -> str:
        return str(uuid5(_NAMESPACE, f"{project.id}|{result.key}"))
