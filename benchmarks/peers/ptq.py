# /// script
# dependencies = [
#     "numpy==2.4.6",
#     "scipy==1.17.1",
#     "scikit-learn==1.9.1",
#     "pillow==13.0.0",
#     "onnx==1.23.2",
#     "onnxruntime==1.31.1",
#     "openvino==2026.4.1",
#     "nncf==3.4.0",
#     "tokenizers==0.23.3",
# ]
# ///
"""NNCF's post-training quantization on its OpenVINO backend: `quantize`, or `accuracy` for its accuracy control.

As its documents say: 300 calibration examples, the transformer preset for transformers, mixed symmetry where there are
recurrent layers or transformers. On processors without VNNI products of 8 bits may saturate: by default its first layer
has weights of half the range, and with `overflow` all have, as advised where accuracy falls none the less. The
accuracy control is given the promise's own metric and margin on validation data, and as many rounds as the time allows.
"""

from __future__ import annotations

import time

import kit
import nncf
import numpy as np
import openvino


def settings(job: kit.Job, part: str) -> dict:
    """Return the documented knobs for the kind of model."""
    calibration = nncf.Dataset(job.feeds(part))
    knobs = {"calibration_dataset": calibration, "subset_size": 300, "target_device": nncf.TargetDevice.CPU}
    if job.kind == "transformer":
        return knobs | {"model_type": nncf.ModelType.TRANSFORMER}
    return knobs | ({"preset": nncf.QuantizationPreset.MIXED} if job.kind == "rnn" else {})


def advanced(job: kit.Job) -> nncf.AdvancedQuantizationParameters:
    """Return the documented remedy for processors whose products of 8 bits saturate, where it is asked for."""
    return nncf.AdvancedQuantizationParameters(
        overflow_fix=nncf.OverflowFix.ENABLE if job.variant == "overflow" else None
    )


class Session:
    """One compiled network as a session, for trimtab's driver of programs."""

    def __init__(self, compiled):
        self.request = compiled.create_infer_request()
        self.names = [output.get_any_name() for output in compiled.outputs]

    def run(self, inputs, part="main"):
        """Return the outputs by name."""
        found = self.request.infer(dict(inputs))
        return {name: np.array(found[number]) for number, name in enumerate(self.names)}


def controlled(job: kit.Job) -> None:
    """Quantize until the promise's metric has dropped by its margin at most."""
    from trimtab.run.program import drive
    from trimtab.values.facts import Facts
    from trimtab.values.model import Model, Part, Signature, program_from_json

    part, yardstick = job.only("accuracy control"), kit.Yardstick(job)
    signature = Signature.from_json(job.meta["parts"][part])
    folder = job.given / "parts"
    model = Model({part: Part("onnx", folder, signature, Facts("onnx", 0, 0))}, program_from_json(job.meta["program"]))

    def validate(compiled, items):
        session = Session(compiled)
        return yardstick.each(lambda inputs: drive(model, session, inputs), list(items))

    network = openvino.convert_model(job.onnx(part))
    begun = time.monotonic()
    validate(openvino.compile_model(network, "CPU"), ())
    rounds = max(1, int(job.left / (2 * (time.monotonic() - begun))))
    quantized = nncf.quantize_with_accuracy_control(
        network,
        validation_dataset=nncf.Dataset(range(len(yardstick.rows))),
        validation_fn=validate,
        max_drop=yardstick.margin,
        drop_type=nncf.DropType.ABSOLUTE,
        advanced_accuracy_restorer_parameters=nncf.AdvancedAccuracyRestorerParameters(max_num_iterations=rounds),
        **settings(job, part),
    )
    openvino.save_model(quantized, job.folder(part) / kit.FILES["openvino"], compress_to_fp16=False)


def work(job: kit.Job) -> None:
    """Quantize every part."""
    if job.variant == "accuracy":
        controlled(job)
    else:
        for part in job.parts:
            network = openvino.convert_model(job.onnx(part))
            quantized = nncf.quantize(network, advanced_parameters=advanced(job), **settings(job, part))
            openvino.save_model(quantized, job.folder(part) / kit.FILES["openvino"], compress_to_fp16=False)
    notes = ["its OpenVINO backend leaves recurrent layers in float"] if job.kind == "rnn" else []
    job.ship("openvino", notes, mode=job.variant, overflow_fix=advanced(job).overflow_fix or "the default")


if __name__ == "__main__":
    kit.main(work)
