# Four verbs. `make demo ARGS=--once`, `make test ARGS=tests/protocol`, `make PYTHON=python3.12 test`.
PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
INSTALLED := .venv/.installed
# Empty is as good as not set. Set, every process that a test starts would compile the whole project anew.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test lint check bench

demo: $(INSTALLED)
	@$(BIN)/python -m deploy.demo $(ARGS)

# ARGS narrows the tests; alone, everything runs. The closing line is pytest's.
test: lint
	@sh .ci/mosquitto
	@sh .ci/strace
	@sh .ci/tests $(ARGS)

check: lint
	@$(BIN)/mypy

lint: $(INSTALLED)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports

bench: $(INSTALLED)
	@$(BIN)/python -m benchmarks $(ARGS)

# Everything from the lock, each file by its hash; again only when the lock or the project changes.
$(INSTALLED): constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Metergate needs Python 3.11 or newer, and '$(PYTHON)' is not: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@test -x $(BIN)/pip || { echo "making .venv with $(PYTHON)"; $(PYTHON) -m venv .venv; }
	@echo "installing what constraints.txt names into .venv"
	@sh .ci/install
	@touch $@
