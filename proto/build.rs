//! Compiles the .proto files with protox, so that nobody needs a protoc binary.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=muster");
    let descriptors = protox::compile(["muster/v1/control.proto"], ["."])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
