# Three commands for a fresh machine with Python 3.11+: `make up` serves, `make setup` prepares for training and
# evaluation as well, `make test` tests. Each first installs into .venv what it needs and no more.
PYTHON ?= python3
# PyPI's build of torch for Linux is the CUDA one, of 3 GB: for a GPU, give TORCH_INDEX=https://pypi.org/simple.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
VENV := .venv
BIN := $(VENV)/bin
# Without compiling: Python compiles what it imports when it first does, which is a small part of what is installed.
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --no-compile
SERVING := requirements/api.txt requirements/worker.txt requirements/embedded.txt
TRAINING := requirements/tracing.txt requirements/trainer.txt
DEVELOPING := requirements/dev.txt
# What is installed, by the files that say so.
SERVE_STAMP := $(VENV)/.installed
TRAIN_STAMP := $(VENV)/.installed-training
DEVELOP_STAMP := $(VENV)/.installed-developing
DOCS_STAMP := $(VENV)/.installed-docs
KERNELS_STAMP := $(VENV)/.installed-kernels
CLIENTS := .venv-clients
CLIENTS_STAMP := $(CLIENTS)/.installed

# What bandit is not asked: ruff's S rules judge it line by line, with the reason beside every exception (B101 assert,
# B104 an address of all interfaces, B310 urlopen, B311 random, B603 subprocess), and B404, that subprocess is imported
# at all, says nothing beside B603. Bandit adds what ruff lacks, as text that reads otherwise than it runs (B613) and
# torch.load (B614).
JUDGED_BY_RUFF := B101,B104,B310,B311,B404,B603

.PHONY: setup up test test-all lint docs kernels screenshots clean

$(SERVE_STAMP): pyproject.toml requirements/torch.txt $(SERVING)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --no-deps --require-hashes $(SERVING:%=--requirement %)
	@# A wheel that pip is told of (PIP_FIND_LINKS), or the index.
	$(PIP) --no-index --no-deps --requirement requirements/torch.txt 2>/dev/null || \
		$(PIP) --index-url $(TORCH_INDEX) --requirement requirements/torch.txt
	$(PIP) --no-deps --no-build-isolation --editable .
	touch $@

$(TRAIN_STAMP): $(SERVE_STAMP) $(TRAINING)
	$(PIP) --no-deps --require-hashes $(TRAINING:%=--requirement %)
	touch $@

$(DEVELOP_STAMP): $(TRAIN_STAMP) $(DEVELOPING)
	$(PIP) --no-deps --require-hashes $(DEVELOPING:%=--requirement %)
	touch $@

$(DOCS_STAMP): $(DEVELOP_STAMP) requirements/docs.txt
	$(PIP) --no-deps --require-hashes --requirement requirements/docs.txt
	touch $@

$(KERNELS_STAMP): $(DEVELOP_STAMP) requirements/kernels.txt
	$(PIP) --no-deps --require-hashes --requirement requirements/kernels.txt
	touch $@

# In an environment of their own: they need other versions than ours.
$(CLIENTS_STAMP): requirements/clients.txt
	test -x $(CLIENTS)/bin/python || $(PYTHON) -m venv $(CLIENTS)
	$(CLIENTS)/bin/python -m pip --disable-pip-version-check install --quiet --no-compile --no-deps --require-hashes \
		--requirement requirements/clients.txt
	touch $@

setup: $(TRAIN_STAMP)

# exec: signals must reach `neuron up` itself, which stops everything in order.
up: $(SERVE_STAMP)
	@exec $(BIN)/neuron up

# A process for each core, and a file of tests is one process's work: its tests share stacks.
PYTEST := $(BIN)/python -m pytest --numprocesses=auto --maxprocesses=8 --dist=loadfile --no-loadscope-reorder

# quick: a fifth of the examples of each property
test: $(DEVELOP_STAMP)
	$(PYTEST) -m 'not slow' --hypothesis-profile=quick

test-all: $(DEVELOP_STAMP) $(CLIENTS_STAMP)
	$(PYTEST) --durations=25

# The kernels for GPUs, without one: compiled for an H100, and interpreted.
kernels: $(KERNELS_STAMP)
	$(BIN)/python .ci/compile_kernels.py
	TRITON_INTERPRET=1 $(BIN)/python -m pytest -k 'kernel' tests/model/test_triton_elementwise.py \
		tests/engine/test_graph_backend.py

lint: $(DEVELOP_STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/bandit --quiet --recursive --skip $(JUDGED_BY_RUFF) api benchmarks cli contract engine evaluation \
		heatmaps model monitoring recurrent sentiment_neuron texts trainer worker
	$(BIN)/hadolint Dockerfile
	$(BIN)/python .ci/audit.py

# The pages as a site in site/; a link or an anchor that leads nowhere is an error.
docs: $(DOCS_STAMP)
	$(BIN)/mkdocs build --strict

# The pictures of the README, of the page that a running service serves at URL.
URL ?= http://127.0.0.1:8000
screenshots: $(DEVELOP_STAMP)
	$(BIN)/python -m benchmarks.screenshots $(URL) docs

clean:
	rm -rf $(VENV) $(CLIENTS) site
