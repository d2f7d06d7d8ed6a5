//! Compiles the protocol (no `protoc` needed) and the static task shim that both runtimes put under a command.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    compile_protocol();
    compile_etcd_protocol();
    build_shim();
}

fn compile_protocol() {
    println!("cargo::rerun-if-changed=proto");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let files = ["proto/wharf/v1/types.proto", "proto/wharf/v1/agent.proto", "proto/wharf/v1/controller.proto"];
    let mut compiler = protox::Compiler::new(["proto"]).expect("proto/ is a folder");
    compiler.include_imports(true).open_files(files).expect("the files under proto/ are valid");
    // For the reflection service.
    std::fs::write(out.join("wharf.v1.bin"), compiler.encode_file_descriptor_set()).expect("OUT_DIR can be written");
    tonic_prost_build::configure().compile_fds(compiler.file_descriptor_set()).expect("code is generated for proto/");
}

/// What the store says to etcd; apart from ours, which the reflection service shows.
fn compile_etcd_protocol() {
    let files = protox::compile(["proto/etcd/rpc.proto"], ["proto/etcd"]).expect("proto/etcd/rpc.proto is valid");
    let code = tonic_prost_build::configure().build_server(false);
    code.compile_fds(files).expect("code is generated for proto/etcd");
}

/// The shim runs in any image, so it is linked statically, from std and libc alone, outside cargo's crates.
fn build_shim() {
    println!("cargo::rerun-if-changed=src/shim");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("wharf-shim");
    let rustc = std::env::var_os("RUSTC").expect("cargo sets RUSTC");
    let target = std::env::var("TARGET").expect("cargo sets TARGET");
    let mut compile = Command::new(rustc);
    if std::env::var_os("CARGO_FEATURE_NEXT_LEVEL").is_some() {
        compile.args(["--cfg", "feature=\"next-level\""]);
    }
    let status = compile
        .args(["--edition", "2024", "--crate-name", "wharf_shim", "--crate-type", "bin", "--target", &target])
        .args(["-C", "opt-level=2", "-C", "panic=abort", "-C", "strip=symbols", "-C", "target-feature=+crt-static"])
        .arg("-o")
        .arg(&out)
        .arg(Path::new("src/shim/main.rs"))
        .status()
        .expect("rustc starts");
    assert!(status.success(), "src/shim/main.rs compiles as a static program");
}
