# `make book` and `make test` need git, Python 3.11 or newer and make, and nothing else. `make` alone lists the verbs.

# The first Python on the path that is new enough; without one, set-up says so.
PYTHON ?= $(or $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done),python3)
BIN := .venv/bin

# One thread a kernel: two notebooks then share two cores, and sums are taken in one order wherever the tests run.
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help setup book pdf test colab bench execute mutants lock newest clean

help:
	@sed -n 's/^\([a-z]*\):.*## /make \1:/p' Makefile | while IFS=: read verb what; do printf '%-14s%s\n' "$$verb" "$$what"; done

setup:
	@command -v $(PYTHON) >/dev/null || { echo "set-up: no Python found; install Python 3.11 or newer" >&2; exit 1; }
	@$(PYTHON) book/_tools/setup_env.py

# Always from nothing: a page taken out of the contents would stay, and a page not written anew shows its warning only once.
book: setup  ## build the book from its stored outputs, strictly: a warning is an error
	@rm -rf _build/html _build/.doctrees
	@$(BIN)/jupyter-book build . -W --keep-going -q
	@touch _build/html/.built

# What the site is made of; the tests take a site that is newer than all of it.
_build/html/.built: _config.yml _toc.yml index.md Makefile pyproject.toml constraints.txt $(shell find book ddpm_core -mindepth 1 ! -path '*/__pycache__*' ! -path '*/.ipynb_checkpoints*')
	@$(MAKE) book

pdf: book  ## print the book into one file, _build/ddpm-book.pdf, its solutions open; needs Chromium or Chrome
	@$(BIN)/python -m book._tools.print_pdf

test: setup _build/html/.built  ## run everything: the notebooks, the package's tests, the built site's; builds the book where it is not current
	@BOOK_SITE=required TQDM_DISABLE=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile

colab:  ## run the notebooks on Colab's versions of the packages (PYTHON=python3.13 is Colab's); some gigabytes, some minutes; part of no test
	@$(PYTHON) -m book._tools.colab

bench: setup  ## measure speed and memory beside other libraries, about a quarter of an hour, and write book/speed.md; part of no test
	@env -u OMP_NUM_THREADS $(BIN)/python -m bench.run
	@$(BIN)/python -m bench.report

execute: setup  ## run the notebooks that changed and store their outputs
	@TQDM_DISABLE=1 $(BIN)/python -m book._tools.execute

mutants: setup  ## plant mistakes in the mathematics, see which checks notice, and write book/checked.md; an hour or two, goes on where it was, part of no test
	@nice $(BIN)/python -m book._tools.mutants

lock: setup  ## resolve pyproject.toml anew and write constraints.txt
	@$(PYTHON) book/_tools/setup_env.py lock

newest: setup  ## the same with the newest torch, which stored outputs are not held to: for a weekly run
	@$(PYTHON) book/_tools/setup_env.py newest

clean:  ## remove the built book and the environment
	rm -rf _build .venv *.egg-info .pytest_cache
