//! The README says what the program says. `LEAKCHECK_BLESS=1 cargo test --test readme` writes its generated parts anew; the
//! demo's output is held by `tests/lab_matrix.rs`, which needs a lab.

use std::path::Path;
use std::sync::Mutex;
use std::{env, fs};

use clap::Parser;
use leakcheck::cli::{Cli, STATUSES};
use leakcheck::config::Config;
use leakcheck::report::{FORMATS, Format};

fn readme() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap()
}

/// What stands between the two comments of `name`, and where.
fn block(text: &str, name: &str) -> (usize, usize) {
    let (begin, end) = (format!("<!-- {name}:begin -->\n"), format!("<!-- {name}:end -->"));
    (text.find(&begin).unwrap() + begin.len(), text.find(&end).unwrap())
}

/// The block of `name` is `table`, or becomes so.
fn holds(name: &str, table: &str) {
    // The blocks are of one file.
    static FILE: Mutex<()> = Mutex::new(());
    let _one = FILE.lock().unwrap();
    let text = readme();
    let (begin, end) = block(&text, name);
    if env::var_os("LEAKCHECK_BLESS").is_some() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
        fs::write(path, format!("{}{table}{}", &text[..begin], &text[end..])).unwrap();
    } else {
        assert_eq!(&text[begin..end], table, "LEAKCHECK_BLESS=1 cargo test --test readme");
    }
}

#[test]
fn the_table_of_probes_is_the_catalogue() {
    let output = snapbox::cmd::Command::new(snapbox::cmd::cargo_bin!("leakcheck"))
        .args(["list", "--markdown"])
        .output()
        .unwrap();
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.starts_with("| probe"), "{table}");
    holds("probes", &table);
}

#[test]
fn the_table_of_formats_is_that_of_the_program() {
    let rows = FORMATS.iter().map(|Format { name, file, about, .. }| format!("| `{name}` | `{file}` | {about} |\n"));
    holds("formats", &format!("| `--format` | file | what for |\n| --- | --- | --- |\n{}", rows.collect::<String>()));
}

#[test]
fn exit_statuses_are_those_of_the_help() {
    assert!(readme().contains(STATUSES));
}

#[test]
fn the_configuration_is_accepted() {
    let text = readme();
    let example = text.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("leakcheck.toml");
    fs::write(&path, example).unwrap();
    let (config, _) = Config::load(Some(&path), []).unwrap();
    assert_eq!(config.target.docker.as_deref(), Some("gluetun"));
}

/// What is shown to be typed is taken. What it does is held by the trials of the lab and of Docker.
#[test]
fn every_command_that_is_shown_is_one() {
    let mut seen = 0;
    for file in ["README.md", "fixtures/compose/README.md", "reports/examples/README.md", ".github/CONTRIBUTING.md"] {
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
        for block in text.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next()) {
            for line in block.lines() {
                let line = line.replace("cargo run --release -- ", "leakcheck ");
                let words = line.split_whitespace().skip_while(|word| *word != "leakcheck");
                let words: Vec<&str> = words.take_while(|word| !["#", ">", "|", "&&"].contains(word)).collect();
                if words.is_empty() || line.trim_start().starts_with("docker") {
                    continue;
                }
                if let Err(error) = Cli::try_parse_from(&words) {
                    let helps = matches!(error.kind(), clap::error::ErrorKind::DisplayHelp);
                    assert!(helps, "{file}: {line}\n{error}");
                }
                seen += 1;
            }
        }
    }
    assert!(seen > 15, "{seen}");
}
