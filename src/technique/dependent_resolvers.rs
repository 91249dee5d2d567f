//! Threat: the stack's resolv.conf is right, and one of its programs has another: a copy from before the VPN changed it, a file mounted over
//! it, or the host's own. That program asks the home's resolver, or nobody who answers.
//! Procedure: the resolv.conf of each program in the namespace is read by way of /proc, and those of its containers by the engine. Each
//! nameserver that the stack's own file does not name is asked by itself, as those of the stack are: for the canary, a fresh marked name,
//! and echo names whose answer is the address that their authority saw asking. Sockets of name services that a program would ask, and that
//! somebody outside listens on, are looked for.
//! Limits: sees the programs that run now. A program that does not look at resolv.conf goes its own way.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::timeout;

use super::name_services;
use super::resolver_path::ask_server;
use super::{Context, NoParams, Technique, Work, nameservers, read};
use crate::agent::programs::{self, Program};
use crate::model::evidence::names::STACK_RESOLV_CONF;
use crate::model::evidence::{Evidence, Said};
use crate::target::resolv_conf_of;

/// More nameservers than this are not asked.
const MAX_SERVERS: usize = 6;
/// Programs that are named of those that have the same file.
const MAX_NAMED: usize = 3;
/// A root directory may lie on a file system that does not answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// A container that shares the namespace, and the text of its resolv.conf where the engine gave it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DependentFile {
    /// Its name.
    pub name: String,
    /// What the file holds.
    pub text: Option<String>,
}

/// Whose file, its text (`None`: there is no such file), and whether it is that of leakcheck's own machine.
type File = (String, Option<String>, bool);
/// The nameservers of a file, if it is there, and what could not be read as one.
type Named = (Option<Vec<IpAddr>>, Vec<String>);

/// Files that name the same.
#[derive(Debug, PartialEq)]
struct Alike {
    nameservers: Option<Vec<IpAddr>>,
    odd: Vec<String>,
    whose: String,
    of_host: bool,
}

/// See the head of this file.
pub struct DependentResolvers;

impl Technique for DependentResolvers {
    fn name(&self) -> &'static str {
        "dependent-resolvers"
    }

    fn check(&self, params: &Value) -> Result<(), String> {
        read::<NoParams>(params).map(drop)
    }

    fn run<'a>(&'a self, cx: &'a Context, trial: Arc<str>, _params: Value) -> Work<'a> {
        Box::pin(async move {
            let mut evidence = Evidence { from_ms: cx.clock.now_ms(), ..Evidence::default() };
            let (files, problems) = files(&cx.setup.dependents).await;
            evidence.problems = problems;
            if files.is_empty() && evidence.problems.is_empty() {
                let why = "no program of the stack beside the VPN's own is to be seen from where leakcheck stands";
                return Evidence::unasked(cx.clock.now_ms(), why);
            }
            let (own, own_odd) = nameservers(&cx.setup.resolv_conf);
            evidence.answers.push(
                cx.answer(STACK_RESOLV_CONF, Said::ResolvConf { nameservers: Some(own.clone()), of_host: false }),
            );
            let mut foreign: Vec<IpAddr> = Vec::new();
            for Alike { nameservers, odd, whose, of_host } in alike(files) {
                evidence.problems.extend(odd.iter().filter(|what| !own_odd.contains(what)).map(|what| {
                    format!("the resolv.conf of {whose} has a nameserver that could not be asked: {what}")
                }));
                for server in nameservers.iter().flatten() {
                    if !own.contains(server) && !foreign.contains(server) {
                        foreign.push(*server);
                    }
                }
                evidence.answers.push(cx.answer(whose, Said::ResolvConf { nameservers, of_host }));
            }
            if foreign.len() > MAX_SERVERS {
                let problem = format!("more than {MAX_SERVERS} other nameservers are named: the rest were not asked");
                evidence.problems.push(problem);
                foreign.truncate(MAX_SERVERS);
            }
            let asked = join_all(foreign.into_iter().map(|server| ask_server(cx, &trial, server))).await;
            evidence.answers.extend(asked.into_iter().flatten());
            evidence.to_ms = cx.clock.now_ms();
            evidence
        })
    }
}

/// The files of all programs and containers, and what kept some from being read.
async fn files(dependents: &[DependentFile]) -> (Vec<File>, Vec<String>) {
    let told =
        dependents.iter().filter_map(|one| Some((format!("container {}", one.name), Some(one.text.clone()?), false)));
    let mut files: Vec<File> = told.collect();
    let mut problems = Vec::new();
    // A blocking thread is in the namespace of the thread that made it.
    match timeout(PATIENCE, tokio::task::spawn_blocking(of_programs)).await {
        Ok(Ok((found, trouble))) => {
            files.extend(found);
            problems = trouble;
        }
        Ok(Err(error)) => problems.push(format!("the files of programs could not be read: {error}")),
        Err(_) => problems.push("the files of programs could not be read in time".to_owned()),
    }
    // Where programs are to be seen, those of the container are among them.
    let untold = dependents.iter().filter(|one| one.text.is_none() && files.is_empty());
    problems.extend(untold.map(|one| format!("the resolv.conf of container {} could not be read", one.name)));
    (files, problems)
}

/// The files of the programs in the calling thread's namespace, the VPN's own aside: what makes the tunnel asks for its server before
/// there is one.
fn of_programs() -> (Vec<File>, Vec<String>) {
    let mut problems = Vec::new();
    // Programs of one container share their files; each mount namespace and root directory is read once.
    let mut known: HashMap<Place, Option<String>> = HashMap::new();
    let mut looked_at: HashSet<Place> = HashSet::new();
    let mut files = Vec::new();
    let own = place(std::process::id());
    let programs = programs::find().unwrap_or_else(|problem| {
        problems.push(problem);
        Vec::new()
    });
    for program in programs.into_iter().filter(|program| program.vpn.is_none()) {
        let place = place(program.pid);
        let text = match place.and_then(|place| known.get(&place).cloned()) {
            Some(text) => text,
            None => match resolv_conf_of(program.pid) {
                Ok(text) => {
                    known.extend(place.map(|place| (place, text.clone())));
                    text
                }
                // It has ended meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => {
                    problems.push(format!("the resolv.conf of {} could not be read: {error}", label(&program)));
                    continue;
                }
            },
        };
        let of_host = own.is_some() && place == own;
        // What just stands in the namespace was never meant to resolve there.
        if !of_host
            && place.is_some_and(|place| looked_at.insert(place))
            && let Some(socket) = name_services::outside(program.pid)
        {
            problems.push(format!(
                "{} may ask for names by {}, where somebody listens who is not in the stack's network, and asks from there",
                label(&program),
                socket.display()
            ));
        }
        files.push((label(&program), text, of_host));
    }
    (files, problems)
}

fn label(program: &Program) -> String {
    format!("{} (process {})", program.name, program.pid)
}

/// Mount namespace, and device and number of the root directory in it.
type Place = (u64, u64, u64);

fn place(pid: u32) -> Option<Place> {
    let of = |what: &str| std::fs::metadata(format!("/proc/{pid}/{what}")).ok();
    let (mounts, root) = (of("ns/mnt")?, of("root")?);
    Some((mounts.ino(), root.dev(), root.ino()))
}

/// Files that name the same put together.
fn alike(files: Vec<File>) -> Vec<Alike> {
    let mut groups: BTreeMap<(Named, bool), Vec<String>> = BTreeMap::new();
    for (whose, text, of_host) in files {
        let (named, odd) = text.as_deref().map(nameservers).unzip();
        groups.entry(((named, odd.unwrap_or_default()), of_host)).or_default().push(whose);
    }
    let told = groups.into_iter().map(|(((nameservers, odd), of_host), mut whose)| {
        let more = whose.len().saturating_sub(MAX_NAMED);
        whose.truncate(MAX_NAMED);
        let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
        Alike { nameservers, odd, whose: whose.join(", ") + &rest, of_host }
    });
    told.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn files_that_name_the_same_are_told_once() {
        let file = |whose: &str, text: Option<&str>| (whose.to_owned(), text.map(str::to_owned), false);
        let local = "nameserver 127.0.0.1\n";
        let groups = alike(vec![
            file("a", Some(local)),
            file("b", Some("nameserver 203.0.113.53\nnameserver nonsense\n")),
            file("c", Some("# with a comment\nnameserver 127.0.0.1\n")),
            file("d", Some(local)),
            file("e", Some(local)),
            file("f", None),
            // Nothing is named: the C library asks 127.0.0.1.
            file("g", Some("search lan\n")),
        ]);
        let alike = |nameservers: Option<&str>, odd: &[&str], whose: &str| Alike {
            nameservers: nameservers.map(|server| vec![ip(server)]),
            odd: odd.iter().map(ToString::to_string).collect(),
            whose: whose.to_owned(),
            of_host: false,
        };
        assert_eq!(
            groups,
            [
                alike(None, &[], "f"),
                alike(Some("127.0.0.1"), &[], "a, c, d and 2 more"),
                alike(Some("203.0.113.53"), &["`nonsense` (no address)"], "b"),
            ]
        );
    }

    #[tokio::test]
    async fn a_container_that_tells_nothing_is_a_problem_where_no_program_is_seen() {
        let of =
            |name: &str, text: Option<&str>| DependentFile { name: name.to_owned(), text: text.map(str::to_owned) };
        // Programs of this namespace may be seen or not, the containers' files are there anyway.
        let (files, _) = files(&[of("torrent", Some("nameserver 10.64.0.1\n")), of("silent", None)]).await;
        assert!(files.contains(&("container torrent".to_owned(), Some("nameserver 10.64.0.1\n".to_owned()), false)));
    }
}
