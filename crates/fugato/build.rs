//! Generates the gRPC code from `proto/`, without a protobuf compiler on the machine.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    let files = ["inference.proto", "health.proto"];
    for file in files {
        println!("cargo::rerun-if-changed={}", root.join(file).display());
    }
    let descriptors = protox::compile(files, [&root])?;
    tonic_prost_build::configure()
        // Tensors stay slices of the message they came in.
        .bytes(".")
        // Parameters are few and mostly absent: an ordered map costs nothing when empty.
        .btree_map(".")
        .codec_path("crate::server::grpc::codec::ProtobufCodec")
        // `RPCS` in the server answers what is not implemented, by name, before these can.
        .generate_default_stubs(true)
        .emit_rerun_if_changed(false)
        .compile_fds(descriptors)?;
    Ok(())
}
