//! Generates the gRPC code from `proto/`, without a protobuf compiler on the machine.

use prost::Message;
use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    let files = ["inference.proto", "model_config.proto", "health.proto"];
    for file in files {
        println!("cargo::rerun-if-changed={}", root.join(file).display());
    }
    let descriptors = protox::compile(files, [&root])?;
    // Read at run time: text format and JSON of the model configuration, gRPC reflection.
    let out = std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?;
    std::fs::write(
        Path::new(&out).join("descriptors.bin"),
        descriptors.encode_to_vec(),
    )?;
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
