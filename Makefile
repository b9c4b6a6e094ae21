# Each target is what CI runs, too. PYTHON chooses the interpreter that the environment is made with.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
DATA ?= data

.PHONY: setup quickstart notebooks results-model test faults odd-inputs bench test-beam lint format

# The stamp is older than the list of dependencies whenever that has changed.
setup: $(VENV)/.installed

$(VENV)/.installed: requirements.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] + ": make PYTHON=...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=23.1'  # older ones fail to build seqeval
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

# Large pages for large arrays: a step on a CPU takes 0.80 to 0.95 of the time (glibc 2.35 and newer).
quickstart notebooks results-model: export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

quickstart: setup  ## text to predictions on this machine, in minutes
	$(BIN)/python -m launch.quickstart

notebooks: quickstart  ## executes the notebooks on what the quickstart made, and on BERT tiny
	$(BIN)/python -m bert_jax.pretrain --config=pretrain_tiny_cpu --workdir=runs/walkthrough \
		--config.data.corpus=runs/quickstart/corpus
	$(BIN)/python -m notebooks.execute

results-model: setup  ## the encoder of README's table, in an hour; DATA=FOLDER with text/*.txt
	test -d runs/results/corpus || $(BIN)/python -m bert_jax.prepare '--source=text:$(DATA)/text' \
		--layout=paragraphs --tokenizer=train:sentencepiece:8000 --output=runs/results/corpus
	$(BIN)/python -m bert_jax.pretrain --config=pretrain_modern_mini \
		--config.data.corpus=runs/results/corpus --workdir=runs/results/modern_mini
	$(BIN)/python -m experiments.committed_losses runs/results/modern_mini

test: setup
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --max-worker-restart=0

faults: setup  ## kills and damage at random moments, and every mesh: half an hour
	$(BIN)/python -m pytest -q -m slow tests

odd-inputs: setup  ## odd inputs by the thousand through the drivers: half an hour; ODD=--only=table
	$(BIN)/python -m tests.odd_inputs $(ODD)

bench: setup  ## speed and memory beside peers and limits: a quarter of an hour; BENCH=--small: three minutes
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,hf]'
	$(BIN)/python -m benchmarks.bench $(BENCH)

test-beam:  ## the test of prepare_beam, in an environment of its own
	test -d .venv-beam || $(PYTHON) -m venv .venv-beam
	.venv-beam/bin/python -m pip install --quiet --upgrade 'pip>=23.1'
	.venv-beam/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,beam]'
	.venv-beam/bin/python -m pytest -q tests/drivers/test_prepare_beam.py

lint: setup
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m ruff check .
	$(BIN)/python -m pyright
	$(BIN)/python -m docs.check

format: setup
	$(BIN)/python -m ruff format .
	$(BIN)/python -m ruff check --fix .
