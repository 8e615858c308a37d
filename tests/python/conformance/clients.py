"""One way to make each call with each of Triton's four clients.

The four differ in how a call is waited for and in how its answer is wrapped. A test is
written once, for `Client`, and sees the answers in one form: that of the HTTP client.
"""

import asyncio
import concurrent.futures
import queue

import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio
from tritonclient.utils import InferenceServerException

KINDS = {
    "http": tritonclient.http,
    "grpc": tritonclient.grpc,
    "http-aio": tritonclient.http.aio,
    "grpc-aio": tritonclient.grpc.aio,
}
# Longer than anything here takes on a busy machine; only what hangs reaches it.
PATIENCE_SECONDS = 120
# Calls whose gRPC form gives a protobuf message unless it is asked for the JSON form.
READS = (
    "get_server_metadata", "get_model_metadata", "get_model_config",
    "get_model_repository_index", "get_inference_statistics",
    "update_trace_settings", "get_trace_settings", "update_log_settings", "get_log_settings",
    "get_system_shared_memory_status", "get_cuda_shared_memory_status",
)  # fmt: skip


class Client:
    """A client of one kind; any call of the client may be made by its name."""

    def __init__(self, kind, server, **options):
        self.kind, self.module = kind, KINDS[kind]
        self.is_grpc, self.is_aio = kind.startswith("grpc"), kind.endswith("aio")
        address = server.addresses["grpc" if self.is_grpc else "http"]
        self.loop = asyncio.new_event_loop() if self.is_aio else None
        if kind == "http":
            options.setdefault("concurrency", 8)
        self.client = self._made(lambda: self.module.InferenceServerClient(address, **options))

    def _made(self, make):
        """Some of the clients can only be made where a loop runs."""
        if not self.is_aio:
            return make()

        async def inside():
            return make()

        return self.wait(inside())

    def wait(self, awaitable):
        """The result of a coroutine of an asyncio client."""
        return self.loop.run_until_complete(asyncio.wait_for(awaitable, PATIENCE_SECONDS))

    def close(self):
        if self.is_aio:
            self.wait(self.client.close())
            self.loop.close()
        else:
            self.client.close()

    def __getattr__(self, name):
        def call(*args, **options):
            if self.is_grpc and name in READS:
                options["as_json"] = True
            result = getattr(self.client, name)(*args, **options)
            if self.is_aio:
                result = self.wait(result)
            return UNWRAP[name](result) if self.is_grpc and name in UNWRAP else result

        return call

    def input(self, name, array, datatype, **options):
        item = self.module.InferInput(name, list(array.shape), datatype)
        if self.is_grpc:
            options.pop("binary_data", None)
        item.set_data_from_numpy(array, **options)
        return item

    def region_input(self, name, shape, datatype, region, size, offset=0):
        item = self.module.InferInput(name, list(shape), datatype)
        item.set_shared_memory(region, size, offset)
        return item

    def output(self, name, **options):
        if self.is_grpc:
            options.pop("binary_data", None)
        return self.module.InferRequestedOutput(name, **options)

    def together(self, model, many, **options):
        """Sends all requests without waiting in between; gives their replies in order."""
        send = self.client.async_infer if not self.is_aio else self.client.infer
        if self.is_aio:

            async def all_of_them():
                return await asyncio.gather(*[send(model, one, **options) for one in many])

            return self.wait(all_of_them())
        if self.kind == "http":
            handles = [send(model, one, **options) for one in many]
            return [handle.get_result(timeout=PATIENCE_SECONDS) for handle in handles]
        futures = []
        for one in many:
            futures.append(concurrent.futures.Future())
            send(model, one, callback=finish(futures[-1]), **options)
        return [future.result(PATIENCE_SECONDS) for future in futures]

    def stream(self, requests):
        """Sends the requests (arguments of `async_stream_infer`) over one stream; gives a
        pair of result and error for each, in the order they came."""
        if self.kind == "grpc":
            answers = queue.Queue()
            self.client.start_stream(lambda result, error: answers.put((result, error)))
            try:
                for request in requests:
                    self.client.async_stream_infer(**request)
                return [answers.get(timeout=PATIENCE_SECONDS) for _ in requests]
            finally:
                self.client.stop_stream()

        async def source():
            for request in requests:
                yield request

        async def collect():
            return [answer async for answer in self.client.stream_infer(source())]

        return self.wait(collect())


def finish(future):
    """A callback of `async_infer` that settles the future."""

    def settle(result, error):
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)

    return settle


def plain_setting(value):
    """The one value of a gRPC log setting."""
    (inner,) = value.values()
    return inner


UNWRAP = {
    "get_model_config": lambda reply: reply["config"],
    "get_model_repository_index": lambda reply: reply.get("models", []),
    "get_log_settings": lambda reply: {
        name: plain_setting(value) for name, value in reply["settings"].items()
    },
    "get_system_shared_memory_status": lambda reply: list(reply.get("regions", {}).values()),
    "get_cuda_shared_memory_status": lambda reply: list(reply.get("regions", {}).values()),
}
UNWRAP["update_log_settings"] = UNWRAP["get_log_settings"]


def parameters(reply):
    """The parameters of a reply as plain values."""
    response = reply.get_response()
    if isinstance(response, dict):
        return response.get("parameters", {})
    return {
        name: getattr(value, value.WhichOneof("parameter_choice"))
        for name, value in response.parameters.items()
    }


def field(reply, name):
    """A field of a reply, `id` or `model_version`."""
    response = reply.get_response()
    return response.get(name, "") if isinstance(response, dict) else getattr(response, name)


# The table of docs/reference/protocol.md, as far as the suite meets it.
STATUS = {
    "unknown_model": ("404", "StatusCode.NOT_FOUND"),
    "unknown_version": ("404", "StatusCode.NOT_FOUND"),
    "unknown_region": ("404", "StatusCode.NOT_FOUND"),
    "region_exists": ("409", "StatusCode.ALREADY_EXISTS"),
    "invalid_region": ("400", "StatusCode.INVALID_ARGUMENT"),
    "region_short": ("400", "StatusCode.FAILED_PRECONDITION"),
    "invalid": ("400", "StatusCode.INVALID_ARGUMENT"),
    "load_failed": ("400", "StatusCode.FAILED_PRECONDITION"),
    "control_disabled": ("403", "StatusCode.PERMISSION_DENIED"),
    "unimplemented": ("501", "StatusCode.UNIMPLEMENTED"),
    "not_ready": ("503", "StatusCode.UNAVAILABLE"),
}


def refused(client, kind, said, call):
    """`call` must raise the client's exception with the status of `kind`, and its message
    must contain `said`, however spelt."""
    try:
        call()
    except InferenceServerException as error:
        expected = STATUS[kind][1 if client.is_grpc else 0]
        found = str(error.status())
        assert found == expected, "{}: {}".format(found, error.message())
        assert said.lower() in error.message().lower(), error.message()
    else:
        raise AssertionError("was not refused")
