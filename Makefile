PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python

.PHONY: demo test faults lint bench clean

# From nothing to a table of per-disease AUROC, on a sample release drawn here.
demo: $(VENV)/installed data/sample/Data_Entry_2017.csv
	$(PY) build_dataset.py --data_dir data/sample --output_dir data/sample_records --image_size 96 --shard_size 128
	for experiment in demo_cnn demo_cnn_small demo_ensemble; do \
		$(PY) train.py --model_dir experiments/$$experiment --data_dir data/sample_records --restart || exit 1; \
	done
	$(PY) evaluate.py --model_dir experiments/demo_cnn --data_dir data/sample_records --split test --at_least 0.90
	$(PY) evaluate.py --model_dir experiments/demo_ensemble --data_dir data/sample_records --split test --at_least 0.90
	$(PY) -m tools.localize --model_dir experiments/demo_cnn --data_dir data/sample
	$(PY) -m tools.report --model_dir experiments/demo_cnn --data_dir data/sample_records
	$(PY) -m tools.report --data_dir data/sample_records
	@echo "report: experiments/demo_cnn/report_test.html"
	@echo "try it: $(PY) -m pip install -r requirements/serve.txt && $(PY) -m tools.serve --model_dir experiments/demo_cnn"
	@echo "watch the training: $(VENV)/bin/tensorboard --logdir experiments"

data/sample/Data_Entry_2017.csv: | $(VENV)/installed
	$(PY) -m tools.make_sample --output_dir data/sample

# Three workers for two cores, since many tests wait for a process that they have started. Python keeps the bytecode of
# modules, which hundreds of processes read, also where the variable below says that it should not.
test: export PYTHONDONTWRITEBYTECODE =
test: $(VENV)/installed-dev
	$(PY) -m pytest -n 3 --dist loadfile --no-loadscope-reorder

# What can go wrong while building, in full: 50 kills, 15,000 mutations; `make test` has a shorter round.
faults: $(VENV)/installed-dev
	FAULTS=full $(PY) -m pytest tests/end_to_end/test_faults.py tests/release/test_fuzz.py

lint: $(VENV)/installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

# One benchmark for each promise about speed; .venv-torch holds the libraries that are compared with.
# ORIGINALS: a release with original PNGs in its folder images/. RELEASE: one with all tables, and any images.
ORIGINALS ?= ../shared/nih-1024
RELEASE ?= ../shared/nih-128
TORCH := .venv-torch/bin/python
bench: $(VENV)/installed-dev .venv-torch/installed demo
	$(PY) -m bench.build --data_dir $(ORIGINALS) --whole $(RELEASE)
	$(PY) -m bench.verify --data_dir data/sample_records --release_dir data/sample
	$(PY) -m bench.input --data_dir $(ORIGINALS) --torch_python $(TORCH)
	$(PY) -m bench.slow_storage
	$(PY) -m bench.train --data_dir $(ORIGINALS) --torch_python $(TORCH)
	$(PY) -m bench.extract --torch_python $(TORCH)
	$(PY) -m bench.head
	$(PY) -m bench.epochs --data_dir $(RELEASE)
	$(PY) -m bench.release --data_dir $(RELEASE)
	$(PY) -m bench.predict --model_dir experiments/demo_cnn
	$(PY) -m bench.search --data_dir data/sample_records

$(VENV)/installed: requirements.txt
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet -r requirements.txt
	touch $@

$(VENV)/installed-dev: requirements/dev.txt $(VENV)/installed
	$(PY) -m pip install --quiet -r requirements/dev.txt
	touch $@

.venv-torch/installed: bench/requirements-torch.txt
	$(PYTHON) -m venv .venv-torch
	.venv-torch/bin/python -m pip install --quiet -r bench/requirements-torch.txt
	touch $@

clean:
	rm -rf data/sample data/sample_records .pytest_cache .ruff_cache
