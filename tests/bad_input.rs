//! What the program says when it is given something that it cannot use: what happened, why, and what to do, on standard error, with exit
//! status 2 and nothing on standard output. And that a report which cannot be written changes no verdict.
//!
//! Trials that need root, a Docker engine or a lab are shown as ignored where there is none; `LEAKCHECK_DOCKER=required` and
//! `LEAKCHECK_LAB=required` make them fail instead.

#[path = "support/docker_lock.rs"]
mod docker_lock;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Output, Stdio};
use std::time::{Duration, Instant};

use leakcheck::report::FORMATS;
use libtest_mimic::{Arguments, Failed, Trial};
use tempfile::TempDir;

/// A mistake is told at once; an engine that does not answer takes a while.
const PATIENCE: Duration = Duration::from_secs(15);
const PROGRAM: &str = env!("CARGO_BIN_EXE_leakcheck");
/// An id that no process can have: Linux's limit is 2^22.
const NOBODY: &str = "pid:4194305";

type Body = fn() -> Result<(), Failed>;

fn main() -> ExitCode {
    let plain: &[(&str, Body)] = &[
        ("docker_socket_missing", docker_socket_missing),
        ("docker_socket_dead", docker_socket_dead),
        ("docker_address_of_another_kind", docker_address_of_another_kind),
        ("config_keys_and_values", config_keys_and_values),
        ("config_not_to_be_read", config_not_to_be_read),
        ("config_by_environment", config_by_environment),
        ("filters", filters),
        ("targets", targets),
        ("own_namespace", own_namespace),
        ("extra_ca", extra_ca),
        ("api_key", api_key),
        ("probes", probes),
    ];
    let as_root: &[(&str, Body)] = &[
        ("config_forbidden", config_forbidden),
        ("namespace_of_somebody_else", namespace_of_somebody_else),
        ("namespace_file_of_somebody_else", namespace_file_of_somebody_else),
        ("docker_socket_forbidden", docker_socket_forbidden),
    ];
    let in_lab: &[(&str, Body)] = &[("report_dir_not_writable", report_dir_not_writable)];
    let with_engine: &[(&str, Body)] = &[("container_that_does_not_exist", container_that_does_not_exist)];
    let required = |variable: &str| std::env::var(variable).is_ok_and(|value| value == "required");
    let no_root = !nix::unistd::geteuid().is_root();
    let no_lab = !required("LEAKCHECK_LAB") && demo(&["local-reachable"]).status.code() == Some(2);
    let no_engine = !required("LEAKCHECK_DOCKER") && !Path::new("/var/run/docker.sock").exists();
    let trials = [(plain, false), (as_root, no_root), (in_lab, no_lab), (with_engine, no_engine)]
        .into_iter()
        .flat_map(|(trials, ignored)| {
            trials.iter().map(move |(name, body)| Trial::test(*name, body).with_ignored_flag(ignored))
        })
        .collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// A folder that everybody may enter, in which the program is run.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        set_mode(dir.path(), 0o755);
        Place(dir)
    }

    fn file(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.0.path()).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command
    }

    fn run(&self, args: &[&str]) -> Said {
        Said::of(self.command(PROGRAM).arg("run").args(args), args)
    }

    /// The same as an ordinary user without any capability.
    fn run_as_nobody(&self, args: &[&str]) -> Said {
        // The build's folder need not be open to everybody.
        let program = self.0.path().join("leakcheck");
        if !program.exists() {
            fs::copy(PROGRAM, &program).unwrap();
            set_mode(&program, 0o755);
        }
        let mut command = self.command("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"]);
        Said::of(command.arg(program).arg("run").args(args), args)
    }
}

fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// What a refusal looked like.
struct Said {
    args: String,
    output: Output,
    took: Duration,
}

impl Said {
    fn of(command: &mut Command, args: &[&str]) -> Self {
        let began = Instant::now();
        let output = command.output().unwrap();
        Said { args: args.join(" "), output, took: began.elapsed() }
    }

    /// Status 2, nothing on standard output, and on standard error all of `parts`, a first line of the right form, and a help.
    fn refuses(&self, parts: &[&str]) -> Result<(), Failed> {
        let stderr = String::from_utf8_lossy(&self.output.stderr);
        let mut faults = Vec::new();
        if self.output.status.code() != Some(2) {
            faults.push(format!("ended with {}", self.output.status));
        }
        if !self.output.stdout.is_empty() {
            faults.push("wrote on standard output".to_owned());
        }
        if !stderr.starts_with("error: failed to ") {
            faults.push("does not begin with what happened".to_owned());
        }
        if !stderr.contains("\nhelp: ") {
            faults.push("gives no help".to_owned());
        }
        if stderr.contains("panicked") {
            faults.push("panics".to_owned());
        }
        if self.took > PATIENCE {
            faults.push(format!("took {:?}", self.took));
        }
        faults.extend(parts.iter().filter(|part| !stderr.contains(*part)).map(|part| format!("does not say {part:?}")));
        if faults.is_empty() {
            return Ok(());
        }
        Err(format!("run {}: {}\n{stderr}", self.args, faults.join(", ")).into())
    }
}

fn demo(args: &[&str]) -> Output {
    Command::new(PROGRAM).args(["demo", "--quick", "--report-dir", "none"]).args(args).output().unwrap()
}

fn docker_socket_missing() -> Result<(), Failed> {
    let place = Place::new();
    for args in [&["--quick"][..], &["--target", "docker:gluetun"]] {
        let mut command = place.command(PROGRAM);
        let said = Said::of(command.env("DOCKER_HOST", "unix:///nonexistent").arg("run").args(args), args);
        said.refuses(&["get into the stack", "there is no socket at /nonexistent", "help: start Docker"])?;
    }
    Ok(())
}

fn docker_socket_dead() -> Result<(), Failed> {
    let place = Place::new();
    let socket = place.0.path().join("docker.sock");
    drop(std::os::unix::net::UnixListener::bind(&socket)?);
    let mut command = place.command(PROGRAM);
    let said = Said::of(command.env("DOCKER_HOST", format!("unix://{}", socket.display())).arg("run"), &[]);
    said.refuses(&["reach Docker at", "Connection refused", "help: nobody listens on it"])
}

fn docker_address_of_another_kind() -> Result<(), Failed> {
    let place = Place::new();
    let mut command = place.command(PROGRAM);
    let said = Said::of(command.env("DOCKER_HOST", "ftp://somewhere").arg("run"), &[]);
    let help = "help: DOCKER_HOST may be unix:///path, tcp://host:port or ssh://user@host";
    said.refuses(&["reach Docker at ftp://somewhere (as DOCKER_HOST says)", help])?;
    let mut command = place.command(PROGRAM);
    command.env_remove("DOCKER_HOST").env("DOCKER_CONFIG", place.0.path()).env("DOCKER_CONTEXT", "nowhere");
    let said = Said::of(command.arg("run"), &[]);
    said.refuses(&["find the Docker context `nowhere`, which DOCKER_CONTEXT names", "help: `docker context ls`"])?;
    let mut command = place.command(PROGRAM);
    command.env("DOCKER_HOST", "tcp://127.0.0.1:1").env("DOCKER_TLS_VERIFY", "1");
    let said = Said::of(command.env("DOCKER_CERT_PATH", "/nonexistent").arg("run"), &[]);
    said.refuses(&["use /nonexistent/ca.pem for TLS with Docker: it is not there", "help: DOCKER_CERT_PATH"])
}

fn container_that_does_not_exist() -> Result<(), Failed> {
    let _turn = docker_lock::wait_for_turn();
    let said = Place::new().run(&["--target", "docker:leakcheck-no-such-container"]);
    said.refuses(&["find a container or compose service named `leakcheck-no-such-container`"])
}

fn config_keys_and_values() -> Result<(), Failed> {
    let place = Place::new();
    for (text, parts) in [
        (
            "[vpn]\nprovidr = \"any\"\n",
            &["leakcheck.toml:2:1: `vpn.providr`: unknown key", "did you mean `provider`?"][..],
        ),
        ("\n[vnp]\nprovider = \"any\"\n", &["leakcheck.toml:2:", "unknown key `vnp`", "did you mean `vpn`?"]),
        ("[outage]\nwindow = 5\n", &["leakcheck.toml:2:10: `outage.window`: wrong type", "expected a string"]),
        ("[target]\npid = \"one\"\n", &["leakcheck.toml:2:7: `target.pid`: wrong type", "expected a whole number"]),
        ("[home]\nip = \"203.0.113.10\"\n", &["leakcheck.toml:2:6: `home.ip`: wrong type"]),
        ("[vpn\n", &["leakcheck.toml:1:"]),
    ] {
        place.file("leakcheck.toml", text);
        // Whether it is found or named.
        place.run(&["--target", NOBODY]).refuses(parts)?;
        place.run(&["--target", NOBODY, "--config", "leakcheck.toml"]).refuses(parts)?;
    }
    Ok(())
}

fn config_not_to_be_read() -> Result<(), Failed> {
    let place = Place::new();
    place.run(&["--config", "missing.toml"]).refuses(&[
        "read missing.toml",
        "No such file",
        "help: give the right path with --config",
    ])?;
    place.run(&["--config", "."]).refuses(&["read .", "Is a directory"])?;
    place.file("binary.toml", [0xff, 0xfe]);
    place.run(&["--config", "binary.toml"]).refuses(&["read binary.toml", "UTF-8"])
}

fn config_by_environment() -> Result<(), Failed> {
    let place = Place::new();
    for (variable, value, part) in [
        ("LEAKCHECK_VPN__PROVIDR", "any", "did you mean `provider`?"),
        ("LEAKCHECK_VPN__PROVIDER", "mulvad", "did you mean `mullvad`?"),
        ("LEAKCHECK_OUTAGE__WINDOW", "long", "LEAKCHECK_OUTAGE__WINDOW"),
    ] {
        let mut command = place.command(PROGRAM);
        let said = Said::of(command.env(variable, value).args(["run", "--target", NOBODY]), &[variable]);
        said.refuses(&["use the environment variable", part])?;
    }
    Ok(())
}

fn filters() -> Result<(), Failed> {
    let place = Place::new();
    place.run(&["exit-adress", "--target", NOBODY]).refuses(&[
        "choose the probes",
        "`exit-adress`",
        "did you mean `exit-address`?",
    ])?;
    place
        .run(&["zzz", "--target", NOBODY])
        .refuses(&["find a trial by the filter `zzz`", "help: `leakcheck list` shows"])?;
    // One that fits does not excuse one that does not.
    place.run(&["ipv6", "zzz", "--target", NOBODY]).refuses(&["`zzz`"])?;
    place.run(&["dns", "--exact", "--target", NOBODY]).refuses(&["find a trial by the filter `dns`"])?;
    place.run(&["kill-switch", "--quick", "--target", NOBODY]).refuses(&["help: leave --quick out"])?;
    place.run(&["ipv6", "--skip", "ipv6", "--target", NOBODY]).refuses(&["help: drop one of the --skip"])
}

fn targets() -> Result<(), Failed> {
    let place = Place::new();
    let missing = &["find the network namespace", "help: `ip netns list`"];
    place.run(&["--target", "netns:leakcheck-no-such-namespace"]).refuses(missing)?;
    place.run(&["--target", "netns:/nonexistent/ns"]).refuses(missing)?;
    place.file("leakcheck.toml", "[target]\nnetns = \"leakcheck-no-such-namespace\"\n");
    place.run(&[]).refuses(missing)?;
    place
        .run(&["--target", NOBODY])
        .refuses(&["find process 4194305", "help: give the id of a process of the stack"])?;
    let file = place.file("file", "no namespace");
    for path in [file.as_path(), place.0.path(), Path::new("/proc/self/ns/mnt")] {
        let target = format!("netns:{}", path.display());
        place
            .run(&["--target", &target])
            .refuses(&["it is not the file of a network namespace", "help: give a file such as"])?;
    }
    Ok(())
}

fn own_namespace() -> Result<(), Failed> {
    let place = Place::new();
    for target in [format!("pid:{}", std::process::id()), "netns:/proc/self/ns/net".to_owned()] {
        let parts = ["the network namespace in which leakcheck itself runs", "help: name the VPN container"];
        place.run(&["--target", &target]).refuses(&parts)?;
    }
    Ok(())
}

fn extra_ca() -> Result<(), Failed> {
    let place = Place::new();
    place.file("leakcheck.toml", "[echo]\nextra_ca = \"ca.pem\"\n");
    let parts = ["the certificate authority ca.pem", "help: set echo.extra_ca to a PEM file"];
    let refused = |part: &str| place.run(&["--target", NOBODY]).refuses(&[&parts[..], &[part]].concat());
    refused("No such file")?;
    for (text, part) in [
        (&b""[..], "holds no certificate"),
        (b"no certificate at all\n", "holds no certificate"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "holds no certificate"),
        (b"-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n", "is not PEM"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "is not usable"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n", "is not PEM"),
        (b"\xff\xfe", "UTF-8"),
    ] {
        place.file("ca.pem", text);
        refused(part)?;
    }
    Ok(())
}

fn api_key() -> Result<(), Failed> {
    let place = Place::new();
    place.file("leakcheck.toml", "[outage]\napi_key_file = \"key\"\n");
    let parts = ["read the API key of the control server from key", "help: set outage.api_key_file to a file"];
    let refused = |part: &str| place.run(&["--target", NOBODY]).refuses(&[&parts[..], &[part]].concat());
    refused("No such file")?;
    place.file("key", "\n");
    refused("the file is empty")?;
    fs::remove_file(place.0.path().join("key"))?;
    fs::create_dir(place.0.path().join("key"))?;
    refused("Is a directory")
}

fn probes() -> Result<(), Failed> {
    let place = Place::new();
    let run = |dir: &str| place.run(&["--target", NOBODY, "--probes", dir]);
    run("missing").refuses(&["read the probes in missing", "No such file", "help: --probes takes a folder"])?;
    place.file("file", "");
    run("file").refuses(&["read the probes in file", "Not a directory"])?;
    let dir = place.0.path().join("mine");
    fs::create_dir(&dir)?;
    run("mine").refuses(&["mine", "help: --probes takes a folder"])?;
    for (text, part) in [
        ("title = [\n", "mine/a.toml:1: "),
        ("title = 7\n", "mine/a.toml:1: "),
        ("titel = \"x\"\n", "unknown field `titel`"),
    ] {
        fs::write(dir.join("a.toml"), text)?;
        run("mine").refuses(&["use the probe mine/a.toml", part, "help: the files in probes/"])?;
    }
    Ok(())
}

fn config_forbidden() -> Result<(), Failed> {
    let place = Place::new();
    let file = place.file("secret.toml", "");
    set_mode(&file, 0o600);
    let said = place.run_as_nobody(&["--config", "secret.toml"]);
    said.refuses(&["read secret.toml", "Permission denied", "help: make it readable for the user who runs leakcheck"])
}

fn docker_socket_forbidden() -> Result<(), Failed> {
    let place = Place::new();
    let socket = place.0.path().join("docker.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&socket)?;
    set_mode(&socket, 0o600);
    place.file("leakcheck.toml", "");
    let mut command = place.command("setpriv");
    let program = place.0.path().join("leakcheck");
    fs::copy(PROGRAM, &program)?;
    command.env("DOCKER_HOST", format!("unix://{}", socket.display()));
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"]).arg(program).arg("run");
    let said = Said::of(&mut command, &[]);
    said.refuses(&["use the Docker socket", "Permission denied", "help: run with sudo, or join the group"])
}

/// A process in a network namespace of its own, ended when dropped.
struct Sleeper(Child);

impl Sleeper {
    fn new() -> Result<Self, Failed> {
        let child = Command::new("unshare")
            .args(["--net", "sh", "-c", "echo; exec sleep 60"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut sleeper = Sleeper(child);
        // What it says shows that it is there.
        let mut line = [0];
        std::io::Read::read_exact(sleeper.0.stdout.as_mut().ok_or("it has no standard output")?, &mut line)?;
        Ok(sleeper)
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// So that nobody on the internet is asked for what is not stated.
const STATED: &str = "[home]\nip = [\"203.0.113.10\"]\nresolvers = [\"203.0.113.53\"]\n";

fn namespace_of_somebody_else() -> Result<(), Failed> {
    let (place, sleeper) = (Place::new(), Sleeper::new()?);
    place.file("leakcheck.toml", STATED);
    for target in [format!("pid:{}", sleeper.0.id()), format!("netns:/proc/{}/ns/net", sleeper.0.id())] {
        let said = place.run_as_nobody(&["--target", &target, "--quick"]);
        said.refuses(&[
            "enter the network namespace of",
            "Permission denied",
            "help: this needs CAP_SYS_ADMIN: run with sudo",
        ])?;
    }
    Ok(())
}

/// A namespace whose file everybody may open, as those of `ip netns`.
fn namespace_file_of_somebody_else() -> Result<(), Failed> {
    let (place, sleeper) = (Place::new(), Sleeper::new()?);
    place.file("leakcheck.toml", STATED);
    let file = place.file("ns", "");
    let of = PathBuf::from(format!("/proc/{}/ns/net", sleeper.0.id()));
    nix::mount::mount(Some(&of), &file, None::<&str>, nix::mount::MsFlags::MS_BIND, None::<&str>)?;
    let said = place.run_as_nobody(&["--target", &format!("netns:{}", file.display()), "--quick"]);
    nix::mount::umount2(&file, nix::mount::MntFlags::MNT_DETACH)?;
    said.refuses(&["Operation not permitted", "help: this needs CAP_SYS_ADMIN: run with sudo"])
}

/// The audit's own exit status stays, the report is printed, and each file that is missing is told.
fn report_dir_not_writable() -> Result<(), Failed> {
    let place = Place::new();
    place.file("file", "");
    for (leak, id, status) in [(None, "local-reachable", 0), (Some("no-vpn"), "exit-address", 1)] {
        let mut command = place.command(PROGRAM);
        command.args(["demo", "--quick", "--report-dir", "file", "--format", "json", "--exact", id]);
        command.args(leak.into_iter().flat_map(|leak| ["--leak", leak]));
        let output = command.output()?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        let report: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        let told = |file: &str| stderr.contains(&format!("warning: file/{file} could not be written: "));
        let warned = FORMATS.iter().all(|format| told(format.file));
        if output.status.code() != Some(status) || report["exit_status"] != status || !warned {
            return Err(format!("{id}: {}\n{stderr}", output.status).into());
        }
    }
    Ok(())
}
