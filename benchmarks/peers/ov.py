# /// script
# dependencies = [
#     "numpy==2.4.6",
#     "onnx==1.23.2",
#     "openvino==2026.4.1",
# ]
# ///
"""Plain OpenVINO: the float graph converted, and nothing else; `fp16` stores weights in half, as `save_model` does."""

from __future__ import annotations

import kit
import openvino


def work(job: kit.Job) -> None:
    """Convert every part."""
    for part in job.parts:
        model = openvino.convert_model(job.onnx(part))
        target = job.folder(part) / kit.FILES["openvino"]
        openvino.save_model(model, target, compress_to_fp16=job.variant == "fp16")
    job.ship("openvino", compress_to_fp16=job.variant == "fp16")


if __name__ == "__main__":
    kit.main(work)
