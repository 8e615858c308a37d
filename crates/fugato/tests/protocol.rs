//! Both protocols over real sockets, served by a double of the engine that echoes.

mod protocol {
    mod bad_input;
    mod bodies;
    mod classes;
    pub(crate) mod client;
    pub(crate) mod double;
    mod ending;
    mod errors;
    mod grpc;
    mod grpc_admin;
    mod grpc_health;
    mod grpc_stream;
    mod grpc_wire;
    mod http;
    mod http_admin;
    mod limits;
    mod memory;
    mod safety;
    mod shm;
    mod table;
}
