//! Embeds the shipped catalogue, so that `oknoctl catalogue load` works without any folder, and notes the profile the
//! binary is built with, which benchmarks state.

use std::{
    env,
    error::Error,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    // target/<profile>/build/<package>/out: cargo's own PROFILE tells only release from debug.
    let profile =
        out.ancestors().nth(3).and_then(Path::file_name).and_then(|n| n.to_str()).unwrap_or("unknown");
    println!("cargo:rustc-env=OKNO_PROFILE={profile}");

    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("catalogue");
    println!("cargo:rerun-if-changed={}", root.display());
    let mut files = Vec::new();
    for folder in fs::read_dir(&root)? {
        let folder = folder?.path();
        if !folder.is_dir() {
            continue;
        }
        println!("cargo:rerun-if-changed={}", folder.display());
        for file in fs::read_dir(&folder)? {
            let file = file?.path();
            if file.extension().is_some_and(|e| e == "toml") {
                files.push(file);
            }
        }
    }
    files.sort();
    let mut code = String::from("pub const FILES: &[(&str, &str)] = &[\n");
    for file in files {
        let name = file.strip_prefix(&root)?.to_str().ok_or("a file name is no UTF-8")?.replace('\\', "/");
        writeln!(code, "    ({name:?}, include_str!({:?})),", file.display().to_string())?;
    }
    code.push_str("];\n");
    fs::write(out.join("catalogue.rs"), code)?;
    Ok(())
}
