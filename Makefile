# Two commands do everything on a fresh machine: `make quickstart` and `make test`.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# More options for pip. On a machine without a GPU, PyTorch's own index of CPU builds saves gigabytes:
#   make quickstart PIP="--extra-index-url https://download.pytorch.org/whl/cpu"
PIP    ?=

.PHONY: help quickstart test check format clean

help:
	@echo "make quickstart   set up .venv and distil a first retriever (about 5 minutes on two cores, once installed)"
	@echo "make test         set up .venv and run the tests"
	@echo "make check        ruff and mypy"
	@echo "make format       format the code"
	@echo "make clean        remove .venv"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "retrodistill needs Python 3.11 or newer, $(PYTHON) is older; run: make PYTHON=python3.12 ..."; exit 1; }
	@echo "== making $(VENV)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

# torch comes first, so that what depends on it does not choose another build
define install
	@echo "== installing retrodistill[$(1)] into $(VENV)"
	$(BIN)/python -m pip install $(PIP) --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install $(PIP) --quiet --constraint constraints.txt --editable ".[$(1)]"
	@touch $@
endef

$(VENV)/.quickstart: $(BIN)/python pyproject.toml constraints.txt
	$(call install,quickstart)

$(VENV)/.dev: $(BIN)/python pyproject.toml constraints.txt
	$(call install,dev)

quickstart: $(VENV)/.quickstart
	@echo "== retrodistill run recipes/quickstart.yaml"
	$(BIN)/retrodistill run recipes/quickstart.yaml

test: $(VENV)/.dev
	@echo "== pytest"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

check: $(VENV)/.dev
	@echo "== ruff, mypy"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV)
