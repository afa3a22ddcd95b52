# /// script
# dependencies = [
#     "torch==2.13.0",
#     "numpy==2.4.6",
#     "scipy==1.17.1",
#     "scikit-learn==1.9.1",
#     "pillow==13.0.0",
#     "safetensors==0.8.0",
#     "transformers==5.23.0",
#     "onnx==1.23.2",
#     "onnxruntime==1.31.1",
#     "onnxscript==0.7.2",
#     "torch-pruning==1.6.1",
# ]
# ///
"""Torch-Pruning's high-level pruner on a torch module, step by step, with fine-tuning after each step.

As its documents say: groups from the dependency graph, group magnitude importance, the output layer left alone, widths
rounded to 8, heads pruned together in transformers. Each step cuts more of what is left and is fine-tuned by trimtab's
own training loop on the train split; the last step that keeps the promise on validation data is shipped as ONNX.
"""

from __future__ import annotations

import copy
import math
import time

import kit
import torch
import torch_pruning
from torch import nn

RATIOS = (0.1, 0.25, 0.4, 0.55, 0.7, 0.85)
"""Share of the channels cut in all, after each step."""
PROJECTIONS = ("query", "key", "value")


def pruned(net: nn.Module, example: tuple, ratio: float) -> nn.Module:
    """Return a copy with this share of its channels cut."""
    net = copy.deepcopy(net)
    heads = _heads(net)
    pruner = torch_pruning.pruner.BasePruner(
        net,
        example,
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=ratio,
        ignored_layers=[_last(net), *(m for m in net.modules() if isinstance(m, nn.Embedding))],
        num_heads=heads,
        prune_num_heads=bool(heads),
        head_pruning_ratio=ratio if heads else 0.0,
        round_to=None if heads else 8,
        global_pruning=False,
    )
    pruner.step()
    _tell_heads(net, pruner)
    return net


def _last(net: nn.Module) -> nn.Module:
    return [layer for layer in net.modules() if isinstance(layer, nn.Linear | nn.Conv2d)][-1]


def _attention(net: nn.Module):
    """Yield attention layers as transformers writes them: query, key and value beside each other."""
    return (
        m for m in net.modules() if all(isinstance(getattr(m, n, None), nn.Linear) for n in ("query", "key", "value"))
    )


def _heads(net: nn.Module) -> dict:
    return {getattr(m, n): m.num_attention_heads for m in _attention(net) for n in PROJECTIONS}


def _tell_heads(net: nn.Module, pruner) -> None:
    """Write the new number of heads where the attention layers read it."""
    for layer in _attention(net):
        layer.num_attention_heads = pruner.num_heads[layer.query]
        layer.attention_head_size = layer.query.out_features // layer.num_attention_heads
        layer.all_head_size = layer.query.out_features


def tuned(job: kit.Job, net: nn.Module, seconds: float, step: int) -> nn.Module:
    """Fine-tune for about so many seconds; what one epoch takes is measured on a copy first."""
    from trimtab.fit.loop import fit
    from trimtab.fit.settings import Settings, Surroundings

    view = kit.view(job.meta["task"])
    batch = 16
    steps = math.ceil(len(view.split("train")) / batch)

    around = Surroundings(job.meta["seed"] + step, torch.get_num_threads())
    begun, trial = time.monotonic(), 20
    fit(copy.deepcopy(net), view, Settings(steps=trial, lr=1e-5, batch=batch), around)
    count = int(seconds / max((time.monotonic() - begun) / trial, 1e-4))
    count = max(20, min(count, 10 * steps))
    lr = 1e-4 if job.kind == "transformer" else 1e-3
    fit(net, view, Settings(steps=count, lr=lr, batch=batch), around)
    return net


def export(job: kit.Job, net: nn.Module, part) -> None:
    """Write ONNX with the exporter that torch recommends, or with the older one where that fails."""
    specs = part.signature.inputs
    names = {"input_names": [s.name for s in specs], "output_names": [s.name for s in part.signature.outputs]}
    free = [{i: n for i, n in enumerate(spec.shape) if isinstance(n, str)} for spec in specs]
    target = str(job.folder(job.parts[0]) / kit.FILES["onnx"])
    example = kit.example(job, specs)
    try:
        shapes = tuple(dict.fromkeys(axes, torch.export.Dim.DYNAMIC) for axes in free)
        found = torch.onnx.export(net, example, dynamo=True, dynamic_shapes=shapes, verbose=False, **names)
        found.optimize()
        found.save(target)
    except Exception as error:
        print("dynamo fails:", error)
        axes = {spec.name: axes for spec, axes in zip(specs, free, strict=True)}
        axes |= {spec.name: {0: "batch"} for spec in part.signature.outputs}
        torch.onnx.export(net, example, target, dynamo=False, dynamic_axes=axes, **names)


def work(job: kit.Job) -> None:
    """Prune and tune in steps; ship the last that keeps the promise on validation data."""
    base, part = kit.torch_base(job, "Torch-Pruning")
    example = kit.example(job, part.signature.inputs)
    yardstick, best, done, net, notes = kit.Yardstick(job), None, 0.0, base, []
    for step, ratio in enumerate(RATIOS):
        if step and job.left < 20:
            break
        net = tuned(job, pruned(net, example, 1 - (1 - ratio) / (1 - done)), job.left / (len(RATIOS) - step), step)
        value = yardstick.of(kit.torch_answers(net.eval(), part))
        notes.append(f"{ratio:.0%} cut: {value:.4f}")
        best, done = best or (ratio, net), ratio
        if not yardstick.keeps(value):
            break
        best = (ratio, copy.deepcopy(net))
    export(job, best[1].eval(), part)
    job.ship("onnx", notes, ratio=best[0], importance="group magnitude", steps=list(RATIOS))


if __name__ == "__main__":
    kit.main(work)
