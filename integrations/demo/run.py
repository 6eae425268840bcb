"""One run of the demo: the recorded models on a port, and the story told over them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from rich.console import Console

from integrations.demo.bookmark import Bookmark
from integrations.demo.questions import History
from integrations.demo.replay import RecordedModels, replay_server
from integrations.demo.story import Settings, Story, clear
from integrations.demo.users import ReplayedJudge
from integrations.demo.workers import write_judge, write_pool
from xrouter_lg import ModelPool


def run(history: History, settings: Settings, console: Console) -> bool:
    """Go on with the run of these settings in the folder, or begin it; see :meth:`Story.run`.

    Raises:
        XRouterError: a request or a command failed.
    """
    folder, told = settings.folder, settings.told(history)
    bookmark = Bookmark(folder, told)
    if not bookmark.begun:
        clear(folder)
        bookmark = Bookmark(folder, told)
    console.print(
        f"{len(history.seen)} questions that users ask again and again, {len(history.held_out)} "
        "that nobody asks before the closing table. "
        "The answers are those of three real models, recorded (integrations/demo/recorded). What "
        "is known of them: what each costs, and thumbs on a third, a tenth of them wrong. No "
        f"labels, no right answers. More answers are bought for ${settings.budget_usd:g}; a judge "
        "grades them, and is wrong as often."
        + (" An earlier run was stopped; this one goes on with it." if bookmark.begun else ""),
        highlight=False,
    )
    models = RecordedModels(history)
    with _served(models, settings, bookmark) as pool:
        for card in pool:
            price = card.effective_price
            assert price is not None
            console.print(
                f"  {card.name}: {card.model_name}, {price.input:.3f} in / {price.output:.3f} out "
                "USD per million tokens",
                highlight=False,
            )
        return Story(settings, models, bookmark, pool, console).run()


@contextlib.contextmanager
def _served(models: RecordedModels, settings: Settings, bookmark: Bookmark) -> Iterator[ModelPool]:
    """The pool over a server with the models and the judge."""
    judge = ReplayedJudge(models.score, settings.seed)
    with contextlib.ExitStack() as stack:
        # What was paid for is kept under the server's address: the next run takes the same port.
        port = bookmark.get("port") or 0
        try:
            server = stack.enter_context(replay_server(models, judge=judge, port=port))
        except OSError:
            server = stack.enter_context(replay_server(models, judge=judge))
        bookmark.keep("port", int(server.url.rpartition(":")[2]))
        write_judge(settings.folder / "judge.yaml", server.base_url)
        yield write_pool(settings.folder / "pool.yaml", server.base_url)
