//! Generates the ONNX protobuf types from the vendored `onnx.proto`, without `protoc`.

#![allow(clippy::print_stdout, reason = "how a build script speaks to Cargo")]

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto/onnx.proto");
    let files = protox::compile(["proto/onnx.proto"], ["proto"])?;
    // Who reads these types knows ONNX; the specification's own comments are in the .proto file.
    prost_build::Config::new().disable_comments(["."]).compile_fds(files)?;
    Ok(())
}
