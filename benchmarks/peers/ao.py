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
# ]
# ///
"""torchao's `quantize_`: `dynamic` int8 activations with int8 weights, or int8 `weights` only; then torch.compile.

Its documents quantize the linear layers of an eager module and compile it; the artefact is an exported program, which
runs eager or compiled in an environment with torchao. Layers it does not know it leaves alone without a word.
"""

from __future__ import annotations

import kit
import torch
from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig, quantize_
from torchao.utils import unwrap_tensor_subclass

CONFIGS = {"dynamic": Int8DynamicActivationInt8WeightConfig, "weights": Int8WeightOnlyConfig}


def work(job: kit.Job) -> None:
    """Quantize the module's linear layers and export it."""
    net, part = kit.torch_base(job, "torchao")
    linear = [name for name, layer in net.named_modules() if isinstance(layer, torch.nn.Linear)]
    if not linear:
        raise kit.Unable("torchao quantizes nn.Linear, and this model has none")
    quantize_(net, CONFIGS[job.variant]())
    unwrap_tensor_subclass(net)
    kit.export_torch(net, part, job)
    others = sorted({type(layer).__name__ for layer in net.modules() if isinstance(layer, KNOWN)})
    notes = [f"quantized {len(linear)} linear layers", *([f"left alone: {', '.join(others)}"] if others else [])]
    job.ship("torch", notes, kit.Needs(["torchao"], FREEZING), config=CONFIGS[job.variant].__name__)


FREEZING = {"TORCHINDUCTOR_FREEZING": "1"}
"""What torch's documents on int8 with inductor on x86 ask for: weights are packed when compiled."""
KNOWN = (torch.nn.modules.conv._ConvNd, torch.nn.RNNBase, torch.nn.Embedding)

if __name__ == "__main__":
    kit.main(work)
