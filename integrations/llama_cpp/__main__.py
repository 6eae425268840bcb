"""Entry point of ``python -m integrations.llama_cpp``."""

from __future__ import annotations

import sys

from .cli import main

sys.exit(main())
