//! Embeds `probes/*.toml`, `fixtures/leaks/*.toml`, `fixtures/conditions/*.toml` and `fixtures/variants/*.toml`, so that adding one needs no
//! other edit. A static program is linked with its relocations packed, which is a quarter of a MiB.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR").map_err(io::Error::other)?);
    // musl's start-up code knows them since 1.2.4, glibc's dynamic linker not on every machine; a linker that does not know them warns.
    if env::var("CARGO_CFG_TARGET_ENV").is_ok_and(|libc| libc == "musl") {
        println!("cargo::rustc-link-arg=-Wl,-z,pack-relative-relocs");
    }
    let out = PathBuf::from(env::var("OUT_DIR").map_err(io::Error::other)?);
    fs::write(out.join("probes.rs"), embed(&root.join("probes"))?)?;
    fs::write(out.join("leaks.rs"), embed(&root.join("fixtures/leaks"))?)?;
    fs::write(out.join("conditions.rs"), embed(&root.join("fixtures/conditions"))?)?;
    fs::write(out.join("variants.rs"), embed(&root.join("fixtures/variants"))?)
}

/// The text of a slice of `(file stem, file content)`, sorted by stem.
fn embed(dir: &Path) -> io::Result<String> {
    println!("cargo::rerun-if-changed={}", dir.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|ext| ext == "toml") {
            files.push(path);
        }
    }
    files.sort();
    let mut text = String::from("&[\n");
    for path in files {
        println!("cargo::rerun-if-changed={}", path.display());
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        writeln!(text, "    ({stem:?}, include_str!({path:?})),").map_err(io::Error::other)?;
    }
    text.push_str("]\n");
    Ok(text)
}
