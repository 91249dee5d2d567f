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
}
