# Two commands set up everything on a fresh machine: `make run` and `make test`.
PYTHON ?= python3
# auto: CUDA where there is a driver, else the CPU build of torch (needs PyTorch's own index). See docs/installation.md
TORCH_BACKEND ?= auto
# 2.14.1 was tried: weights and metrics equal those of 2.13.0 bit for bit, and importing it takes 650 MB of memory where
# 2.13.0 takes 224. 2.15.0 is out and was not tried.
TORCH ?= torch==2.13.0
BIN := .venv/bin
# `kedro mlflow ui` calls mlflow by its name
export PATH := $(CURDIR)/$(BIN):$(PATH)
export DO_NOT_TRACK = 1
export MLFLOW_DISABLE_TELEMETRY = true

.PHONY: run test test-scale lint soak audit bench bench-quality viz ui requirements clean

run: .venv/installed
	$(BIN)/kedro run
	@echo
	@echo "Comparing the runs:   make ui     (kedro mlflow ui)"
	@echo "Lineage:              make viz    (kedro viz)"
	@echo "One method:           $(BIN)/kedro run --pipeline=train --params loss=cvar"

test: lint
	$(BIN)/pytest -n 2 --dist loadfile

# What needs an extra of docs/scale.md, in an environment of its own that has them all
test-scale: .venv-scale/installed
	.venv-scale/bin/python -m pytest tests/scale

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Kills at random moments, first runs at once, four processes on one project: docs/reliability.md
soak: .venv/installed
	$(BIN)/python -m tests.soak $(SOAK)

# Known vulnerabilities of what requirements.txt pins; fails where the service of the advisories cannot be reached
audit: .venv/installed
	$(BIN)/python -m pip_audit --requirement requirements.txt --require-hashes --disable-pip --strict

bench: .venv/installed
	$(BIN)/python -m benchmarks

bench-quality: .venv/installed
	$(BIN)/python -m benchmarks --quality

viz: .venv/installed
	$(BIN)/kedro viz

ui: .venv/installed
	$(BIN)/kedro mlflow ui

# An environment from its lock. torch first and by itself, so that nothing else pulls CUDA packages where a CPU build will
# do; the rest is pinned and hashed. Where PyTorch's index cannot be reached, pip's own choice of the same version is taken.
define install
@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v < (3, 14) else f"Python 3.11 to 3.13 is needed, $(PYTHON) is {v.major}.{v.minor}; say another with make PYTHON=python3.12")'
$(PYTHON) -m venv $(@D)
$(@D)/bin/python -m pip install --quiet "$$(grep -o '^uv==[0-9.]*' $<)"
$(@D)/bin/python -c "import torch" 2>/dev/null \
	|| $(@D)/bin/uv pip install --quiet --python $(@D)/bin/python --torch-backend=$(TORCH_BACKEND) "$(TORCH)" 2>/dev/null \
	|| $(@D)/bin/python -m pip install --quiet "$(TORCH)"
$(@D)/bin/python -m pip install --quiet --no-deps --require-hashes -r $<
$(@D)/bin/python -m pip install --quiet --no-deps --editable .
touch $@
endef

.venv/installed: requirements.txt pyproject.toml
	$(install)

.venv-scale/installed: requirements-scale.txt pyproject.toml
	$(install)

# The newest of what pyproject.toml and its extras ask for, resolved for every supported Python; torch and what only torch
# needs stay out (see above). The extras of docs/scale.md have a lock of their own.
COMPILE := $(BIN)/uv pip compile pyproject.toml --upgrade --universal --python-version 3.11 --generate-hashes --quiet \
	--override .venv/without-torch.txt --no-emit-index-url --no-header
requirements:
	echo 'torch; python_version < "3"' > .venv/without-torch.txt
	$(COMPILE) --extra dev --extra onnx --output-file requirements.txt
	$(COMPILE) --all-extras --output-file requirements-scale.txt

clean:
	rm -rf .venv .venv-scale build dist src/*.egg-info
