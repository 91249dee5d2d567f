<<<<<<< HEAD
//! Embeds `probes/*.toml` and `fixtures/leaks/*.toml`, so that adding one needs no other edit.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR").map_err(io::Error::other)?);
    let out = PathBuf::from(env::var("OUT_DIR").map_err(io::Error::other)?);
    fs::write(out.join("probes.rs"), embed(&root.join("probes"))?)?;
    fs::write(out.join("leaks.rs"), embed(&root.join("fixtures/leaks"))?)
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
=======
//! Embeds the declarations: every file of `probes/` and `fixtures/leaks/` becomes an entry of a sorted list, so that
//! adding one is adding a file.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

fn main() {
    for (directory, name, file) in [("probes", "PROBES", "probes.rs"), ("fixtures/leaks", "LEAKS", "leaks.rs")] {
        embed(directory, name, file);
    }
}

fn embed(directory: &str, name: &str, file: &str) {
    let root = env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    let out = env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    println!("cargo::rerun-if-changed={directory}");
    let mut stems: Vec<String> = fs::read_dir(Path::new(&root).join(directory))
        .map(|entries| {
            entries
                .map(|entry| entry.expect("the directory can be read").path())
                .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
                .filter_map(|path| path.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned))
                .collect()
        })
        .unwrap_or_default();
    stems.sort();
    let mut code = format!("/// The files of `{directory}`, by their stem.\npub const {name}: &[(&str, &str)] = &[\n");
    for stem in stems {
        let path = format!("{root}/{directory}/{stem}.toml");
        writeln!(code, "    ({stem:?}, include_str!({path:?})),").expect("writing to a string");
    }
    code.push_str("];\n");
    fs::write(Path::new(&out).join(file), code).expect("OUT_DIR can be written");
>>>>>>> lab
}
