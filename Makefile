# make demo: the whole workflow on simulated cells, from nothing.  make test: the tests, from nothing.

PYTHON ?= python3
# requirements-cuda12.txt for older NVIDIA drivers and GPUs: docs/gpus.md.
REQUIREMENTS ?= requirements.txt
SNAKEMAKE = .venv/bin/snakemake

.PHONY: demo test test-cluster test-cluster-quick test-conda gpu-check lint report verify clean-demo

demo: .venv/ready
	$(SNAKEMAKE) arrays --configfile config/demo.yaml
	$(SNAKEMAKE) folds --configfile config/demo.yaml
	$(SNAKEMAKE) --configfile config/demo.yaml
	$(SNAKEMAKE) --report results/demo/report.html --configfile config/demo.yaml

# A process for each core where tests share nothing; those of the workflow use both cores themselves.
test: .venv/ready
	.venv/bin/python -m pytest --numprocesses 2 --dist loadfile tests/unit tests/gpu
	.venv/bin/python -m pytest tests/dag tests/e2e

# On a SLURM that the tests start on this machine (root; apt-get install slurmctld slurmd
# slurm-client): one submission, and everything that can happen to jobs, with the table of it.
test-cluster-quick: .venv/ready
	.venv/bin/python -m pytest tests/cluster/test_submission.py

test-cluster: .venv/ready
	.venv/bin/python -m pytest tests/cluster --table docs/cluster.md

# The workflow through a real conda, with a local channel for conda-forge: docs/environments.md.
test-conda: .venv/ready
	.venv/bin/python -m pytest --durations=5 tests/conda/use_conda.py

# On a machine with a GPU: checks training and prediction on it and measures them, in 12 minutes and
# without a network (MINUTES=6 for less). Its last line says whether all is well.
gpu-check: .venv/ready
	.venv/bin/python benchmarks/gpu_check.py --minutes $(or $(MINUTES),12)

lint: .venv/ready
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/snakefmt --check Snakefile workflow/rules
	.venv/bin/hadolint Dockerfile
	$(SNAKEMAKE) --lint --configfile config/demo.yaml

report: .venv/ready
	$(SNAKEMAKE) --report results/report.html

# Compares all results with the records of their origin, or those of one run: make verify RUN=demo
verify: .venv/ready
	.venv/bin/python workflow/scripts/verify.py $(if $(RUN),--run $(RUN))

# What the demo made; its sources and its states of training too.
clean-demo:
	rm -rf results/demo results/sources/demo_train results/sources/demo_test results/state/train_fold/demo_* results/config/demo_*

# The same environment for everything. `ready` is written last: an installation that broke off is
# done again.
.venv/ready: $(REQUIREMENTS) requirements-common.txt requirements-dev.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, PYTHON=… names one; this is " + sys.version)'
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -r $(REQUIREMENTS) -r requirements-dev.txt
	touch .venv/ready
