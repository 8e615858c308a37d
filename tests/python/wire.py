"""One way to call a model over either protocol with Triton's own clients."""

import threading

import tritonclient.grpc as grpc
import tritonclient.http as http

PROTOCOLS = ("grpc", "http")
OIP_TYPES = {
    "float32": "FP32", "float64": "FP64", "float16": "FP16",
    "int64": "INT64", "int32": "INT32", "bool": "BOOL",
}  # fmt: skip


def infer_inputs(module, arrays):
    """`arrays` as the client's inputs."""
    inputs = []
    for name, array in arrays.items():
        item = module.InferInput(name, list(array.shape), OIP_TYPES[array.dtype.name])
        item.set_data_from_numpy(array)
        inputs.append(item)
    return inputs


class Caller:
    """Calls a server over one protocol; `together` sends several requests at once."""

    def __init__(self, server, protocol, concurrency=16):
        self.protocol = protocol
        self.module = grpc if protocol == "grpc" else http
        self.client = server.grpc() if protocol == "grpc" else server.http(concurrency)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.close()

    def call(self, model, arrays, **options):
        """Sends one request and gives its reply."""
        return self.client.infer(model, infer_inputs(self.module, arrays), **options)

    def together(self, model, many, after_first=lambda: None):
        """Sends one request for each of `many` without waiting in between, calls
        `after_first` once the first is answered, and gives the replies in order."""
        if self.protocol == "grpc":
            pending = []
            for arrays in many:
                pending.append(Pending())
                inputs = infer_inputs(grpc, arrays)
                self.client.async_infer(model, inputs, callback=pending[-1].finish)
            results = [one.result for one in pending]
        else:
            send = self.client.async_infer
            handles = [send(model, infer_inputs(http, arrays)) for arrays in many]
            results = [handle.get_result for handle in handles]
        replies = [results[0]()]
        after_first()
        return replies + [result() for result in results[1:]]


class Pending:
    """A gRPC reply on its way."""

    def __init__(self):
        self._done = threading.Event()

    def finish(self, result, error):
        self._result, self._error = result, error
        self._done.set()

    def result(self):
        assert self._done.wait(300), "no reply within 300 s"
        if self._error is not None:
            raise self._error
        return self._result


def batch_size(reply):
    """The number of items of the run that the request took part in."""
    response = reply.get_response()
    if isinstance(response, dict):
        return response["parameters"]["batch_size"]
    return response.parameters["batch_size"].int64_param
