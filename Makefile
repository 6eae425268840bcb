# Two commands for a fresh machine: `make demo` and `make test`. Both may be run again at any time.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
TRAINING := $(VENV)/.training
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
CLIENTS := $(VENV)/clients
TORCH := $(shell sed -n 's/^torch==//p' constraints.txt)

.PHONY: docs dist faults soak demo demo-rules langsmith-demo test test-clients test-core test-wheel check audit bench clean help

help:
	@echo "make demo        three weeks of an app that learns from its traces, on recorded answers"
	@echo "make demo-rules  no training: rules route 20 questions over two real local models"
	@echo "make langsmith-demo  traces from LangSmith to outcomes, over real HTTP to a local server"
	@echo "make test        install everything, and run all tests but those of the wheel"
	@echo "make test-core   the same without torch and what needs it: a quarter of the download"
	@echo "make test-wheel  build the wheel, install it into a clean environment, and use every command"
	@echo "make test-clients  langgraph dev, litellm's client and OpenAI's for JavaScript, each where it can't disturb"
	@echo "make check       format, lint, types, import direction over all roots, and licences"
	@echo "make audit       asks the network for known holes of the pinned versions (pip-audit)"
	@echo "make docs        the pages as a site in build/site; offline, and every link is checked"
	@echo "make dist        wheel and sdist in dist/, and what a release has to pass; minutes"
	@echo "make faults      every kind of failure on every surface, and texts of five megabytes; minutes"
	@echo "make soak        ten minutes of faults on everything at once; ARGS='--seconds 60' for one"
	@echo "make bench       overhead, throughput and the trace store"

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; this is " + sys.version.split()[0] + ". Say which: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
	  $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo '$(PYTHON) makes no virtual environments: install what it lacks (Debian, Ubuntu: sudo apt install python3-venv), or say which does: make PYTHON=/path/to/python3' >&2; \
	    exit 1; }; \
	  $(PYTHON) -m venv $(VENV); }
	$(PIP) -e ".[cli,llama-cpp,dev]"
	touch $@

# Without a GPU the wheel for CPUs: from where pip looks, else uv knows where it is. Where neither
# finds it, the index's own, which is larger and runs on CPUs too.
$(TRAINING): $(INSTALLED)
	@if command -v nvidia-smi >/dev/null; then $(PIP) torch; \
	elif ! $(PIP) "torch==$(TORCH)+cpu" 2>/dev/null; then \
	  $(PIP) uv && $(BIN)/uv pip install --quiet --python $(BIN)/python --torch-backend=cpu "torch==$(TORCH)" \
	  || $(PIP) "torch==$(TORCH)"; \
	fi
	$(PIP) -e ".[train]"
	touch $@

demo: $(INSTALLED)
	$(BIN)/python -m integrations.demo $(ARGS)

demo-rules: $(INSTALLED)
	$(BIN)/python -m integrations.llama_cpp demo

langsmith-demo: $(INSTALLED)
	$(BIN)/python -m integrations.langsmith demo

# One thread a worker: two that each take all processors are slower than one.
test: $(TRAINING)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not wheel and not dist" $(ARGS)

test-core: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 -m "not wheel and not dist and not train" $(ARGS)

# Environments of their own: each pins packages that others here want in another version.
$(CLIENTS)/.installed: $(INSTALLED)
	$(BIN)/python -m venv $(CLIENTS)/studio
	$(CLIENTS)/studio/bin/pip install --quiet --disable-pip-version-check -e ".[data]" "langgraph-cli[inmem]"
	$(BIN)/python -m venv $(CLIENTS)/litellm
	$(CLIENTS)/litellm/bin/pip install --quiet --disable-pip-version-check litellm
	npm install --silent --no-fund --prefix $(CLIENTS) openai
	touch $@

test-clients: $(CLIENTS)/.installed
	PATH="$$PATH:$(abspath $(CLIENTS))/studio/bin:$(abspath $(CLIENTS))/litellm/bin" \
	  NODE_PATH="$(abspath $(CLIENTS))/node_modules" $(BIN)/python -m pytest -rs $(ARGS) \
	  tests/graphs_to_copy/test_studio.py tests/serve/test_clients.py

test-wheel: $(INSTALLED)
	$(BIN)/python -m pytest -m wheel $(ARGS)

check: $(TRAINING)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tests.support.licences

# Asks the network for what is known of every pinned version, so it is no part of check.
audit: $(INSTALLED)
	$(PIP) pip-audit
	$(BIN)/pip-audit --no-deps --disable-pip -r constraints.txt $(ARGS)

docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# Clean environments by uv; Python 3.12 to 3.14 where they are installed. The date is the last commit's.
dist: $(INSTALLED)
	$(PIP) build twine uv
	$(BIN)/python -m pytest -m dist --override-ini=timeout=3600 --durations=0 $(ARGS) tests/release

faults: $(INSTALLED)
	XROUTER_LONG_TESTS=1 $(BIN)/python -m pytest tests/faults tests/contract/test_linear_time.py \
	  tests/pool/test_hostile_pool.py tests/checkpoints/test_hostile_checkpoint.py $(ARGS)

soak: $(INSTALLED)
	$(BIN)/python -m tests.faults.soak $(ARGS)

bench: $(INSTALLED)
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/throughput.py
	$(BIN)/python -m benchmarks.experiments.load
	$(BIN)/python benchmarks/store.py

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
