//! HTTP and gRPC servers.
