"""Settings of the tools codec."""

from __future__ import annotations

from typing import Any, Literal

from pydantic.dataclasses import dataclass

from training.config.settings import SETTINGS, Count, Text


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class ToolsConfig:
    """How a router that calls tools is trained.

    Raises:
        ValueError: a count below 1, two turns, or a server's address for no server.
    """

    turns: Count = 1
    """Decisions of an episode at most: 1 calls one card; 3 calls, looks at the answer, and calls
    another or accepts. Needs recorded answers."""
    direct: bool = False
    """Whether the router may answer itself; prompts marked ``must_not_call`` teach it when, and
    their ``reference`` what to say."""
    illegal_penalty: float = 0.5
    """Score points taken from a rollout that says nothing legal."""
    max_completion_tokens: Count = 96
    """Tokens of a rollout, answers that it is shown included: about 1,000 with several turns."""
    sampling_temperature: float = 1.0
    imitation_temperature: float = 0.1
    """T of the calls that the warm start imitates, in score points."""
    validation_prompts: Count = 32
    """Validation prompts that are routed by greedy decoding at each validation."""
    vllm: Literal["none", "server", "colocate"] = "none"
    """Who generates: transformers, a vLLM server on other GPUs (``trl vllm-serve``), or vLLM on the
    training GPUs."""
    vllm_server_base_url: Text = ""
    """Such as ``http://127.0.0.1:8000``."""
    vllm_gpu_memory_utilization: float = 0.3
    """Share of a GPU's memory for vLLM, where it shares the training GPUs."""
    vllm_tensor_parallel_size: Count = 1

    def __post_init__(self) -> None:
        if self.turns == 2:
            raise ValueError(
                "tools.turns is 2; calling and then only accepting decides nothing: 1 or 3"
            )
        if self.vllm == "server" and not self.vllm_server_base_url:
            raise ValueError(
                "tools.vllm is 'server'; give tools.vllm_server_base_url, such as "
                "http://127.0.0.1:8000"
            )

    def vllm_arguments(self) -> dict[str, Any]:
        """The part of TRL's ``GRPOConfig`` that is about vLLM."""
        if self.vllm == "none":
            return {"use_vllm": False}
        found: dict[str, Any] = {"use_vllm": True, "vllm_mode": self.vllm}
        if self.vllm == "server":
            return {**found, "vllm_server_base_url": self.vllm_server_base_url}
        return {
            **found,
            "vllm_gpu_memory_utilization": self.vllm_gpu_memory_utilization,
            "vllm_tensor_parallel_size": self.vllm_tensor_parallel_size,
        }
