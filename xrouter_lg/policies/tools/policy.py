"""A checkpoint of kind ``tools`` as a policy: a chat model that was trained to call the cards."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Self

from langchain_core.language_models import BaseChatModel

from xrouter_lg.checkpoints.bases import find_base
from xrouter_lg.checkpoints.folder import verify
from xrouter_lg.checkpoints.manifest import Manifest
from xrouter_lg.errors import PolicyError
from xrouter_lg.policies.chat import PromptedPolicy
from xrouter_lg.policies.slots.remote import model_name, root_of
from xrouter_lg.policies.tools.torch_chat import LocalToolModel
from xrouter_lg.policies.trained import TrainedPolicy, by_head, proposed, reason_of
from xrouter_lg.policies.utility import Predictor, load_head
from xrouter_lg.pool.card import ModelCard
from xrouter_lg.types import Proposal, RouteRequest

_FREE = {"input": "0", "output": "0"}
"""Of one's own model: its tokens are on no provider's bill."""


class ToolsPolicy(TrainedPolicy):
    """Routes by a checkpoint of kind ``tools``: see :class:`~xrouter_lg.policies.chat
    .PromptedPolicy` for how it is asked. ``model`` is the chat model that runs it, or its card.
    Where that fails, the checkpoint's value model decides."""

    orchestrates = True

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        model: BaseChatModel | ModelCard,
        *,
        timeout_s: float = 30.0,
    ) -> None:
        super().__init__(path, manifest)
        self._predictor = Predictor.of(manifest, load_head(manifest, path))
        how = manifest.tools
        assert how is not None  # as the kind says
        self.timeout_s = timeout_s  # type: ignore[misc]  # an instance's own, where set
        self._model = model
        self._asked = PromptedPolicy(
            model,
            price=_FREE,
            direct_answers=how.direct,
            timeout_s=timeout_s,
            max_output_tokens=how.max_output_tokens,
        )

    @classmethod
    def in_process(
        cls,
        path: str | Path,
        *,
        base: str | Path | None = None,
        dtype: str = "float32",
        threads: int | None = None,
    ) -> Self:
        """Run by transformers on this machine (``pip install "xrouter_lg[torch]"``).

        Raises:
            CheckpointError: no such checkpoint, a damaged one, or its base is missing.
        """
        folder = Path(path)
        manifest = verify(folder, kind="tools")
        found = find_base(manifest, folder, base)
        model = LocalToolModel(
            folder=folder, manifest=manifest, base=found, dtype=dtype, threads=threads
        )
        return cls(folder, manifest, model, timeout_s=120.0)

    @classmethod
    def behind(
        cls,
        url: str,
        path: str | Path,
        *,
        model: str | None = None,
        api_key_env: str | None = None,
        timeout_s: float = 30.0,
    ) -> Self:
        """Run by a server that speaks OpenAI's tool calls, as ``model``; left out: under the name
        that our launchers give it.

        Raises:
            CheckpointError: no such checkpoint, or a damaged one.
            PolicyConfigError: the address is wrong.
        """
        folder = Path(path)
        manifest = verify(folder, kind="tools", weights=False)
        card = ModelCard(
            name="policy",
            model=model or model_name(manifest),
            base_url=f"{root_of(url)}/v1",
            api_key_env=api_key_env,
            price=_FREE,
            timeout_s=timeout_s * 0.95,
            max_retries=1,
        )
        return cls(folder, manifest, card, timeout_s=timeout_s)

    async def propose(self, request: RouteRequest, candidates: Sequence[ModelCard]) -> Proposal:
        try:
            said = await self._asked.propose(request, candidates)
        except PolicyError as problem:
            if request.answers:
                raise  # the router takes the best of the answers that are there
            return by_head(self, self._predictor, request, candidates, problem)
        calls = [action.card for action in said.actions or () if action.card is not None]
        if request.answers or not calls:
            return said
        # What a request says of models a chat model obeys: the value model beside it does not.
        weight = self.cost_weight(request)
        found = self._predictor.cheaper(calls, request, candidates, weight)
        return said if found is None else proposed(found, reason_of(found, weight))

    def worst_case_usd(
        self, request: RouteRequest, candidates: Sequence[ModelCard]
    ) -> Decimal | None:
        return self._asked.worst_case_usd(request, candidates)

    def warm_up(self) -> None:
        """Load the model, where it runs in this process."""
        if isinstance(self._model, LocalToolModel):
            self._model.load()

    def close(self) -> None:
        """Free the model, where it runs in this process; a later request loads it again."""
        if isinstance(self._model, LocalToolModel):
            self._model.unload()

    def __repr__(self) -> str:
        return f"ToolsPolicy({str(self.path)!r})"
