//! Trials with engines that are reached otherwise than by a socket of this machine, and what they leave behind.

use std::process::{Command, Stdio};
use std::time::Duration;

use libtest_mimic::Trial;

use super::docker::{launched, runner};
use super::engine::{Bench, available, with_bench};
use super::left::Snapshot;
use super::ssh;
use super::tls_front::{SOCKET, Tls};

pub fn trials() -> Vec<Trial> {
    let ignored = !available();
    let no_client = Command::new("docker").arg("--version").stdout(Stdio::null()).status().is_err();
    let trial = |name: &str, run: fn()| {
        Trial::test(name, move || {
            run();
            Ok(())
        })
        .with_ignored_flag(ignored)
    };
    let with_client = |name: &str, run: fn()| trial(name, run).with_ignored_flag(ignored || no_client);
    vec![
        trial("remote::tls_is_spoken", || with_bench(tls_is_spoken)),
        trial("remote::tls_that_does_not_fit_is_told", || with_bench(tls_that_does_not_fit_is_told)),
        with_client("remote::a_context_is_followed", || with_bench(a_context_is_followed)),
        with_client("remote::ssh_is_a_way", || with_bench(ssh_is_a_way)),
        trial("remote::nothing_is_left_behind", || with_bench(nothing_is_left_behind)),
        trial("remote::nothing_is_left_behind_by_the_killed", || with_bench(nothing_is_left_behind_by_the_killed)),
    ]
}

/// A runner whose surroundings say nothing of Docker but this.
fn remote(bench: &Bench, enter: &str, variables: &[(&str, &str)]) -> Command {
    let mut command = runner(bench, "vpn", enter);
    for name in
        ["DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", "DOCKER_TLS", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"]
    {
        command.env_remove(name);
    }
    command.envs(variables.iter().copied());
    command
}

/// Has a runner launch its agent and end; how the agent came in.
fn goes_well(mut command: Command) -> String {
    let mut child = command.spawn().expect("a runner");
    let (how, _) = launched(&mut child);
    drop(child.stdin.take());
    let end = child.wait_with_output().expect("it ends");
    assert!(end.status.success(), "{}", String::from_utf8_lossy(&end.stderr));
    how
}

/// What a runner says that does not come that far.
fn refused(mut command: Command) -> String {
    let end = command.output().expect("a runner");
    assert!(!end.status.success(), "it went well");
    String::from_utf8_lossy(&end.stderr).into_owned()
}

async fn tls_is_spoken(bench: &Bench) {
    bench.start("vpn", |_| {}).await;
    let tls = Tls::new();
    let (host, folder) = (tls.host(), tls.folder("good"));
    let folder = folder.to_str().expect("a path");
    let verified = [("DOCKER_HOST", host.as_str()), ("DOCKER_TLS_VERIFY", "1"), ("DOCKER_CERT_PATH", folder)];
    // The engine is on this machine and we may be root: whoever names it by TCP says that it is elsewhere.
    assert_eq!(goes_well(remote(bench, "auto", &verified)), "container");
    let said = refused(remote(bench, "setns", &verified));
    assert!(said.contains("by setns") && said.contains("not to be seen from here"), "{said}");
    // Without verification any certificate of the engine is taken; it still wants one of ours.
    let other = tls.folder("other-ca");
    let lax =
        [("DOCKER_HOST", host.as_str()), ("DOCKER_TLS", "1"), ("DOCKER_CERT_PATH", other.to_str().expect("a path"))];
    assert_eq!(goes_well(remote(bench, "container", &lax)), "container");
}

async fn tls_that_does_not_fit_is_told(bench: &Bench) {
    bench.start("vpn", |_| {}).await;
    let tls = Tls::new();
    let verify = |host: &str, folder: &str| {
        let folder = tls.folder(folder).display().to_string();
        let variables = [("DOCKER_HOST", host), ("DOCKER_TLS_VERIFY", "1"), ("DOCKER_CERT_PATH", folder.as_str())];
        refused(remote(bench, "auto", &variables))
    };
    let host = tls.host();
    for (folder, host, says) in [
        ("other-ca", host.clone(), "help: the engine's certificate was not signed by the ca.pem"),
        ("nameless", host.clone(), "help: the engine refuses our certificate"),
        ("other-client", host.clone(), "help: the engine refuses our certificate"),
        ("good", host.replace("127.0.0.1", "localhost"), "help: the engine's certificate is for another name"),
        ("missing", host.clone(), "missing/ca.pem for TLS with Docker: it is not there\nhelp: DOCKER_CERT_PATH"),
    ] {
        let said = verify(&host, folder);
        assert!(said.contains(says), "{folder}: {said}");
        assert!(folder == "missing" || said.contains(&format!("{host} (as DOCKER_HOST says)")), "{folder}: {said}");
    }
    // TLS where there is none, and none where there is.
    let plain = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let at = plain.local_addr().expect("an address");
    let answering = std::thread::spawn(move || {
        let (mut stream, _) = plain.accept()?;
        std::io::Write::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
    });
    let said = verify(&format!("tcp://{at}"), "good");
    assert!(said.contains("help: that port does not speak TLS"), "{said}");
    answering.join().expect("it ended").expect("it answered");
    let said = refused(remote(bench, "auto", &[("DOCKER_HOST", &host)]));
    assert!(said.contains("reach Docker at tcp://"), "{said}");
}

/// The context is made by Docker's own command line, and chosen in each of the two ways.
async fn a_context_is_followed(bench: &Bench) {
    bench.start("vpn", |_| {}).await;
    let tls = Tls::new();
    let settings = tempfile::tempdir().expect("a directory");
    let settings = settings.path().to_str().expect("a path");
    let docker = |arguments: &[&str]| {
        let output =
            Command::new("docker").args(arguments).env("DOCKER_CONFIG", settings).env_remove("DOCKER_HOST").output();
        let output = output.expect("the command line of Docker");
        assert!(output.status.success(), "docker {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let of = |name: &str| tls.folder("good").join(name).display().to_string();
    let endpoint = format!("host={},ca={},cert={},key={}", tls.host(), of("ca.pem"), of("cert.pem"), of("key.pem"));
    docker(&["context", "create", "far", "--docker", &endpoint]);
    docker(&["context", "create", "dead", "--docker", "host=tcp://127.0.0.1:1"]);
    docker(&["context", "use", "far"]);
    let config = ("DOCKER_CONFIG", settings);
    assert_eq!(goes_well(remote(bench, "auto", &[config])), "container");
    let said = refused(remote(bench, "auto", &[config, ("DOCKER_CONTEXT", "dead")]));
    assert!(said.contains("tcp://127.0.0.1:1 (by the context `dead` of DOCKER_CONTEXT)"), "{said}");
    // What is for now beats what is for good.
    let local = format!("unix://{SOCKET}");
    goes_well(remote(bench, "container", &[config, ("DOCKER_CONTEXT", "dead"), ("DOCKER_HOST", &local)]));
    goes_well(remote(bench, "container", &[config, ("DOCKER_CONTEXT", "default")]));
}

async fn ssh_is_a_way(bench: &Bench) {
    bench.start("vpn", |_| {}).await;
    let dir = ssh::ssh();
    let path = ssh::path_with(dir.path());
    let host = format!("ssh://me@nas:2222{SOCKET}");
    assert_eq!(goes_well(remote(bench, "auto", &[("DOCKER_HOST", &host), ("PATH", &path)])), "container");
    let told = std::fs::read_to_string(dir.path().join("told")).expect("what it was told");
    let words = format!("-l me -p 2222 -- nas docker --host 'unix://{SOCKET}' system dial-stdio");
    assert!(told.lines().count() > 3 && told.lines().all(|line| line.ends_with(&words)), "{told}");
    let said = refused(remote(bench, "auto", &[("DOCKER_HOST", "ssh://nas/nonexistent.sock"), ("PATH", &path)]));
    assert!(said.contains("ssh://nas/nonexistent.sock (as DOCKER_HOST says)") && said.contains("ssh said"), "{said}");
}

async fn nothing_is_left_behind(bench: &Bench) {
    bench.start("vpn", |_| {}).await;
    let tls = Tls::new();
    let (host, folder) = (tls.host(), tls.folder("good").display().to_string());
    let verified = [("DOCKER_HOST", host.as_str()), ("DOCKER_TLS_VERIFY", "1"), ("DOCKER_CERT_PATH", folder.as_str())];
    let before = Snapshot::of(&bench.docker).await;
    for (enter, variables) in [("auto", &[][..]), ("container", &[]), ("auto", &verified)] {
        goes_well(remote(bench, enter, variables));
        before.is_back(&bench.docker, &format!("{enter} {variables:?}")).await;
    }
}

/// Killed at any moment from its first question to the engine to the end of its agent, the making of the image among them.
async fn nothing_is_left_behind_by_the_killed(bench: &Bench) {
    bench.start("vpn", |_| {}).await;
    let tls = Tls::new();
    let (host, folder) = (tls.host(), tls.folder("good").display().to_string());
    let verified = [("DOCKER_HOST", host.as_str()), ("DOCKER_TLS_VERIFY", "1"), ("DOCKER_CERT_PATH", folder.as_str())];
    let before = Snapshot::of(&bench.docker).await;
    for (enter, variables) in [("auto", &[][..]), ("container", &[]), ("auto", &verified)] {
        for number in 0..8_u64 {
            if number % 4 == 3 {
                bench.forget_own_image().await;
            }
            let mut child = remote(bench, enter, variables).spawn().expect("a runner");
            tokio::time::sleep(Duration::from_millis(20 + number * 90)).await;
            child.kill().expect("killed");
            child.wait().expect("reaped");
        }
        // The next start clears up, and by this way makes the image as well.
        goes_well(remote(bench, "container", variables));
        before.is_back(&bench.docker, &format!("{enter} {variables:?}")).await;
    }
}
