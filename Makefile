# The README's two commands. Both make their own virtual environment in .venv.
PYTHON ?= python3
BIN := .venv/bin
export OMP_WAIT_POLICY := PASSIVE
.DELETE_ON_ERROR:

.PHONY: demo test quick check bench clean
demo: .venv/ready
	$(BIN)/python benchmarks/demo.py

test: .venv/ready
	$(BIN)/python -m pytest -n 2

quick: .venv/ready
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not gpu"

check: .venv/ready
	scripts/check

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt torch
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[torch,openvino,data,text,hf,keras,nncf,dev]'
	$(BIN)/python -m compileall -q src/trimtab $(BIN)/../lib/python3*/site-packages || true
	touch $@

clean:
	rm -rf .venv runs
