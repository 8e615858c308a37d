"""Prints the inputs and outputs of the models of a repository, as JSON by model.

    python tensors.py REPOSITORY

Each tensor is {"name", "type", "dims"}: Triton's type, and its shape without the batch,
-1 where a dimension varies.
"""

import json
import sys
from pathlib import Path

import onnxruntime

TYPES = {"tensor(float)": "FP32", "tensor(int64)": "INT64", "tensor(int32)": "INT32"}


def tensors(values):
    def dims(shape):
        return [size if isinstance(size, int) else -1 for size in shape[1:]]

    return [{"name": v.name, "type": TYPES[v.type], "dims": dims(v.shape)} for v in values]


def main():
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    found = {}
    for file in sorted(Path(sys.argv[1]).glob("*/1/model.onnx")):
        session = onnxruntime.InferenceSession(str(file), options, ["CPUExecutionProvider"])
        found[file.parent.parent.name] = {
            "inputs": tensors(session.get_inputs()),
            "outputs": tensors(session.get_outputs()),
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
