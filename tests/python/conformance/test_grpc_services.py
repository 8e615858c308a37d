"""gRPC's own services, with gRPC's own clients: health v1 and reflection."""

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

SERVICE = "inference.GRPCInferenceService"


@pytest.fixture
def channel(server):
    with grpc.insecure_channel(server.addresses["grpc"]) as channel:
        yield channel


@pytest.mark.parametrize("service", ("", SERVICE))
def test_health(channel, service):
    stub = health_pb2_grpc.HealthStub(channel)
    request = health_pb2.HealthCheckRequest(service=service)
    assert stub.Check(request, timeout=60).status == health_pb2.HealthCheckResponse.SERVING
    watch = stub.Watch(request, timeout=60)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    watch.cancel()


def test_health_of_what_is_not_there(channel):
    stub = health_pb2_grpc.HealthStub(channel)
    with pytest.raises(grpc.RpcError) as caught:
        stub.Check(health_pb2.HealthCheckRequest(service="nope"), timeout=60)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


def test_reflection(channel):
    database = ProtoReflectionDescriptorDatabase(channel)
    assert {SERVICE, "grpc.health.v1.Health"} <= set(database.get_services())
    service = DescriptorPool(database).FindServiceByName(SERVICE)
    assert {"ModelInfer", "ModelStreamInfer", "SystemSharedMemoryRegister"} <= set(
        service.methods_by_name
    )
