"""The judge's report: one offline HTML page, and the JSON of every figure on it.

charts      what to draw, in the units of the picture
page        the page: figures in words and charts, through an escaping template
"""

from __future__ import annotations

from xrouter_lg.judge.report.page import render, write_report

__all__ = ["render", "write_report"]
