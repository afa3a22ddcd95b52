"""Converts a SavedModel to ONNX inside the environment that has TensorFlow: `python _tf_convert.py FOLDER FILE OPSET`.

It imports nothing of trimtab, which is not installed there. A SavedModel is data, but some operators reach beyond it:
those that read or write files, call Python, or carry a graph that may, are looked for before TensorFlow loads anything.
"""

import json
import os
import sys
from pathlib import Path

BEYOND: tuple[str, ...] = (
    "PyFunc",
    "PyFuncStateless",
    "EagerPyFunc",
    "ReadFile",
    "WriteFile",
    "MatchingFiles",
    "WholeFileReader",
)
BEYOND += ("WholeFileReaderV2", "DatasetFromGraph", "PrintV2", "ImmutableConst", "Save", "SaveSlices", "DebugIdentity")
BEYOND += ("DebugIdentityV2", "DebugIdentityV3", "SaveDataset", "SaveDatasetV2", "LoadDataset", "TFRecordDataset")
BEYOND += ("TextLineDataset", "FixedLengthRecordDataset", "FixedLengthRecordDatasetV2")
SIGNATURE = "serving_default"


def main(folder: str, target: str, opset: int) -> dict[str, object]:
    """Write the ONNX file and return what there is to tell."""
    from tensorflow.core.protobuf import saved_model_pb2  # type: ignore[import-untyped,import-not-found,unused-ignore]

    saved = saved_model_pb2.SavedModel.FromString((Path(folder) / "saved_model.pb").read_bytes())
    graphs = [meta.graph_def for meta in saved.meta_graphs]
    nodes = [node for graph in graphs for node in graph.node]
    nodes += [node for graph in graphs for function in graph.library.function for node in function.node_def]
    beyond = sorted({node.op for node in nodes} & set(BEYOND))
    if beyond:
        return {"unsafe": beyond[0]}
    known = sorted({name for meta in saved.meta_graphs for name in meta.signature_def} - {"__saved_model_init_op"})
    if SIGNATURE not in known:
        return {"error": f"it has no signature {SIGNATURE}; its signatures: {', '.join(known) or 'none'}"}
    from tf2onnx import convert  # type: ignore[import-not-found,unused-ignore]

    sys.argv = ["tf2onnx", "--saved-model", folder, "--output", target, "--opset", str(opset)]
    sys.argv += ["--tag", "serve", "--signature_def", SIGNATURE]
    convert.main()
    return {}


if __name__ == "__main__":
    os.environ |= {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    stdout = os.dup(1)
    os.dup2(2, 1)  # what TensorFlow prints is no answer
    try:
        told = main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    except Exception as error:
        told = {"error": f"{type(error).__name__}: {error}"}
    os.write(stdout, json.dumps(told).encode())
