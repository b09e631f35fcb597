# One command surface: people, hooks and CI call these and nothing else.
#
#   PORT=8000           where `make serve` listens
#   TORCH=auto|cpu|cuda which build of torch to install (auto: cuda only where there is an NVIDIA card)
#   PART=, RESULT=      of `make bench-gpu`: ours, peers or server, and the JSON that it is merged into
#   ARGS="..."          passed on to the command behind a target

PYTHON ?= python3
PORT ?= 8000
TORCH ?= auto
ARGS ?=
PART ?= ours
RESULT ?= benchmarks/results/gpu.json
DOCKER ?= docker
IMAGE ?= cpu
VENV := .venv
BIN := $(VENV)/bin
TORCH_VERSION := $(shell sed -n 's/^torch==//p' constraints.txt)
NVIDIA := $(shell command -v nvidia-smi 2>/dev/null)
BUILD := $(if $(filter auto,$(TORCH)),$(if $(NVIDIA),cuda,cpu),$(TORCH))
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help install install-dev serve test test-fast test-gpu lint format types bench bench-gpu bench-sdxl-cpu train train-muse eval-model eval-fid eval-clip browser \
  wheel clean install-ray docker check-docker trial-docker trial-rolling trial-ray haproxy promtool

help:  ## Show this help
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

serve: install  ## Serve http://127.0.0.1:8000 on the embedded model (PORT=, ARGS="--model ...")
	$(BIN)/onestroke serve --port $(PORT) $(ARGS)

test: install-dev browser  ## Run every test
	$(BIN)/python -m pytest $(ARGS)

test-fast: install-dev  ## Run the tests that need neither the model nor a browser
	$(BIN)/python -m pytest -m "not integration and not browser" $(ARGS)

test-gpu: install-dev  ## Run the tests that need a CUDA device (skipped without one)
	$(BIN)/python -m pytest tests -m gpu $(ARGS)

lint: install-dev  ## Check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: install-dev  ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: install-dev  ## Check types, strictly
	$(BIN)/mypy

bench: install-dev  ## Measure this machine: pipeline, HTTP, socket, typists, peers beside it (under ten minutes)
	$(BIN)/python -m benchmarks $(ARGS)

bench-sdxl-cpu: install-dev  ## SDXL Turbo's exact shapes on this CPU against diffusers' call (9 GiB of memory)
	$(BIN)/python -m benchmarks.sdxl_cpu $(ARGS)

bench-gpu: install-dev  ## A card: PART=ours, peers or server, each under ten minutes, merged into RESULT
	$(BIN)/python -m benchmarks.gpu --part $(PART) --out $(RESULT) $(ARGS)

train: install-dev  ## Train the embedded model (ARGS="--minutes 60"; resumes, warm-starts)
	$(BIN)/python -m training all $(ARGS)

train-muse: install-dev  ## Train a small Muse into training/work/muse/model (on a GPU where there is one; resumes)
	$(BIN)/python -m training data
	$(BIN)/python -m training muse $(ARGS)
	$(BIN)/python -m training muse-sheets

eval-model: install-dev  ## Examine the embedded model by a judge trained apart (trained first, forty minutes, once)
	$(BIN)/python -m training judge
	$(BIN)/python -m training examine $(ARGS)

eval-fid: install-dev  ## FID, for weights and pictures by path (ARGS="--inception FILE --real FOLDER --drawn FOLDER --protocol add")
	$(BIN)/python -m training.papers fid $(ARGS)

eval-clip: install-dev  ## CLIP score (ARGS="--clip FOLDER --captions FILE --drawn FOLDER --protocol add")
	$(BIN)/python -m training.papers clip $(ARGS)

docker:  ## Build the image onestroke:cpu (IMAGE=cuda, ARGS="--build-arg BASE=...")
	DOCKER_BUILDKIT=1 $(DOCKER) build -f docker/Dockerfile --target $(IMAGE) -t onestroke:$(IMAGE) $(ARGS) .

check-docker: $(VENV)/.installed-deploy haproxy promtool  ## Check docker/: image, compose, Kubernetes, balancer, alerts
	docker/check.sh

trial-docker: $(VENV)/.installed-deploy  ## Real containers: build, compose up, draw through HAProxy, kill a replica (root, Debian)
	docker/trial.sh

trial-rolling: install-dev haproxy  ## Restart two replicas behind HAProxy under load: nothing may be lost
	PATH="$$PATH:/usr/sbin" $(BIN)/python -m tests.trials.rolling $(ARGS)

trial-ray: $(VENV)/.installed-ray haproxy  ## A Ray cluster of two local nodes under load: deployed anew, a replica killed, a node killed
	$(BIN)/python -m tests.trials.ray_cluster $(ARGS)

wheel: install-dev  ## Build the wheel into dist/
	$(BIN)/python -m build --wheel

browser:  # a headless Chromium for the page's tests: brought on Debian as root, asked for elsewhere
	@command -v chromium chromium-browser google-chrome >/dev/null 2>&1 || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "installing Chromium for the page's tests"; \
	    (apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium) >/dev/null; \
	  else echo "no Chromium here: the page's tests will be skipped"; fi; }

haproxy promtool:  # brought on Debian as root, asked for elsewhere
	@PATH="$$PATH:/usr/sbin" command -v $@ >/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "installing $@"; \
	    (apt-get update -qq && apt-get install -y -qq --no-install-recommends $(subst promtool,prometheus,$@)) >/dev/null; \
	  else echo "no $@ here: install it for what it checks"; fi; }

install: $(VENV)/.installed  ## Make .venv and install the server
install-dev: $(VENV)/.installed-dev  ## The same with the tools for tests, benchmarks and training

# The CPU build is taken from wherever pip finds one; uv knows PyTorch's own index where pip does not.
$(VENV)/.torch: constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@test "$(BUILD)" = cpu -o "$(BUILD)" = cuda || { echo "TORCH must be auto, cpu or cuda"; exit 1; }
	@$(BIN)/python -c "import torch" 2>/dev/null || { \
	  if [ "$(BUILD)" = cuda ]; then \
	    echo "installing torch $(TORCH_VERSION) for CUDA: about 3 GB to download"; \
	    $(PIP) torch==$(TORCH_VERSION); \
	  elif [ "$$(uname -s)" = Darwin ]; then \
	    echo "installing torch $(TORCH_VERSION): about 90 MB to download"; \
	    $(PIP) torch==$(TORCH_VERSION); \
	  else \
	    echo "installing torch $(TORCH_VERSION) for the CPU: about 190 MB to download"; \
	    $(PIP) torch==$(TORCH_VERSION)+cpu 2>/dev/null || { \
	      $(PIP) uv && $(BIN)/uv pip install --python $(BIN)/python --torch-backend cpu torch==$(TORCH_VERSION); }; \
	  fi; }
	@touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml
	@echo "installing onestroke and what it needs: about 60 MB to download"
	$(PIP) -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed clients/python/pyproject.toml
	@echo "installing the tools for tests, benchmarks and training: about 140 MB to download"
	$(PIP) -e ".[dev,train,bench]" -e clients/python
	@touch $@

$(VENV)/.installed-deploy: $(VENV)/.installed-dev
	$(PIP) -e ".[deploy]"
	@touch $@

install-ray: $(VENV)/.installed-ray  ## Ray Serve: to serve on it, and to measure it beside ours by `make bench`

$(VENV)/.installed-ray: $(VENV)/.installed-dev
	@echo "installing Ray Serve: about 100 MB to download, 400 MB installed"
	$(PIP) -e ".[ray]"
	@touch $@

clean:  ## Remove what builds and tests leave (not .venv)
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache server/*.egg-info
