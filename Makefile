# Two commands matter: `make demo` and `make test`. Both set everything up first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test test-clients test-system wheel-test lint types check bench long-haul chaos powerloss large format clean

$(VENV)/.ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Headrace needs Python 3.11 or newer; set PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

# Ahead of the tests: each of their processes would do it for itself, and all at the same time. The tests are collected
# because pytest compiles in a way of its own; in two halves, for two processors.
COLLECT = env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest --collect-only -qq
$(VENV)/.compiled: $(VENV)/.ready
	@echo "Compiling the modules and their tests"
	@$(BIN)/python -m compileall -q -j 0 action_provider bus cli endpoint schemas sdk
	@$(COLLECT) tests/unit >/dev/null & $(COLLECT) $(addprefix tests/,integration acceptance chaos) >/dev/null; wait
	@touch $@

demo: $(VENV)/.ready
	$(BIN)/python examples/demo.py

# Two processes for each of two cores: more than half of the time tests wait for other processes. The order is that of tests/conftest.py.
test: $(VENV)/.ready $(VENV)/.compiled
	$(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder

# What needs programs from Debian's packages, such as containers: installs them with apt, as root, then tests with them. Not
# part of `make test`, which needs Python and make only. SYSTEM_TESTS is where what takes long to make is kept.
SYSTEM_TESTS ?= .system-tests
test-system: $(VENV)/.ready
	tests/system/install $(SYSTEM_TESTS) $(BIN)/python
	SYSTEM_TESTS=$(SYSTEM_TESTS) $(BIN)/python -m pytest tests/system

# The public client of action providers, unmodified and in an environment of its own (CLIENT_TESTS), against a service. Not
# part of `make test`, which sends what it was seen to send. RECORD=1 keeps what it sends now.
CLIENT_TESTS ?= .client-tests
$(CLIENT_TESTS)/.ready: tests/clients/requirements.txt
	$(PYTHON) -m venv $(CLIENT_TESTS)
	$(CLIENT_TESTS)/bin/python -m pip install --quiet --disable-pip-version-check -r tests/clients/requirements.txt
	@touch $@

test-clients: $(VENV)/.ready $(CLIENT_TESTS)/.ready
	CLIENT_TESTS=$(CLIENT_TESTS) $(BIN)/python -m pytest tests/clients -p no:randomly

# What a user installs: the built wheel with all its dependencies in a fresh environment, and a function that runs there.
wheel-test: $(VENV)/.ready
	$(BIN)/python tests/packaging/install_and_run.py

# Kills every part at random moments under load. CHAOS_SECONDS (180) is how long, CHAOS_EVENTS (10000) how many events are
# published, CHAOS_SEED repeats an order of failures.
chaos: $(VENV)/.ready
	$(BIN)/python -m pytest tests/chaos -m soak -s -p no:randomly

# Cuts the power of a disk that drops what was not synced; needs root and /dev/fuse. POWERLOSS_CUTS (40) is how often,
# POWERLOSS_SEED repeats an order of failures.
powerloss: $(VENV)/.ready
	$(BIN)/python -m pytest tests/powerloss -m soak -s -p no:randomly

# Two gigabytes there and back, with the peak of memory of every process. LARGE_BYTES is how much.
large: $(VENV)/.ready
	$(BIN)/python -m pytest tests/large -m soak -s -p no:randomly

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/.ready
	$(BIN)/mypy

check: lint types test

format: $(VENV)/.ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# A peer that does not install here is "not available" in the table. BENCH is for options, such as BENCH=--quick.
.venv-bench/.ready: benchmarks/requirements-peers.txt
	$(PYTHON) -m venv .venv-bench
	@grep -v '^#' $< | while read -r peer; do \
	  echo "Installing $$peer"; \
	  .venv-bench/bin/python -m pip install --quiet --disable-pip-version-check "$$peer" || echo "$$peer does not install here"; \
	done
	@touch $@

bench: $(VENV)/.ready $(if $(findstring --quick,$(BENCH)),,.venv-bench/.ready)
	$(BIN)/python -m benchmarks.run $(BENCH)

# What a task costs as stored tasks, queued bundles, endpoints and clients become many. HAUL is for options, such as
# HAUL="--factor 0.01", which takes a minute.
long-haul: $(VENV)/.ready
	$(BIN)/python -m benchmarks.haul $(HAUL)

clean:
	rm -rf $(VENV) .venv-bench .client-tests build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
