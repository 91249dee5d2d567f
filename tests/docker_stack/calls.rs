//! Which calls of the engine's API a run makes. They are recorded by a socket between leakcheck and the engine, and what
//! `fixtures/compose` says of them is generated from the record: `LEAKCHECK_BLESS=1` writes it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::{env, fs, thread};

use bollard::Docker;
use bollard::models::ContainerCreateBody;
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, ListImagesOptions, RemoveImageOptionsBuilder, StartContainerOptions,
    WaitContainerOptions,
};
use futures_util::StreamExt;
use leakcheck::target::{FindOptions, Manner, make_own_image};
use libtest_mimic::Trial;

use super::Trials;
use super::stack::{Stack, block_on};

/// The outages that are orders to the engine.
const BY_ENGINE: [&str; 3] = ["pause", "kill", "restart"];
/// What stands for the name or id of something.
const SOME: &str = "{id}";

pub fn trials(trials: &Trials) -> Vec<Trial> {
    vec![trials.on_sealed("calls_are_those_that_are_documented", calls_are_those_that_are_documented)]
}

/// A socket before the engine's, and the first line of each request. There is one on each connection.
struct Recorder(Arc<Mutex<BTreeSet<String>>>);

impl Recorder {
    fn open(path: &Path) -> Self {
        let listener = UnixListener::bind(path).expect("a socket");
        let calls = Arc::new(Mutex::new(BTreeSet::new()));
        let shared = Arc::clone(&calls);
        thread::spawn(move || {
            for near in listener.incoming() {
                let (Ok(near), Ok(far)) = (near, UnixStream::connect("/var/run/docker.sock")) else { return };
                let calls = Arc::clone(&shared);
                thread::spawn(move || pass_on(near, far, &calls));
            }
        });
        Self(calls)
    }

    fn take(&self) -> BTreeSet<String> {
        std::mem::take(&mut self.0.lock().expect("not poisoned"))
    }
}

fn pass_on(mut near: UnixStream, mut far: UnixStream, calls: &Mutex<BTreeSet<String>>) {
    let clone = |stream: &UnixStream| stream.try_clone().expect("a descriptor");
    let (mut from, mut to) = (clone(&far), clone(&near));
    thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(std::net::Shutdown::Write);
    });
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\n") && matches!(near.read(&mut byte), Ok(1)) {
        head.extend(byte);
    }
    if let Some(call) = general(&String::from_utf8_lossy(&head)) {
        calls.lock().expect("not poisoned").insert(call);
    }
    let _ = far.write_all(&head).and_then(|()| std::io::copy(&mut near, &mut far));
    let _ = far.shutdown(std::net::Shutdown::Write);
}

/// A request's first line without the version, the query, and names: `GET /containers/{id}/json`.
fn general(line: &str) -> Option<String> {
    let (method, rest) = line.split_once(' ')?;
    let path = rest.split([' ', '?']).next()?;
    let mut words: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    if words[0].strip_prefix("v1.").is_some_and(|minor| minor.parse::<u32>().is_ok()) {
        words.remove(0);
    }
    // What comes second is a name, but for the words that stand for all of a kind.
    if let [_, second, ..] = words.as_mut_slice()
        && !["json", "create", "load"].contains(second)
    {
        *second = SOME;
    }
    Some(format!("{method} /{}", words.join("/")))
}

fn calls_are_those_that_are_documented(stack: &Stack) {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("docker.sock");
    let recorder = Recorder::open(&socket);
    let run = |arguments: &[&str]| {
        let mut command = stack.command("container");
        command.args(arguments).arg("--state-dir").arg(folder.path()).stdout(Stdio::null());
        let output = command.env("DOCKER_HOST", format!("unix://{}", socket.display())).output().expect("it starts");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        recorder.take()
    };
    block_on(leave_something_behind());
    let always = run(&["--quick"]);
    let mut whole = vec!["kill-switch", "--restart-dependents"];
    whole.extend(BY_ENGINE.into_iter().flat_map(|method| ["--outage", method]));
    let by_engine: BTreeSet<String> = run(&whole).difference(&always).cloned().collect();

    let table = table(&always, &by_engine);
    let rules = rules(always.union(&by_engine));
    holds("README.md", ("<!-- calls:begin -->\n", "<!-- calls:end -->"), &table);
    holds("leakcheck-proxied.yml", ("      # calls:begin\n", "      # calls:end"), &rules);
}

/// What only some runs meet: no image of this program, one of an earlier build, and an agent that is left over.
async fn leave_something_behind() {
    let docker = Docker::connect_with_defaults().expect("an engine").negotiate_version().await.expect("an answer");
    let force = RemoveImageOptionsBuilder::default().force(true).build();
    for image in docker.list_images(None::<ListImagesOptions>).await.expect("images") {
        for tag in image.repo_tags.iter().filter(|tag| tag.starts_with("leakcheck-agent:")) {
            drop(docker.remove_image(tag, Some(force.clone()), None).await);
        }
    }
    let of = |value: &str| [("leakcheck".to_owned(), value.to_owned())].into();
    let manner = Manner { labels: of("agent-image"), ..Manner::default() };
    make_own_image(&FindOptions::default(), "leakcheck-agent:test-earlier", &manner).await.expect("an image");
    let body = ContainerCreateBody {
        image: Some("leakcheck-lab".to_owned()),
        cmd: Some(vec!["--version".to_owned()]),
        labels: Some(of("agent")),
        ..Default::default()
    };
    let name = "leakcheck-test-left";
    let options = CreateContainerOptionsBuilder::default().name(name).build();
    docker.create_container(Some(options), body).await.expect("created");
    docker.start_container(name, None::<StartContainerOptions>).await.expect("started");
    drop(docker.wait_container(name, None::<WaitContainerOptions>).next().await);
}

/// The documented list.
fn table(always: &BTreeSet<String>, by_engine: &BTreeSet<String>) -> String {
    let row = |call: &String, when: &str| format!("| `{call}` | {when} |\n");
    let head = "| call | made by |\n| --- | --- |\n".to_owned();
    let rows = always.iter().map(|call| row(call, "every run, or one that finds something to clear up"));
    let methods = BY_ENGINE.map(|method| format!("`--outage {method}`")).join(", ");
    let more = by_engine.iter().map(|call| row(call, &methods));
    rows.chain(more).fold(head, |text, row| text + &row)
}

/// Arguments of wollomatic/socket-proxy, which allow these calls and no others.
fn rules<'a>(calls: impl Iterator<Item = &'a String>) -> String {
    let mut by_method: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (method, path) in calls.filter_map(|call| call.split_once(" /")) {
        by_method.entry(method).or_default().push(path.replace(SOME, "[a-zA-Z0-9_.:-]+"));
    }
    let line = |(method, paths): (&str, Vec<String>)| {
        format!("      - '-allow{method}=(/v1\\.[0-9]+)?/({})'\n", paths.join("|"))
    };
    by_method.into_iter().map(line).collect()
}

/// A file of the fixture says this between its marks.
fn holds(name: &str, (begin, end): (&str, &str), wanted: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/compose").join(name);
    let text = fs::read_to_string(&path).expect("a file of the fixture");
    let (before, rest) = text.split_once(begin).expect("the first mark");
    let (said, after) = rest.split_once(end).expect("the second mark");
    if env::var_os("LEAKCHECK_BLESS").is_some() {
        fs::write(&path, format!("{before}{begin}{wanted}{end}{after}")).expect("written");
        return;
    }
    assert_eq!(said, wanted, "{name} says other calls than a run makes; LEAKCHECK_BLESS=1 writes it anew");
}
