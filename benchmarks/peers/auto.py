# /// script
# dependencies = [
#     "torch==2.13.0",
#     "onnx==1.23.2",
#     "onnxruntime==1.31.1",
#     "requests==2.34.2",
#     "olive-ai==0.13.0",
#     "scipy==1.17.1",
#     "safetensors==0.8.0",
# ]
# ///
"""Microsoft Olive's automatic optimization of an ONNX model for the processor, by its command line.

`int8` or `fp32` (its default) is the precision asked for. `olive auto-opt` is driven, which its help calls deprecated:
its successor `olive optimize` calibrates int8 ONNX models on wikitext with CUDA, which no model here can use. Where the
processor lacks VNNI, the configuration that it writes is run with `reduce_range`, as its quantization pass documents.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import kit

QUANTIZATION = "OnnxDynamicQuantization"


def optimized(job: kit.Job, part: str) -> Path:
    """Run the command line on one part; return the ONNX file that it wrote."""
    out = job.out / f"{part}-olive"
    words = ["auto-opt", "-m", str(job.onnx(part)), "-o", str(out), "--device", "cpu", "--precision", job.variant]
    words += ["--provider", "CPUExecutionProvider", "--log_level", "1"]
    done = olive(job, [*words, *(["--dry_run"] if reduced(job) else [])])
    written = out / "config.json"
    if written.is_file():
        reduce_range(written)
        done = olive(job, ["run", "--config", str(written)])
    found = sorted(out.rglob("*.onnx"))
    if not found:
        last = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()][-1:]
        raise kit.Unable(f"it ends without a model for {part}: {' '.join(last)[:300]}")
    return found[0]


def olive(job: kit.Job, words: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command of Olive's."""
    command = [str(Path(sys.executable).with_name("olive")), *words, "--disable_telemetry"]
    environment = {**os.environ, "OLIVE_DISABLE_TELEMETRY": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=max(60.0, job.left), env=environment)
    print(done.stdout, done.stderr)
    return done


def reduced(job: kit.Job) -> bool:
    """Tell whether weights get 7 bits."""
    return job.variant == "int8" and kit.saturates()


def reduce_range(path: Path) -> None:
    """Set `reduce_range` in the quantization pass of a configuration that Olive wrote."""
    config = json.loads(path.read_text())
    for step in config["passes"].values():
        if step["type"] == QUANTIZATION:
            step["reduce_range"] = True
    path.write_text(json.dumps(config))


def work(job: kit.Job) -> None:
    """Optimize every part."""
    for part in job.parts:
        shutil.copyfile(optimized(job, part), job.folder(part) / kit.FILES["onnx"])
    job.ship("onnx", [], command="olive auto-opt", precision=job.variant, reduce_range=reduced(job))


if __name__ == "__main__":
    kit.main(work)
