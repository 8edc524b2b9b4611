//! Compiles every contract under `okno/` without protoc (protox), writes the Rust types and services, and keeps
//! the descriptor set for server reflection and for the JSON form of messages.

use prost::Message;
use std::{
    env,
    error::Error,
    fs, io,
    path::{Path, PathBuf},
};

/// Every `.proto` below `dir`, sorted so that the generated code does not depend on the file system.
fn protos(dir: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    // The folder itself is watched so that an added or removed file rebuilds the crate.
    println!("cargo:rerun-if-changed={}", dir.display());
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            protos(&path, found)?;
        } else if path.extension().is_some_and(|e| e == "proto") {
            println!("cargo:rerun-if-changed={}", path.display());
            found.push(path);
        }
    }
    found.sort();
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    let mut files = Vec::new();
    protos(Path::new("okno"), &mut files)?;
    // Source info carries the comments, which become documentation and reach reflection clients.
    let descriptors = protox::Compiler::new(["."])?
        .include_source_info(true)
        .include_imports(true)
        .open_files(&files)?
        .file_descriptor_set();
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("okno.bin"), descriptors.encode_to_vec())?;
    let mut config = tonic_prost_build::Config::new();
    // Bodies travel without a copy; maps keep a fixed order wherever they are printed or hashed; messages know
    // their names, by which their JSON form is found.
    config.bytes(["."]).btree_map(["."]).enable_type_names();
    tonic_prost_build::configure()
        .build_client(true)
        .build_server(true)
        .compile_fds_with_config(descriptors, config)?;
    Ok(())
}
