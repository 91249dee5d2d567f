//! Trials with containers.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bollard::models::HostConfig;
use bollard::query_parameters::{RemoveImageOptionsBuilder, RestartContainerOptionsBuilder};
use leakcheck::target::{
    AgentProcess, Enter, FindOptions, Manner, ROLE_LABEL, Target, TargetError, TargetSpec, make_own_image, own_image,
};
use libtest_mimic::Trial;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};

use super::actor::Seen;
use super::engine::{Bench, available, joined, label, with_bench};

const PATIENCE: Duration = Duration::from_secs(10);
const NET_RAW: u64 = 1 << 13;
/// To send as the users of the stack's programs.
const SET_USER: u64 = 1 << 6 | 1 << 7;
const NET_ADMIN: u64 = 1 << 12;

pub fn trials() -> Vec<Trial> {
    let ignored = !available();
    let not_root = !nix::unistd::Uid::effective().is_root();
    let trial = |name: &str, run: fn()| {
        Trial::test(name, move || {
            run();
            Ok(())
        })
        .with_ignored_flag(ignored)
    };
    let as_root = |name: &str, run: fn()| trial(name, run).with_ignored_flag(ignored || not_root);
    vec![
        as_root("docker::setns_enters_the_namespace", || with_bench(setns_enters_the_namespace)),
        trial("docker::a_container_enters_with_few_rights", || with_bench(a_container_enters_with_few_rights)),
        as_root("docker::auto_is_setns_for_root", || with_bench(auto_is_setns_for_root)),
        as_root("docker::without_privilege_a_container_is_used", || with_bench(without_privilege_a_container_is_used)),
        trial("docker::much_data_goes_both_ways", || with_bench(much_data_goes_both_ways)),
        trial("docker::the_gluetun_is_found", || with_bench(the_gluetun_is_found)),
        trial("docker::dependents_are_told", || with_bench(dependents_are_told)),
        as_root("docker::an_orphan_is_told", || with_bench(an_orphan_is_told)),
        trial("docker::a_dependent_leads_to_its_owner", || with_bench(a_dependent_leads_to_its_owner)),
        as_root("docker::a_changed_resolv_conf_is_seen", || with_bench(a_changed_resolv_conf_is_seen)),
        trial("docker::what_cannot_be_entered_is_refused", || with_bench(what_cannot_be_entered_is_refused)),
        trial("docker::an_agent_that_fails_says_why", || with_bench(an_agent_that_fails_says_why)),
        trial("docker::an_agent_that_never_ends_is_killed", || with_bench(an_agent_that_never_ends_is_killed)),
        trial("docker::no_agent_outlives_its_runner", || with_bench(no_agent_outlives_its_runner)),
        trial("docker::images_of_earlier_builds_are_pruned", || with_bench(images_of_earlier_builds_are_pruned)),
        trial("docker::leftovers_are_swept", || with_bench(leftovers_are_swept)),
    ]
}

async fn find(bench: &Bench, name: &str) -> Result<Target, TargetError> {
    Target::find(Some(&TargetSpec::Docker(bench.name(name))), &FindOptions::default()).await
}

/// Starts an agent and reads its first line.
async fn launch(target: &Target, enter: Enter, admin: bool) -> (AgentProcess, Seen) {
    let mut agent = target.launch(enter, admin).await.expect("launched");
    let mut line = String::new();
    let read = tokio::io::BufReader::new(&mut agent.stdout).read_line(&mut line).await;
    assert!(read.is_ok_and(|length| length > 0), "the agent said nothing, but: {}", agent.stderr_tail());
    (agent, serde_json::from_str(&line).expect("what it sees"))
}

fn own_netns() -> u64 {
    std::fs::metadata("/proc/self/ns/net").expect("our namespace").ino()
}

async fn setns_enters_the_namespace(bench: &Bench) {
    bench.start("vpn", |_| {}).await;
    let target = find(bench, "vpn").await.expect("found");
    assert_eq!(target.label, format!("docker:{}", bench.name("vpn")));
    assert!(target.resolv_conf.text.contains("nameserver 192.0.2.99"), "{:?}", target.resolv_conf);
    let (agent, seen) = launch(&target, Enter::Setns, false).await;
    assert_eq!((agent.how, Some(seen.netns)), ("setns", target.namespace_inode()));
    assert_ne!(seen.netns, own_netns());
    assert_eq!(seen.session, i32::try_from(seen.pid).expect("a pid"), "a session of its own");
    assert!(seen.links.iter().any(|link| link == "eth0"), "{seen:?}");
    assert_eq!(agent.handle.pid(), Some(seen.pid));
    agent.finish(PATIENCE).await.expect("ended");
    assert!(!std::path::Path::new(&format!("/proc/{}", seen.pid)).exists(), "it was reaped");
}

async fn a_container_enters_with_few_rights(bench: &Bench) {
    bench.start("vpn", |_| {}).await;
    let target = find(bench, "vpn").await.expect("found");
    for (admin, capabilities) in [(false, NET_RAW | SET_USER), (true, NET_RAW | SET_USER | NET_ADMIN)] {
        let (agent, seen) = launch(&target, Enter::Container, admin).await;
        assert_eq!((agent.how, seen.capabilities), ("container", capabilities));
        assert!(seen.no_new_privileges && seen.root_is_read_only, "{seen:?}");
        assert!(seen.links.iter().any(|link| link == "eth0"), "{seen:?}");
        assert_ne!(seen.netns, own_netns());
        if let Some(inode) = target.namespace_inode() {
            assert_eq!(seen.netns, inode);
        }
        let id = agent.handle.container_id().expect("a container").to_owned();
        let inspected = bench.docker.inspect_container(&id, None).await.expect("it is there");
        let log = inspected.host_config.and_then(|config| config.log_config?.typ);
        assert_eq!(log.as_deref(), Some("none"), "evidence does not stay in the engine's logs");
        agent.finish(PATIENCE).await.expect("ended");
        assert!(bench.docker.inspect_container(&id, None).await.is_err(), "it was removed");
    }
}

async fn auto_is_setns_for_root(bench: &Bench) {
    bench.start("vpn", |_| {}).await;
    let (agent, _) = launch(&find(bench, "vpn").await.expect("found"), Enter::Auto, true).await;
    assert_eq!(agent.how, "setns");
    agent.finish(PATIENCE).await.expect("ended");
}

/// A runner as nobody, who may use the engine's socket.
fn as_nobody(bench: &Bench, name: &str, enter: &str) -> Command {
    let mut command = runner(bench, name, enter);
    let socket = std::fs::metadata("/var/run/docker.sock").expect("the socket");
    command.uid(65534).gid(socket.gid());
    command
}

pub fn runner(bench: &Bench, name: &str, enter: &str) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.args(["runner", &format!("docker:{}", bench.name(name)), enter]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// What a runner says that it launched: the way, and the id.
pub fn launched(child: &mut Child) -> (String, String) {
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().expect("its output")).read_line(&mut line).expect("a line");
    let (how, id) = line.trim().split_once(' ').unwrap_or_else(|| panic!("a runner that says {line:?}"));
    (how.to_owned(), id.to_owned())
}

async fn without_privilege_a_container_is_used(bench: &Bench) {
    bench.start("vpn", |_| {}).await;
    let mut child = as_nobody(bench, "vpn", "auto").spawn().expect("a runner");
    let (how, _) = launched(&mut child);
    assert_eq!(how, "container");
    drop(child.stdin.take());
    assert!(child.wait().expect("it ends").success());
    let refused = as_nobody(bench, "vpn", "setns").output().expect("a runner");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("enter the network namespace of docker:"), "{said}");
    let no_member = as_nobody(bench, "vpn", "auto").gid(65534).output().expect("a runner");
    let said = String::from_utf8_lossy(&no_member.stderr);
    assert!(!no_member.status.success() && said.contains("use the Docker socket /var/run/docker.sock"), "{said}");
}

async fn much_data_goes_both_ways(bench: &Bench) {
    bench.start("vpn", |_| {}).await;
    let target = find(bench, "vpn").await.expect("found");
    let data: Vec<u8> = (0..3_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let (agent, _) = launch(&target, Enter::Container, false).await;
    let AgentProcess { mut stdin, mut stdout, handle, .. } = agent;
    let sent = data.clone();
    let send = tokio::spawn(async move {
        stdin.write_all(b"echo\n").await.expect("sent");
        for part in sent.chunks(10_007) {
            stdin.write_all(part).await.expect("sent");
            stdin.flush().await.expect("sent");
        }
    });
    let mut back = Vec::new();
    stdout.read_to_end(&mut back).await.expect("read");
    send.await.expect("sent");
    assert!(back == data, "{} bytes came back of {}, or others", back.len(), data.len());
    handle.finish(PATIENCE).await.expect("ended: dropping its input told it to");
}

async fn the_gluetun_is_found(bench: &Bench) {
    let nobody = Target::find(None, &FindOptions::default()).await;
    assert!(matches!(nobody, Err(TargetError::NoGluetun { .. })), "this machine has a Gluetun of its own: {nobody:?}");
    bench.start("other", |_| {}).await;
    bench.start("first", label(ROLE_LABEL, "gluetun")).await;
    let target = Target::find(None, &FindOptions::default()).await.expect("one runs");
    assert_eq!(target.label, format!("docker:{}", bench.name("first")));
    assert_eq!(target.gluetun.expect("a Gluetun").control_port, 8000);
    let env =
        ["VPN_SERVICE_PROVIDER=mullvad", "VPN_TYPE=wireguard", "WIREGUARD_PRIVATE_KEY=hunter2"].map(str::to_owned);
    bench.start("second", |body| body.env.get_or_insert_default().extend(env)).await;
    let error = Target::find(None, &FindOptions::default()).await.expect_err("two run");
    let TargetError::SeveralGluetun { found } = &error else { panic!("{error:?}") };
    let names: Vec<&str> = found.iter().map(|candidate| candidate.name.as_str()).collect();
    assert_eq!(names, [bench.name("first"), bench.name("second")]);
    let target = find(bench, "second").await.expect("named");
    assert!(!format!("{target:?}").contains("hunter2"), "a secret was kept");
    assert_eq!(target.settings.expect("settings").secret_variables, ["WIREGUARD_PRIVATE_KEY"]);
}

async fn dependents_are_told(bench: &Bench) {
    bench.start("vpn", |_| {}).await;
    bench.start("torrent", joined(bench, "vpn")).await;
    bench.start("stranger", |_| {}).await;
    let target = find(bench, "vpn").await.expect("found");
    let [torrent] = target.dependents.as_slice() else { panic!("{:?}", target.dependents) };
    assert_eq!((torrent.name.clone(), torrent.state.as_str()), (bench.name("torrent"), "running"));
    assert_ne!(torrent.in_namespace, Some(false));
    assert_eq!(torrent.resolv_conf.as_ref().expect("its own").text, target.resolv_conf.text);
    // An agent in a container is no dependent, though it shares the network too.
    let (agent, _) = launch(&target, Enter::Container, false).await;
    assert_eq!(find(bench, "vpn").await.expect("found").dependents.len(), 1);
    agent.finish(PATIENCE).await.expect("ended");
}

async fn an_orphan_is_told(bench: &Bench) {
    bench.start("vpn", |_| {}).await;
    bench.start("torrent", joined(bench, "vpn")).await;
    assert_eq!(find(bench, "vpn").await.expect("found").dependents[0].in_namespace, Some(true));
    let at_once = RestartContainerOptionsBuilder::default().t(0).build();
    bench.docker.restart_container(&bench.name("vpn"), Some(at_once)).await.expect("restarted");
    assert_eq!(find(bench, "vpn").await.expect("found").dependents[0].in_namespace, Some(false));
}

async fn a_dependent_leads_to_its_owner(bench: &Bench) {
    bench.start("vpn", |_| {}).await;
    bench.start("torrent", joined(bench, "vpn")).await;
    let target = find(bench, "torrent").await.expect("found");
    assert_eq!(target.label, format!("docker:{}", bench.name("vpn")));
    assert!(target.notes.iter().any(|note| note.contains(&bench.name("torrent"))), "{:?}", target.notes);
}

async fn a_changed_resolv_conf_is_seen(bench: &Bench) {
    let inspected = bench.start("vpn", |_| {}).await;
    let target = find(bench, "vpn").await.expect("found");
    // Gluetun rewrites the file in place; on the host it is this one.
    let path = inspected.resolv_conf_path.expect("a path");
    std::fs::write(path, "nameserver 8.8.8.8\n").expect("rewritten");
    assert_eq!(target.reread_resolv_conf().await.expect("read").text, "nameserver 8.8.8.8\n");
    let given = bench.name("resolv.conf");
    let given = std::env::temp_dir().join(given);
    std::fs::write(&given, "nameserver 9.9.9.9\n").expect("written");
    let options = FindOptions { resolv_conf: Some(given.clone()), ..Default::default() };
    let target = Target::find(Some(&TargetSpec::Docker(bench.name("vpn"))), &options).await;
    std::fs::remove_file(&given).expect("removed");
    assert_eq!(target.expect("found").resolv_conf.text, "nameserver 9.9.9.9\n");
}

async fn what_cannot_be_entered_is_refused(bench: &Bench) {
    bench.start("vpn", |_| {}).await;
    let error = find(bench, "none").await.expect_err("there is none");
    let TargetError::NoContainer { running, .. } = &error else { panic!("{error:?}") };
    assert!(running.iter().any(|candidate| candidate.name == bench.name("vpn")), "{running:?}");

    bench.create("created", |_| {}).await;
    bench.start("paused", |_| {}).await;
    bench.docker.pause_container(&bench.name("paused")).await.expect("paused");
    for name in ["created", "paused"] {
        let error = find(bench, name).await.expect_err(name);
        assert!(matches!(&error, TargetError::NotRunning { state, .. } if state == name), "{error:?}");
    }
    let host = HostConfig { network_mode: Some("host".to_owned()), ..Default::default() };
    bench.start("host", |body| body.host_config = Some(host)).await;
    assert!(matches!(find(bench, "host").await, Err(TargetError::HostNetwork { .. })));

    let target = find(bench, "vpn").await.expect("found");
    bench.docker.kill_container(&bench.name("vpn"), None).await.expect("killed");
    let before = bench.with_prefix("leakcheck-agent-").await;
    let error = target.launch(Enter::Container, false).await.err().expect("a stopped container cannot be joined");
    assert!(matches!(error, TargetError::Docker { .. }), "{error:?}");
    assert_eq!(bench.with_prefix("leakcheck-agent-").await, before, "what was created is removed");
}

async fn an_agent_that_fails_says_why(bench: &Bench) {
    bench.start("vpn", |_| {}).await;
    let target = find(bench, "vpn").await.expect("found");
    for enter in [Enter::Auto, Enter::Container] {
        let (mut agent, _) = launch(&target, enter, false).await;
        agent.stdin.write_all(b"fail\n").await.expect("told");
        let error = agent.finish(PATIENCE).await.expect_err("it failed");
        let TargetError::AgentFailed { status, stderr } = &error else { panic!("{error:?}") };
        assert_eq!((status.as_str(), stderr.as_str()), ("status 3", "told to[31m fail"));
    }
}

async fn an_agent_that_never_ends_is_killed(bench: &Bench) {
    bench.start("vpn", |_| {}).await;
    let target = find(bench, "vpn").await.expect("found");
    let before = bench.with_prefix("leakcheck-agent-").await;
    for enter in [Enter::Auto, Enter::Container] {
        let (mut agent, seen) = launch(&target, enter, false).await;
        agent.stdin.write_all(b"never end\n").await.expect("told");
        let how = agent.how;
        let error = agent.finish(Duration::from_millis(300)).await.expect_err("it does not end");
        assert!(matches!(error, TargetError::AgentStuck { .. }), "{error:?}");
        assert!(how != "setns" || !std::path::Path::new(&format!("/proc/{}", seen.pid)).exists(), "it was killed");
    }
    assert_eq!(bench.with_prefix("leakcheck-agent-").await, before);
}

async fn no_agent_outlives_its_runner(bench: &Bench) {
    bench.start("vpn", |_| {}).await;
    for enter in ["auto", "container"] {
        let mut child = runner(bench, "vpn", enter).spawn().expect("a runner");
        let (how, id) = launched(&mut child);
        child.kill().expect("killed");
        child.wait().expect("reaped");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let there = match how.as_str() {
                "setns" => std::path::Path::new(&format!("/proc/{id}/exe")).exists(),
                _ => bench.docker.inspect_container(&id, None).await.is_ok(),
            };
            if !there {
                break;
            }
            assert!(Instant::now() < deadline, "the agent ({how} {id}) is still there");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

async fn leftovers_are_swept(bench: &Bench) {
    bench.start("vpn", |_| {}).await;
    let target = find(bench, "vpn").await.expect("found");
    let (agent, _) = launch(&target, Enter::Container, false).await;
    let id = agent.handle.container_id().expect("a container").to_owned();
    let inspected = bench.docker.inspect_container(&id, None).await.expect("inspected");
    let ours = inspected.config.and_then(|config| config.labels).expect("labels")["leakcheck.runner"].clone();
    // The same boot and process namespace, and a process that cannot be.
    let parts: Vec<&str> = ours.split('/').collect();
    let gone = format!("{}/{}/4194305/1", parts[0], parts[1]);
    let elsewhere = format!("another-boot/{}/4194305/1", parts[1]);
    let left = |runner: String| {
        move |body: &mut bollard::models::ContainerCreateBody| {
            label("leakcheck", "agent")(body);
            label("leakcheck.runner", &runner)(body);
        }
    };
    bench.start("left", left(gone)).await;
    bench.start("elsewhere", left(elsewhere)).await;
    let target = find(bench, "vpn").await.expect("found");
    assert!(target.notes.iter().any(|note| note.contains(&bench.name("left"))), "{:?}", target.notes);
    assert!(bench.with_prefix(&bench.name("left")).await.is_empty(), "it was removed");
    assert!(!bench.with_prefix(&bench.name("elsewhere")).await.is_empty(), "nothing is known of that runner");
    agent.finish(PATIENCE).await.expect("ours was left alone");
}

/// What a build leaves behind is what is used: its own image, and those that containers have.
async fn images_of_earlier_builds_are_pruned(bench: &Bench) {
    let options = FindOptions::default();
    let own = own_image(&options).await.expect("an image");
    let exists = async |name: &str| bench.docker.inspect_image(name).await.is_ok();
    let tags = ["leakcheck-agent:test-old", "leakcheck-agent:test-used", "leakcheck-test:somebody-elses"];
    for (number, tag) in tags.iter().enumerate() {
        let label = if tag.contains("somebody") { "other" } else { "leakcheck" };
        // Another label, so that it is not the very same image.
        let labels = [(label, "agent-image".to_owned()), ("number", number.to_string())];
        let labels = labels.map(|(key, value)| (key.to_owned(), value)).into();
        make_own_image(&options, tag, &Manner { labels, ..Manner::default() }).await.expect("made");
    }
    bench.create("user", |body| body.image = Some(tags[1].to_owned())).await;
    // The containers of the trial may have it; its name is what is looked for.
    let force = RemoveImageOptionsBuilder::default().force(true).build();
    drop(bench.docker.remove_image(&own, Some(force.clone()), None).await);
    assert_eq!(own_image(&options).await.expect("built again"), own);
    let left = [exists(tags[0]).await, exists(tags[1]).await, exists(tags[2]).await, exists(&own).await];
    bench.docker.remove_container(&bench.name("user"), None).await.expect("removed");
    for tag in tags {
        drop(bench.docker.remove_image(tag, Some(force.clone()), None).await);
    }
    assert_eq!(left, [false, true, true, true], "the old one, the used one, somebody else's, our own");
}
