//! Trials without Docker: namespaces of processes and namespaces with a name. They need root, and touch no namespace but their own.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use leakcheck::target::{AgentProcess, Enter, FindOptions, Target, TargetError, TargetSpec};
use libtest_mimic::Trial;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tokio::io::AsyncBufReadExt;

use super::actor::Seen;
use super::block_on;

const PATIENCE: Duration = Duration::from_secs(10);

pub fn trials() -> Vec<Trial> {
    let ignored = !nix::unistd::Uid::effective().is_root();
    let trial = |name: &str, run: fn()| {
        Trial::test(name, move || {
            run();
            Ok(())
        })
        .with_ignored_flag(ignored)
    };
    vec![
        trial("kernel::a_process_is_entered", || block_on(a_process_is_entered())),
        trial("kernel::a_named_namespace_is_entered", || block_on(a_named_namespace_is_entered())),
        trial("kernel::the_namespace_is_kept_when_its_process_ends", || block_on(the_namespace_is_kept())),
        trial("kernel::what_is_no_target_is_refused", || block_on(what_is_no_target_is_refused())),
    ]
}

/// A process in a network namespace of its own, which ends when this is dropped.
struct Parked(Child);

impl Parked {
    fn new() -> Self {
        let mut child = Command::new("/proc/self/exe")
            .arg("own-netns")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process");
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().expect("its output")).read_line(&mut line).expect("a line");
        assert_eq!(line, "ready\n");
        Self(child)
    }

    fn netns(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/net", self.0.id()))
    }

    fn inode(&self) -> u64 {
        fs::metadata(self.netns()).expect("its namespace").ino()
    }
}

impl Drop for Parked {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        drop(self.0.wait());
    }
}

/// A name under /run/netns, as `ip netns add` makes it, with a resolv.conf of its own if wanted.
struct Named {
    name: String,
}

impl Named {
    fn new(namespace: &Path) -> Self {
        let named = Self { name: format!("leakcheck-test-{:08x}", rand::random::<u32>()) };
        fs::create_dir_all("/run/netns").expect("a directory");
        fs::write(named.file(), "").expect("a file");
        mount(Some(namespace), &named.file(), None::<&str>, MsFlags::MS_BIND, None::<&str>).expect("mounted");
        named
    }

    fn file(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    fn etc(&self) -> PathBuf {
        Path::new("/etc/netns").join(&self.name)
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        umount2(&self.file(), MntFlags::MNT_DETACH).expect("it was mounted");
        drop(fs::remove_file(self.file()));
        drop(fs::remove_dir_all(self.etc()));
        // Only when it is empty: it was not there before, then.
        drop(fs::remove_dir("/etc/netns"));
    }
}

async fn find(spec: TargetSpec) -> Result<Target, TargetError> {
    Target::find(Some(&spec), &FindOptions::default()).await
}

async fn seen(target: &Target) -> Seen {
    let mut agent: AgentProcess = target.launch(Enter::Auto, true).await.expect("launched");
    assert_eq!(agent.how, "setns");
    let mut line = String::new();
    tokio::io::BufReader::new(&mut agent.stdout).read_line(&mut line).await.expect("a line");
    agent.finish(PATIENCE).await.expect("ended");
    serde_json::from_str(&line).expect("what it sees")
}

async fn a_process_is_entered() {
    let parked = Parked::new();
    for spec in [TargetSpec::Pid(parked.0.id()), TargetSpec::Netns(parked.netns().display().to_string())] {
        let target = find(spec.clone()).await.expect("found");
        assert_eq!((target.label.clone(), target.namespace_inode()), (spec.to_string(), Some(parked.inode())));
        assert_eq!(target.resolv_conf.source, format!("/etc/resolv.conf of process {}", parked.0.id()));
        let seen = seen(&target).await;
        assert_eq!((seen.netns, seen.links), (parked.inode(), vec!["lo".to_owned()]));
    }
}

async fn a_named_namespace_is_entered() {
    let parked = Parked::new();
    let named = Named::new(&parked.netns());
    let spec = TargetSpec::Netns(named.name.clone());
    let target = find(spec.clone()).await.expect("found");
    assert_eq!(target.resolv_conf.source, "/etc/resolv.conf");
    assert_eq!(seen(&target).await.netns, parked.inode());
    fs::create_dir_all(named.etc()).expect("a directory");
    fs::write(named.etc().join("resolv.conf"), "nameserver 10.64.0.1\n").expect("written");
    for spec in [spec, TargetSpec::Netns(named.file().display().to_string())] {
        assert_eq!(find(spec).await.expect("found").resolv_conf.text, "nameserver 10.64.0.1\n");
    }
    let error = find(TargetSpec::Netns("no-such-name".to_owned())).await.expect_err("there is none");
    assert!(error.to_string().contains(&named.name), "it lists what there is: {error}");
}

async fn the_namespace_is_kept() {
    let parked = Parked::new();
    let inode = parked.inode();
    let target = find(TargetSpec::Pid(parked.0.id())).await.expect("found");
    drop(parked);
    assert_eq!(
        seen(&target).await.netns,
        inode,
        "the agent enters the namespace that was found, not what has the number now"
    );
    let error = target.reread_resolv_conf().await.expect_err("its process is gone");
    assert!(matches!(error, TargetError::ResolvConf { .. }), "{error:?}");
}

async fn what_is_no_target_is_refused() {
    let own = find(TargetSpec::Pid(std::process::id())).await;
    assert!(matches!(own, Err(TargetError::OwnNamespace { .. })), "{own:?}");
    let none = find(TargetSpec::Pid(4_194_305)).await;
    assert!(matches!(none, Err(TargetError::NoProcess { pid: 4_194_305 })), "{none:?}");
    let file = find(TargetSpec::Netns("/etc/hostname".to_owned())).await;
    assert!(matches!(file, Err(TargetError::NotANamespace { .. })), "{file:?}");
    let parked = Parked::new();
    let target = find(TargetSpec::Pid(parked.0.id())).await.expect("found");
    let error = target.launch(Enter::Container, false).await.err().expect("there is no container to join");
    assert!(matches!(error, TargetError::NotDocker { .. }), "{error:?}");
}
