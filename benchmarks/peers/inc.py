# /// script
# dependencies = [
#     "torch==2.13.0",
#     "numpy==2.4.6",
#     "scipy==1.17.1",
#     "scikit-learn==1.9.1",
#     "pillow==13.0.0",
#     "safetensors==0.8.0",
#     "psutil==7.2.2",
#     "transformers==5.23.0",
#     "onnx==1.23.2",
#     "torchao==0.18.0",
#     "neural_compressor[pt]==3.10",
# ]
# ///
"""Intel Neural Compressor 3.10 on torch: its PT2E quantization, static for nets with convolutions, else dynamic.

The release has no ONNX any more. As its document "PyTorch static quantization" says: export, prepare, calibrate,
convert, torch.compile. Both kinds are tried in this order, as its `autotune` would, until the promise's metric has lost
at most the promised margin on validation data; where none has, the first is shipped. This path has no setting for
processors without VNNI; only the one through Intel's extension for torch reduces ranges there.
"""

from __future__ import annotations

import kit
import torch
from neural_compressor.torch.export import export
from neural_compressor.torch.quantization import DynamicQuantConfig, INT8StaticQuantConfig, convert, prepare


def quantized(job: kit.Job, net, part, config):
    """Return the converted program."""
    specs = part.signature.inputs
    names = {n: torch.export.Dim.DYNAMIC for spec in specs for n in spec.shape if isinstance(n, str)}
    shapes = tuple({i: names[n] for i, n in enumerate(spec.shape) if isinstance(n, str)} for spec in specs)
    program = prepare(export(net, kit.example(job, specs), dynamic_shapes=shapes), quant_config=config)
    with torch.no_grad():
        for feed in job.feeds(job.parts[0]):
            program(*(torch.from_numpy(feed[spec.name]) for spec in specs))
    return convert(program)


def work(job: kit.Job) -> None:
    """Quantize, tune and export."""
    net, part = kit.torch_base(job, "Neural Compressor")
    convolutions = any(isinstance(layer, torch.nn.modules.conv._ConvNd) for layer in net.modules())
    order = [INT8StaticQuantConfig, DynamicQuantConfig]
    yardstick, tried, first = kit.Yardstick(job), {}, None
    heard = kit.Heard("neural_compressor")
    for kind in order if convolutions else order[::-1]:
        try:
            program = quantized(job, kit.torch_base(job, "")[0], part, kind())
            tried[kind.__name__] = yardstick.of(kit.torch_answers(program, part))
        except Exception as error:
            tried[kind.__name__] = kit.told(error, heard.last)
            continue
        first = first or (kind, program)
        if yardstick.keeps(tried[kind.__name__]):
            first = (kind, program)
            break
    if first is None:
        raise kit.Unable("; ".join(f"{name} fails with {why}" for name, why in tried.items()))
    kit.export_torch(first[1], part, job)
    notes = [f"{name}: {value if isinstance(value, str) else f'{value:.4f}'}" for name, value in tried.items()]
    notes += ["it has no setting for processors without VNNI"] if kit.saturates() else []
    job.ship("torch", notes, kit.Needs(["torchao.quantization.pt2e"], FREEZING), config=first[0].__name__)


FREEZING = {"TORCHINDUCTOR_FREEZING": "1"}
"""What its document on PT2E sets before torch.compile."""

if __name__ == "__main__":
    kit.main(work)
