//! The calls of shared memory, between their messages and the registry.

use crate::error::InferError;
use crate::server::proto;
use crate::shm::{RegisterRegion, SharedMemory};
use proto::system_shared_memory_status_response::RegionStatus;

/// The protocol writes "all of them" as an empty name.
fn one(name: &str) -> Option<&str> {
    (!name.is_empty()).then_some(name)
}

/// One region, or all.
pub(super) fn status(
    regions: &SharedMemory,
    request: &proto::SystemSharedMemoryStatusRequest,
) -> Result<proto::SystemSharedMemoryStatusResponse, InferError> {
    let regions = regions.status(one(&request.name))?;
    let regions = regions.into_iter().map(|region| {
        let status = RegionStatus {
            name: region.name.clone(),
            key: region.key,
            offset: region.offset,
            byte_size: region.byte_size,
        };
        (region.name, status)
    });
    Ok(proto::SystemSharedMemoryStatusResponse {
        regions: regions.collect(),
    })
}

/// Registers a region.
pub(super) fn register(
    regions: &SharedMemory,
    request: proto::SystemSharedMemoryRegisterRequest,
) -> Result<proto::SystemSharedMemoryRegisterResponse, InferError> {
    regions.register(&RegisterRegion {
        name: request.name,
        key: request.key,
        offset: request.offset,
        byte_size: request.byte_size,
    })?;
    Ok(proto::SystemSharedMemoryRegisterResponse {})
}

/// Forgets one region, or all.
pub(super) fn unregister(
    regions: &SharedMemory,
    request: &proto::SystemSharedMemoryUnregisterRequest,
) -> Result<proto::SystemSharedMemoryUnregisterResponse, InferError> {
    regions.unregister(one(&request.name))?;
    Ok(proto::SystemSharedMemoryUnregisterResponse {})
}
