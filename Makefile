# Two commands for a fresh machine with Python 3.11+: `make up` serves, `make test` tests. Both set up .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DOCS_STAMP := $(VENV)/.installed-docs

# What bandit is not asked: ruff's S rules judge it line by line, with the reason beside every exception (B101 assert,
# B104 an address of all interfaces, B310 urlopen, B603 subprocess), and B404, that subprocess is imported at all, says
# nothing beside B603. Bandit adds what ruff lacks, as text that reads otherwise than it runs (B613) and torch.load (B614).
JUDGED_BY_RUFF := B101,B104,B310,B404,B603

.PHONY: setup up test test-all lint docs clean

setup: $(STAMP)

# pip, not another installer: it takes the CPU build of torch where a wheel of it is at hand.
$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --editable '.[worker,trainer,embedded,dev]'
	touch $(STAMP)

# exec: signals must reach `neuron up` itself, which stops everything in order.
up: setup
	@exec $(BIN)/neuron up

# A process for each core, and a file of tests is one process's work: its tests share stacks.
PYTEST := $(BIN)/python -m pytest --numprocesses=auto --maxprocesses=8 --dist=loadfile --no-loadscope-reorder

# quick: a fifth of the examples of each property
test: setup
	$(PYTEST) -m 'not slow' --hypothesis-profile=quick

test-all: setup
	$(PYTEST)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/bandit --quiet --recursive --skip $(JUDGED_BY_RUFF) api benchmarks cli contract engine evaluation model \
		monitoring sentiment_neuron trainer worker
	$(BIN)/hadolint Dockerfile
	$(BIN)/python .ci/audit.py

$(DOCS_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $(DOCS_STAMP)

# The pages as a site in site/; a link or an anchor that leads nowhere is an error.
docs: $(DOCS_STAMP)
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) site
