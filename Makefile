# `make demo` and `make test` set up all they need in .venv; a second call finds it done.
# Another interpreter: make PYTHON=python3.12 test

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check

.DELETE_ON_ERROR:
.PHONY: help demo test test-all soak check bench bench-link bench-convert accuracy clean system-packages

help:
	@echo "make demo    convert a real model for NPU, integrated GPU and CPU, run every bundle, show a table"
	@echo "make test    run the tests, with PyTorch, Hugging Face, TFLite, scikit-learn and XGBoost for real"
	@echo "make test-all  the same with TensorFlow and PaddlePaddle"
	@echo "make soak    100,000 hostile payloads and 10,000 rows of faults for the link: hours"
	@echo "make check   format, lint, types"
	@echo "make bench   measure speed against plain onnxruntime"
	@echo "make bench-link  measure the telemetry link: bytes, flash, memory, records a second, time beside a model"
	@echo "make bench-convert  measure conversions against quantize_static, onnxslim, NNCF, OpenVINO and LiteRT: half an hour"
	@echo "make accuracy  convert real models of every framework for three devices and measure them on labelled data"
	@echo "make clean   remove .venv"

demo: $(VENV)/demo.stamp system-packages
	$(BIN)/python -m examples.ocr.demo

test: $(VENV)/sources.stamp system-packages
	$(BIN)/python -m pytest

test-all: $(VENV)/all-sources.stamp system-packages
	EDGERT_ALL_SOURCES=1 $(BIN)/python -m pytest

soak: $(VENV)/dev.stamp system-packages
	EDGERT_SOAK=1 $(BIN)/python -m pytest tests/attacks/test_wire_bombs.py tests/contracts/test_link.py tests/link/test_chaos.py

check: $(VENV)/dev.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --platform linux
	$(BIN)/mypy --platform win32
	$(BIN)/mypy --platform darwin

bench: $(VENV)/dev.stamp system-packages
	$(BIN)/python -m tests.bench

bench-link: $(VENV)/dev.stamp system-packages
	$(BIN)/python -m tests.bench_peers.install sparkplug || echo "Sparkplug B will be missing in the table"
	$(BIN)/python -m tests.bench_link

bench-convert: $(VENV)/peers.stamp system-packages
	$(BIN)/python -m tests.bench_convert --json bench-convert.json

accuracy: $(VENV)/all-sources.stamp system-packages
	$(BIN)/python -m tests.accuracy

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
	$(PIP) install --quiet --editable '.[convert,media,text,sign,mqtt]'
	@for extra in npu webgpu; do \
	  $(PIP) install --quiet --editable ".[$$extra]" \
	    || echo "extra '$$extra' cannot be installed here: its row will say that it is absent"; \
	done
	@touch $@

# pysparkplug reads what the link writes, in tests; it asks for a paho-mqtt below 2, of which it imports only what 2 has, too.
$(VENV)/dev.stamp: $(VENV)/demo.stamp
	$(PIP) install --quiet --editable '.[dev]'
	$(PIP) install --quiet --no-deps 'pysparkplug==0.6.1'
	@touch $@

# The frameworks that models come from, each in an environment of its own in edgert's cache folder. Where one cannot be
# installed the tests that need it say so and skip.
$(VENV)/sources.stamp: converters/sources/environments.py $(VENV)/dev.stamp
	@echo "installing the frameworks that models come from (huggingface, tensorflow, sklearn): some minutes, 3 GB"
	@for name in huggingface tensorflow sklearn; do \
	  $(BIN)/edgert sources install $$name || echo "source '$$name' cannot be installed here: its tests will skip"; \
	done
	@touch $@

$(VENV)/all-sources.stamp: $(VENV)/sources.stamp
	@for name in paddle paddle2; do \
	  $(BIN)/edgert sources install $$name || echo "source '$$name' cannot be installed here: its tests will skip"; \
	done
	@touch $@

# The engines that `make bench-convert` compares with, each in an environment of its own. One that cannot be installed
# has a row that says so.
$(VENV)/peers.stamp: tests/bench_peers/install.py $(VENV)/sources.stamp
	@echo "installing the engines to compare with (onnxslim, OpenVINO, NNCF, LiteRT): a minute, 1 GB"
	$(BIN)/python -m tests.bench_peers.install || echo "not all could be installed here: their rows will say so"
	@touch $@
