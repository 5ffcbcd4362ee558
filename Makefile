# `make demo` and `make test` set up all they need in .venv; a second call finds it done.
# Another interpreter: make PYTHON=python3.12 test

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check

.DELETE_ON_ERROR:
.PHONY: help demo test check bench clean system-packages

help:
	@echo "make demo    convert a real model for NPU, integrated GPU and CPU, run every bundle, show a table"
	@echo "make test    run all tests"
	@echo "make check   format, lint, types"
	@echo "make bench   measure speed against plain onnxruntime"
	@echo "make clean   remove .venv"

demo: $(VENV)/demo.stamp system-packages
	$(BIN)/python -m examples.ocr.demo

test: $(VENV)/dev.stamp system-packages
	$(BIN)/python -m pytest

check: $(VENV)/dev.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --platform linux
	$(BIN)/mypy --platform win32
	$(BIN)/mypy --platform darwin

bench: $(VENV)/dev.stamp system-packages
	$(BIN)/python -m tests.bench

clean:
	rm -rf $(VENV)

system-packages:
	@PYTHON="$(PYTHON)" .ci/system-packages

$(BIN)/python: | system-packages
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "edgert needs Python 3.11 or newer: make PYTHON=python3.12 ..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

# The accelerator plug-ins come last and may be missing: their publishers have no wheel for some systems.
$(VENV)/demo.stamp: pyproject.toml | $(BIN)/python
	@echo "installing edgert and what the demo needs into $(VENV): about a minute"
	$(PIP) install --quiet --editable '.[convert,media,sign]'
	@for extra in npu webgpu; do \
	  $(PIP) install --quiet --editable ".[$$extra]" \
	    || echo "extra '$$extra' cannot be installed here: its row will say that it is absent"; \
	done
	@touch $@

$(VENV)/dev.stamp: $(VENV)/demo.stamp
	$(PIP) install --quiet --editable '.[dev]'
	@touch $@
