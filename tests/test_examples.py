"""Every example runs from beginning to end and prints what it promises."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))
PRINTS = {
    "own_cnn_images": "circle square triangle",
    "own_onnx": "the first points give",
    "own_csv": "setosa virginica",
    "own_keras": "of new images are right",
    "own_hf_texts": "good bad",
    "own_lstm_parquet": "right left",
    "own_pytorch_model": "of a batch are right",
}


def test_every_example_is_known_here():
    assert {path.stem for path in EXAMPLES} == set(PRINTS)


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_it_runs(path, tmp_path):
    pytest.importorskip("torch")
    environment = {**os.environ, "TRIMTAB_CACHE": str(tmp_path / "cache")}
    words = [sys.executable, str(path), str(tmp_path / "work")]
    found = subprocess.run(words, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert "Certified at 95%" in found.stdout
    assert PRINTS[path.stem] in found.stdout
