"""LangSmith: pull traces into the local store, push feedback and experiments, read bulk exports."""

from xrouter_lg.langsmith.bulk_export import is_bulk_export, read_bulk_export

__all__ = ["is_bulk_export", "read_bulk_export"]
