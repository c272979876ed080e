# `make demo` and `make test` do everything on a fresh machine, the virtual environment included.
# Another interpreter: make test PYTHON=python3.12        (the versions in constraints.txt need Python 3.11 or newer)
# Another place for the environment: make test VENV=/some/folder

PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= chinese,dev,demo,docs,fast,gliner,lora,onnx,pipelines,plots,search,space,spacy,stanza,thai,trackers
WORKERS ?= 2
FUZZ_CASES ?= 8500
DEMO_RECIPE ?= examples/recipes/demo.yaml

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CODE := hf_structkd docs/site_pages.py examples experiments benchmarks tests

# Tests and the demo never reach for the Hub; one thread per process keeps two test workers from fighting over cores.
OFFLINE := HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 TOKENIZERS_PARALLELISM=false
TEST_ENV := $(OFFLINE) OMP_NUM_THREADS=1

.DEFAULT_GOAL := help
.PHONY: help install demo docs test test-fast coverage mutants fuzz test-min test-flair audit dist lint format

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-16s %s\n", $$1, $$2 }'

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# The stamp is written last, so an interrupted installation is taken up again.
$(STAMP): Makefile setup.cfg pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e ".[$(EXTRAS)]"
	@touch $@

install: $(STAMP) ## create the virtual environment with the tested versions

demo: $(STAMP) ## train teachers, baseline and student on the built-in corpus, about two and a quarter minutes of CPU
	$(OFFLINE) $(BIN)/structkd distill $(DEMO_RECIPE)

docs: $(STAMP) ## build the site into build/site; broken links and undocumented names are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lint: $(STAMP) ## check formatting, lint, types and spelling
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy
	git ls-files -z -- ':!*.json*' ':!*.svg' ':!LICENSE' ':!hf_structkd/data/demo.yaml' \
		':!examples/space/sentences.py' | xargs -0 $(BIN)/codespell

test: lint ## check everything: formatting, lint, types, all tests
	$(TEST_ENV) $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

test-fast: $(STAMP) ## run the tests not marked slow, and stop at the first failure
	$(TEST_ENV) $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -x -m "not slow"

coverage: $(STAMP) ## measure the lines and branches that the tests run, by file, into build/coverage (TESTS= chooses tests)
	$(TEST_ENV) COVERAGE_FILE=$(abspath build/coverage.data) $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(TESTS) \
		--cov --cov-report=term:skip-covered --cov-report=html:build/coverage

# Works on a copy without the decorator torch.compiler.disable, because mutmut does not change decorated functions.
mutants: $(STAMP) ## mutation testing of the CRF, Viterbi, tag schemes and objectives (MUTANTS= chooses mutants)
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt mutmut
	mkdir -p build/mutation
	git ls-files -z $(CODE) docs README.md pyproject.toml setup.cfg | xargs -0 cp --parents -t build/mutation
	sed -i '/^@torch.compiler.disable$$/d' build/mutation/hf_structkd/modeling/crf_paths.py
	cd build/mutation && $(TEST_ENV) $(abspath $(BIN))/mutmut run --max-children $(WORKERS) $(MUTANTS)
	cd build/mutation && $(abspath $(BIN))/mutmut results

fuzz: $(STAMP) ## try more than 100,000 malformed inputs, about an hour of one core (FUZZ_CASES= cases per property)
	$(TEST_ENV) FUZZ_CASES=$(FUZZ_CASES) $(BIN)/python -m pytest tests/fuzz --timeout 7200 --hypothesis-show-statistics

# Environments of their own, created if they are missing. MIN_PYTHON= and NEW_PYTHON= choose the interpreters; otherwise
# those on the PATH, or pyenv's, are used. If an interpreter is missing, its run is skipped with a message. PyPI's torch for
# Linux contains CUDA, some gigabytes; with PIP_EXTRA_INDEX_URL pip can install a build for the CPU only.
python-of = $(shell PYENV_VERSION=$$(pyenv latest $(1) 2>/dev/null) python$(1) -c "import sys; print(sys.executable)" \
	2>/dev/null || echo python$(1))
MIN_PYTHON ?= $(call python-of,3.10)
NEW_PYTHON ?= $(call python-of,3.12)
DEV_TOOLS := hypothesis linkify-it-py markdown-it-py pytest pytest-cov pytest-timeout pytest-xdist

test-min: ## run the fast tests with the lowest versions (Python 3.10) and the newest (Python 3.12), without extras except plots
	$(call test-with,$(MIN_PYTHON),.venv-min,-c constraints-min.txt,)
	$(call test-with,$(NEW_PYTHON),.venv-new,,--upgrade --upgrade-strategy eager)

define test-with
	@if ! command -v $(1) >/dev/null; then echo "SKIPPED: there is no $(1) here"; else set -e; \
		test -x $(2)/bin/python || $(1) -m venv $(2); \
		$(2)/bin/python -m pip install -q --disable-pip-version-check --upgrade "pip>=24"; \
		$(2)/bin/python -m pip install -q --disable-pip-version-check $(3) $(4) -e ".[plots]" $(DEV_TOOLS); \
		$(TEST_ENV) $(2)/bin/python -m pytest -n $(WORKERS) --dist loadfile -m "not slow"; fi
endef

test-flair: $(STAMP) ## test the teachers flair: and span_marker: with these libraries, in an environment of their own
	test -x build/flair/bin/python || $(PYTHON) -m venv build/flair
	build/flair/bin/python -m pip install -q --disable-pip-version-check $$(grep ^torch== constraints.txt)
	build/flair/bin/python -m pip install -q --disable-pip-version-check flair==0.15.1 span_marker==1.8.1 \
		"transformers<5" "huggingface_hub<1" "datasets<4"
	$(TEST_ENV) FLAIR_PYTHON=$(abspath build/flair/bin/python) \
		$(BIN)/python -m pytest tests/teachers/test_other_environments.py --timeout 900

audit: $(STAMP) ## look up known vulnerabilities of the pinned versions on the network; no answer is a failure
	$(BIN)/python -m venv build/audit
	build/audit/bin/python -m pip install -q --disable-pip-version-check pip-audit
	build/audit/bin/pip-audit --strict --no-deps --disable-pip -r constraints.txt

dist: $(STAMP) ## build and check a wheel and an sdist in dist/, and distil with the wheel alone
	rm -rf dist build/lib
	$(BIN)/python -m build --no-isolation -o dist .
	$(BIN)/twine check --strict dist/*
	$(TEST_ENV) $(BIN)/python -m pytest tests/test_dist.py -m slow -p no:cacheprovider

format: $(STAMP) ## rewrite the code into the house style
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)
