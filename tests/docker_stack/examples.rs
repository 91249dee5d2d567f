//! The examples of `fixtures/compose` that have leakcheck itself in a container, as their README has them: beside the stack with nothing
//! but the engine's socket, and before a service that is not to start when the stack leaks.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use libtest_mimic::Trial;

use super::Trials;
use super::stack::{PROJECT, Stack, agents, block_on, wait_until};

pub fn trials(trials: &Trials) -> Vec<Trial> {
    vec![
        trials.on_sealed("a_service_with_the_socket_audits_its_neighbours", audits_its_neighbours),
        trials.on_variant("a_leak_holds_a_deploy_back", vec![("LEAKCHECK_LEAK", "forced-udp")], holds_back),
    ]
}

/// Runs Compose with these files of the fixture, and with the image that the stack is made of.
fn compose(stack: &Stack, files: &[&str], arguments: &[&str]) -> Output {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/compose");
    let words = stack.compose_words();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).args(["-p", PROJECT]);
    for file in files {
        command.arg("-f").arg(folder.join(file));
    }
    let group = fs::metadata("/var/run/docker.sock").expect("the socket").gid().to_string();
    command.env("LEAKCHECK_IMAGE", "leakcheck-lab").env("DOCKER_GROUP", group);
    command.envs(stack.variables().iter().map(|(name, value)| (name, value)));
    command.args(arguments).current_dir(folder).output().expect("Compose")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// What `after-the-audit` says when it runs.
const VERSION: &str = concat!("leakcheck ", env!("CARGO_PKG_VERSION"));
const FILES: [&str; 2] = ["docker-compose.yml", "leakcheck.yml"];

fn audits_its_neighbours(stack: &Stack) {
    let output = compose(stack, &FILES, &["run", "--rm", "--no-deps", "-T", "leakcheck"]);
    let text = said(&output);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("entered by container"), "it cannot enter by setns from there: {text}");
    assert_eq!(block_on(agents()), Vec::<String>::new(), "its agent is gone");
    // As a gate: what waits for it starts.
    let output = compose(stack, &FILES, &["up", "-d", "--no-recreate", "after-the-audit"]);
    assert!(output.status.success(), "{}", said(&output));
    let logs = || said(&compose(stack, &FILES, &["logs", "--no-color", "after-the-audit"]));
    assert!(wait_until(Duration::from_secs(20), || logs().contains(VERSION)), "{}", logs());
    clear(stack);
}

fn holds_back(stack: &Stack) {
    let output = compose(stack, &FILES, &["up", "-d", "--no-recreate", "after-the-audit"]);
    assert!(!output.status.success(), "it started what was to wait: {}", said(&output));
    let audit = compose(stack, &FILES, &["logs", "--no-color", "leakcheck"]);
    assert!(said(&audit).contains("dns-forced"), "{}", said(&audit));
    let output = compose(stack, &FILES, &["logs", "--no-color", "after-the-audit"]);
    assert!(!said(&output).contains(VERSION), "{}", said(&output));
    clear(stack);
}

/// The stack's own files, by which it is taken down, do not name these services.
fn clear(stack: &Stack) {
    let output = compose(stack, &FILES, &["rm", "-s", "-f", "leakcheck", "after-the-audit"]);
    assert!(output.status.success(), "{}", said(&output));
}
