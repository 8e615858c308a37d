"""Triton's Python backend around ONNX Runtime: model.py of every model of the repository.

Where the ONNX file is and how many threads a session has stand in the model's config.pbtxt
(parameters `onnx` and `threads`). Requests that Triton batched are put together, run once
and taken apart, as its own ONNX Runtime backend does. Each instance is a process of its
own with a session of its own.
"""

import json

import numpy
import onnxruntime
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        parameters = json.loads(args["model_config"])["parameters"]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(parameters["threads"]["string_value"])
        options.inter_op_num_threads = 1
        # Spinning takes the core from other models' instances.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(
            parameters["onnx"]["string_value"], options, providers=["CPUExecutionProvider"]
        )
        self.inputs = [value.name for value in self.session.get_inputs()]
        self.outputs = [value.name for value in self.session.get_outputs()]

    def execute(self, requests):
        rows = [
            [pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self.inputs]
            for request in requests
        ]
        if len(rows) == 1:
            inputs = rows[0]
        else:
            inputs = [numpy.concatenate(parts) for parts in zip(*rows)]
        results = self.session.run(self.outputs, dict(zip(self.inputs, inputs)))
        responses, at = [], 0
        for row in rows:
            size = row[0].shape[0]
            tensors = [
                pb_utils.Tensor(name, result[at:at + size])
                for name, result in zip(self.outputs, results)
            ]
            responses.append(pb_utils.InferenceResponse(output_tensors=tensors))
            at += size
        return responses
