"""``python -m integrations.demo``."""

from integrations.demo.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
