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

Its documents quantize the linear layers of an eager module, save its state, and compile the module. The artefact is
that state, and how to build the module; imported where it is loaded, this script does what they do: build, quantize,
fill in the state. Layers that it does not know `quantize_` leaves alone without a word. Where its own
`should_reduce_range` says that products of 8 bits overflow on this processor, `dynamic` has `reduce_range`.
"""

from __future__ import annotations

import json
import os
import shutil
from typing import Any

import torch
from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig, quantize_
from torchao.utils import should_reduce_range

STATE, VARIANT = "quantized.pt", "TORCHAO_VARIANT"
FREEZING = {"TORCHINDUCTOR_FREEZING": "1"}
"""What torch's documents on int8 with inductor on x86 ask for: weights are packed when compiled."""
KNOWN = (torch.nn.modules.conv._ConvNd, torch.nn.RNNBase, torch.nn.Embedding)


def config(variant: str) -> Any:
    """Return the documented configuration for this processor."""
    if variant == "weights":
        return Int8WeightOnlyConfig()
    return Int8DynamicActivationInt8WeightConfig(reduce_range=should_reduce_range(torch.device("cpu")))


def work(job: Any) -> None:
    """Quantize the module's linear layers, and write its state."""
    net, part = kit.torch_base(job, "torchao")
    linear = [name for name, layer in net.named_modules() if isinstance(layer, torch.nn.Linear)]
    if not linear:
        raise kit.Unable("torchao quantizes nn.Linear, and this model has none")
    others = sorted({type(layer).__name__ for layer in net.modules() if isinstance(layer, KNOWN)})
    chosen = config(job.variant)
    quantize_(net, chosen)
    folder = job.folder(job.parts[0])
    shutil.copyfile(part.path / kit.FILES["torch"], folder / kit.FILES["torch"])
    torch.save(net.state_dict(), folder / STATE)
    notes = [f"quantized {len(linear)} linear layers", *([f"left alone: {', '.join(others)}"] if others else [])]
    needs = kit.Needs(["ao"], {VARIANT: job.variant, **FREEZING})
    reduced = getattr(chosen, "reduce_range", False)
    job.ship("torch", notes, needs, config=type(chosen).__name__, reduce_range=reduced)


def load(part: Any, editable: bool = False) -> torch.nn.Module:
    """Build the module, quantize it and fill in the state: what stands in for trimtab's own loading."""
    about = json.loads((part.path / "torch.json").read_text())
    if about["edits"]:
        raise ValueError("a base that was changed in structure cannot be built here")
    net = code.build(about["build"])
    quantize_(net, config(os.environ[VARIANT]))
    net.load_state_dict(torch.load(part.path / STATE, weights_only=True), assign=True)
    return net.eval()


if __name__ == "__main__":
    import kit

    kit.main(work)
else:
    from trimtab.fit import code, module

    module.load = load
