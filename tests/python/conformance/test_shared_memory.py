"""System shared memory with the client's own functions, and CUDA's refused by name."""

import contextlib
import os
import uuid

import numpy
import pytest
import tritonclient.utils.shared_memory as shm
from clients import refused
from tritonclient.utils import serialize_byte_tensor

ROWS = numpy.arange(32, dtype=numpy.float32).reshape(2, 16)


@contextlib.contextmanager
def region(client, size, register=True):
    """A region of a name and a key of its own, gone at the end."""
    name = "region-" + uuid.uuid4().hex
    handle = shm.create_shared_memory_region(name, "/" + name, size)
    try:
        if register:
            client.register_system_shared_memory(name, "/" + name, size)
        yield name, handle
    finally:
        client.unregister_system_shared_memory(name)
        shm.destroy_shared_memory_region(handle)


def infer(client, model, shape, datatype, source, target=None):
    """One request whose input is `source` (region, size, offset), and whose output is put
    at `target` where that is given."""
    inputs = [client.region_input("input", shape, datatype, *source)]
    output = client.output("output")
    if target is not None:
        output.set_shared_memory(*target)
    return client.infer(model, inputs, outputs=[output])


def answered_in(client, reply):
    """The parameters of the output, of which no byte came with the reply."""
    if client.is_grpc:
        assert b"".join(reply.get_response().raw_output_contents) == b""
        found = reply.get_output("output").parameters.items()
        return {name: getattr(value, value.WhichOneof("parameter_choice")) for name, value in found}
    output = reply.get_output("output")
    assert "data" not in output
    assert output["parameters"].pop("binary_data_size") == 0
    return output["parameters"]


def test_register_status_unregister(client):
    with region(client, 256) as (name, _):
        (found,) = client.get_system_shared_memory_status(name)
        assert found["name"] == name and found["key"] == "/" + name
        assert int(found["byte_size"]) == 256 and int(found.get("offset", 0)) == 0
        assert name in {one["name"] for one in client.get_system_shared_memory_status()}
        client.unregister_system_shared_memory(name)
        assert name not in {one["name"] for one in client.get_system_shared_memory_status()}
        refused(
            client, "unknown_region", name, lambda: client.get_system_shared_memory_status(name)
        )


def test_inputs_and_outputs(client):
    size = ROWS.nbytes
    with region(client, size) as (first, source), region(client, size) as (second, target):
        shm.set_shared_memory_region(source, [ROWS])
        reply = infer(
            client, "identity_fp32", ROWS.shape, "FP32", (first, size), (second, size)
        )
        where = answered_in(client, reply)
        assert where == {"shared_memory_region": second, "shared_memory_byte_size": size}
        found = shm.get_contents_as_numpy(target, numpy.float32, ROWS.shape)
        numpy.testing.assert_array_equal(found, ROWS)


def test_offsets(client):
    size = ROWS.nbytes
    with region(client, 4 * size) as (name, handle):
        shm.set_shared_memory_region(handle, [ROWS], offset=size)
        source, target = (name, size, size), (name, size, 2 * size + 64)
        infer(client, "identity_fp32", ROWS.shape, "FP32", source, target)
        found = shm.get_contents_as_numpy(handle, numpy.float32, ROWS.shape, 2 * size + 64)
        numpy.testing.assert_array_equal(found, ROWS)


def test_a_region_of_a_part(client):
    """A region may begin past the beginning of its file."""
    size = ROWS.nbytes
    with region(client, 3 * size, register=False) as (name, handle):
        client.register_system_shared_memory(name, "/" + name, size, offset=2 * size)
        shm.set_shared_memory_region(handle, [ROWS], offset=2 * size)
        reply = infer(client, "identity_fp32", ROWS.shape, "FP32", (name, size))
        numpy.testing.assert_array_equal(reply.as_numpy("output"), ROWS)


def test_strings(client):
    texts = numpy.array([[b"one", b"", b"\x00\xff" * 9]], numpy.object_)
    raw = serialize_byte_tensor(texts)
    size = len(raw.item())
    with region(client, 2 * size) as (name, handle):
        shm.set_shared_memory_region(handle, [raw])
        source, target = (name, size), (name, size, size)
        infer(client, "identity_bytes", texts.shape, "BYTES", source, target)
        found = shm.get_contents_as_numpy(handle, numpy.object_, texts.shape, size)
        numpy.testing.assert_array_equal(found, texts)


def test_one_input_here_and_one_there(client):
    arrays = [numpy.full((1, 16), value, numpy.int32) for value in (5, 3)]
    with region(client, 64) as (name, handle):
        shm.set_shared_memory_region(handle, [arrays[1]])
        inputs = [
            client.input("INPUT0", arrays[0], "INT32"),
            client.region_input("INPUT1", (1, 16), "INT32", name, 64),
        ]
        reply = client.infer("simple", inputs)
        numpy.testing.assert_array_equal(reply.as_numpy("OUTPUT1"), arrays[0] - arrays[1])


def test_what_is_not_there(client):
    size = ROWS.nbytes
    name = "region-" + uuid.uuid4().hex
    call = client.register_system_shared_memory
    refused(client, "invalid_region", name, lambda: call(name, "/no-" + name, size))
    source = (name, size)
    refused(
        client, "unknown_region", name,
        lambda: infer(client, "identity_fp32", ROWS.shape, "FP32", source),
    )  # fmt: skip
    client.unregister_system_shared_memory(name)


@pytest.mark.parametrize("key", ("/../etc/passwd", "/a/b", "", "/", "/.."))
def test_no_key_leaves_the_folder(client, key):
    call = client.register_system_shared_memory
    refused(client, "invalid_region", "", lambda: call("escape", key, 16))


def test_names_and_sizes(client):
    size = ROWS.nbytes
    with region(client, size) as (name, _):
        call = client.register_system_shared_memory
        refused(client, "region_exists", name, lambda: call(name, "/" + name, size))
        refused(client, "invalid_region", "", lambda: call(name + "x", "/" + name, size + 8192))
        for source in ((name, size + 4), (name, size, 4), (name, size, 2**40)):
            refused(
                client, "invalid_region", name,
                lambda source=source: infer(
                    client, "identity_fp32", ROWS.shape, "FP32", source
                ),
            )  # fmt: skip
        refused(
            client, "invalid", "input",
            lambda: infer(client, "identity_fp32", (1, 16), "FP32", (name, size)),
        )  # fmt: skip


def test_an_output_that_does_not_fit(client):
    size = ROWS.nbytes
    with region(client, size) as (name, handle):
        shm.set_shared_memory_region(handle, [ROWS])
        refused(
            client, "invalid_region", "output",
            lambda: infer(
                client, "identity_fp32", ROWS.shape, "FP32", (name, size), (name, size - 4)
            ),
        )  # fmt: skip


def test_a_file_that_was_cut_does_not_hurt(client):
    size = 8 * 4096 * 4
    with region(client, size) as (name, _):
        os.truncate("/dev/shm/" + name, 4096)
        refused(
            client, "region_short", name,
            lambda: infer(client, "identity_fp32", (8, 4096), "FP32", (name, size)),
        )  # fmt: skip
        assert client.is_server_live()
        os.truncate("/dev/shm/" + name, size)


def test_unregister_all(client):
    with region(client, 16), region(client, 16):
        assert len(client.get_system_shared_memory_status()) >= 2
        client.unregister_system_shared_memory()
        assert client.get_system_shared_memory_status() == []


def test_cuda_memory_is_refused_by_name(client):
    assert client.get_cuda_shared_memory_status() == []
    client.unregister_cuda_shared_memory()
    client.unregister_cuda_shared_memory("some")
    refused(
        client, "unimplemented", "cuda",
        lambda: client.register_cuda_shared_memory("some", b"A" * 64, 0, 1024),
    )  # fmt: skip
