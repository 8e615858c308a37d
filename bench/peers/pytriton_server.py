"""Serves models with pytriton: Triton in front, ONNX Runtime in this process behind it.

    python pytriton_server.py SETTINGS.json

The settings are those that `peers.py` writes. An instance is a callable with a session of
its own; pytriton runs each in a thread of this process, and Triton asks them in turns.
"""

import json
import signal
import sys
import threading

import numpy
import onnxruntime
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig, TritonSecurityConfig

TYPES = {"FP32": numpy.float32, "INT64": numpy.int64, "INT32": numpy.int32}


def instance(model, threads):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Spinning takes the core from other models' instances.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(model["onnx"], options, ["CPUExecutionProvider"])
    outputs = [tensor["name"] for tensor in model["outputs"]]

    @batch
    def infer(**inputs):
        return dict(zip(outputs, session.run(outputs, inputs)))

    return infer


def tensors(described):
    return [
        Tensor(name=tensor["name"], dtype=TYPES[tensor["type"]], shape=tuple(tensor["dims"]))
        for tensor in described
    ]


def main():
    with open(sys.argv[1]) as file:
        settings = json.load(file)
    server = TritonConfig(
        http_address="127.0.0.1", grpc_address="127.0.0.1", allow_metrics=False,
        http_port=settings["http_port"], grpc_port=settings["grpc_port"], exit_timeout_secs=2,
    )  # fmt: skip
    batcher = DynamicBatcher(max_queue_delay_microseconds=settings["delay_us"])
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    # It asks for a token before it lets clients register shared memory, unless nothing is restricted.
    open_to_all = TritonSecurityConfig(restricted_endpoints=[])
    with Triton(config=server, security_config=open_to_all) as triton:
        for name, model in settings["models"].items():
            triton.bind(
                model_name=name,
                infer_func=[instance(model, settings["threads"]) for _ in range(settings["instances"])],
                inputs=tensors(model["inputs"]),
                outputs=tensors(model["outputs"]),
                config=ModelConfig(max_batch_size=settings["batch"], batcher=batcher),
            )
        triton.run()
        stop.wait()


if __name__ == "__main__":
    main()
