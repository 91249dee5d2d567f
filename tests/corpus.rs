//! What `fuzz/` does at length, shortly and always alike: every reader of what comes from outside ([`INPUTS`]) is given the examples of its
//! folder in `fuzz/corpus`, and broken forms of them. `LEAKCHECK_FUZZ` says how many of these.

#![cfg(feature = "lab")]

#[allow(dead_code, reason = "shared with the trials of `hostile`, which need more of it")]
#[path = "hostile/mutate.rs"]
mod mutate;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use leakcheck::untrusted::{INPUTS, corpus};
use mutate::Mutator;

/// Broken forms for each kind, where nobody says.
const BROKEN: u64 = 2_000;
/// What one reading may take, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(5);
/// No example is longer: they are there to be read.
const LONGEST: u64 = 64 << 10;

fn examples(kind: &str) -> Vec<Vec<u8>> {
    let folder = corpus(kind);
    let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} is empty", folder.display());
    let read = |path: &Path| {
        assert!(path.metadata().unwrap().len() <= LONGEST, "{} is too long", path.display());
        fs::read(path).unwrap()
    };
    paths.iter().map(|path| read(path)).collect()
}

#[test]
fn every_reader_bears_its_corpus_and_broken_forms_of_it() {
    let count = std::env::var("LEAKCHECK_FUZZ").ok().and_then(|text| text.parse().ok()).unwrap_or(BROKEN);
    for (kind, reader) in INPUTS {
        let good = examples(kind);
        let mut mutator = Mutator::new(20_261_120);
        let broken = (0..count).map(|_| mutator.of(&good));
        for octets in good.iter().cloned().chain(broken) {
            let began = Instant::now();
            let read = std::panic::catch_unwind(|| reader(&octets));
            assert!(read.is_ok() && began.elapsed() < PATIENCE, "{kind}, {:?}: {octets:02x?}", began.elapsed());
        }
    }
}

/// What is in one of the lists, the folders and the targets is in all.
#[test]
fn every_kind_has_its_folder_and_its_target() {
    let kinds: BTreeSet<String> = INPUTS.iter().map(|(kind, _)| (*kind).to_owned()).collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let folders = fs::read_dir(root.join("corpus")).unwrap();
    let folders: BTreeSet<String> = folders.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(folders, kinds);
    let manifest: toml::Table = fs::read_to_string(root.join("Cargo.toml")).unwrap().parse().unwrap();
    let bins = manifest["bin"].as_array().unwrap().iter();
    let targets: BTreeSet<String> = bins.map(|bin| bin["name"].as_str().unwrap().to_owned()).collect();
    assert_eq!(targets, kinds);
}
