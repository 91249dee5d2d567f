//! What this program plays when it is started again: the agent, a container's only process, or a runner that is to be killed.

use std::fs;
use std::io::{self, BufRead, Read, Write};
use std::process::ExitCode;
use std::time::Duration;

use leakcheck::target::{Enter, FindOptions, Target, TargetError};
use serde::{Deserialize, Serialize};

/// What the agent sees of itself; its first line.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    pub pid: u32,
    pub session: i32,
    pub netns: u64,
    pub links: Vec<String>,
    pub capabilities: u64,
    pub no_new_privileges: bool,
    pub root_is_read_only: bool,
}

/// Plays what the command line says; `None` when it says that this is a test run.
pub fn play() -> Option<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["agent"] => agent(),
        ["agent", "--netns", path] => enter(path).and_then(|()| agent()),
        ["sleep"] => loop {
            std::thread::sleep(Duration::from_secs(3600));
        },
        ["own-netns"] => own_netns(),
        ["runner", name, enter] => runner(name, enter),
        _ => return None,
    };
    match result {
        Ok(code) => Some(code),
        Err(error) => {
            eprintln!("{error}");
            Some(ExitCode::FAILURE)
        }
    }
}

fn enter(path: &str) -> io::Result<()> {
    nix::sched::setns(fs::File::open(path)?, nix::sched::CloneFlags::CLONE_NEWNET)?;
    Ok(())
}

fn own_netns() -> io::Result<ExitCode> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)?;
    println!("ready");
    io::copy(&mut io::stdin().lock(), &mut io::sink())?;
    Ok(ExitCode::SUCCESS)
}

/// Says what it sees, then does what it is told: echo everything, fail, or never end.
fn agent() -> io::Result<ExitCode> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, &look()?)?;
    out.write_all(b"\n")?;
    out.flush()?;
    let mut input = io::stdin().lock();
    let mut order = String::new();
    input.read_line(&mut order)?;
    match order.trim() {
        "" => Ok(ExitCode::SUCCESS),
        "fail" => {
            eprintln!("told to\x1b[31m fail");
            Ok(ExitCode::from(3))
        }
        "never end" => loop {
            std::thread::sleep(Duration::from_secs(3600));
        },
        "echo" => {
            let mut buffer = [0; 64 * 1024];
            loop {
                match input.read(&mut buffer)? {
                    0 => return Ok(ExitCode::SUCCESS),
                    length => out.write_all(&buffer[..length])?,
                }
                out.flush()?;
            }
        }
        other => Err(io::Error::other(format!("unknown order {other:?}"))),
    }
}

fn look() -> io::Result<Seen> {
    let status = fs::read_to_string("/proc/thread-self/status")?;
    let field =
        |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned();
    let devices = fs::read_to_string("/proc/thread-self/net/dev")?;
    Ok(Seen {
        pid: std::process::id(),
        session: nix::unistd::getsid(None)?.as_raw(),
        netns: std::os::unix::fs::MetadataExt::ino(&fs::metadata("/proc/thread-self/ns/net")?),
        links: devices.lines().skip(2).filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned())).collect(),
        capabilities: u64::from_str_radix(&field("CapEff:"), 16).map_err(io::Error::other)?,
        no_new_privileges: field("NoNewPrivs:") == "1",
        root_is_read_only: fs::write("/probe", "").is_err_and(|error| error.raw_os_error() == Some(libc::EROFS)),
    })
}

/// The error with its causes and what to do about it.
fn told(error: TargetError) -> io::Error {
    let causes = std::iter::successors(std::error::Error::source(&error), |cause| cause.source());
    let text = causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"));
    io::Error::other(format!("{text}\nhelp: {}", error.help().unwrap_or_default()))
}

/// Launches an agent, says what it is, and holds it until somebody ends us.
fn runner(name: &str, enter: &str) -> io::Result<ExitCode> {
    let enter = match enter {
        "setns" => Enter::Setns,
        "container" => Enter::Container,
        _ => Enter::Auto,
    };
    super::block_on(async {
        let spec = name.parse().map_err(io::Error::other)?;
        let target = Target::find(Some(&spec), &FindOptions::default()).await.map_err(told)?;
        let agent = target.launch(enter, false).await.map_err(told)?;
        let pid = agent.handle.pid().map_or_else(String::new, |pid| pid.to_string());
        println!("{} {}", agent.how, agent.handle.container_id().unwrap_or(&pid));
        tokio::task::spawn_blocking(|| io::copy(&mut io::stdin().lock(), &mut io::sink())).await??;
        agent.finish(Duration::from_secs(5)).await.map_err(io::Error::other)?;
        Ok(ExitCode::SUCCESS)
    })
}
