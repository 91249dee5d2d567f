//! The access matrix, asked from where each source really stands: the stack by its agent, the host from here, every other place by a
//! short-lived agent in its namespace. Of what must not be reached it is seen before and after whether it is there at all.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::{join_all, select_all};
use tokio::time::timeout;

use super::container::Around;
use super::session::Session;
use crate::agent::protocol::{Reply, Request};
use crate::config::{Access, Destination, Stand};
use crate::handicap::{Handicap, lacks};
use crate::model::evidence::{Answer, Came, Evidence, Said};
use crate::target::{Source, TargetError, TargetSpec};
use crate::technique::{Names, Reaching, reach_place};

/// How long what has to answer may take.
const PATIENCE: Duration = Duration::from_secs(4);
/// How long silence has to last, over several tries, to be one.
const SILENCE: Duration = Duration::from_secs(1);
/// How long resolvers may take.
const NAMES: Duration = Duration::from_secs(5);
/// How long a place may take to be entered.
const ENTRY: Duration = Duration::from_secs(20);
/// What an agent may take beyond the patience that it is given.
const GRACE: Duration = Duration::from_secs(10);

/// A place from which is asked.
struct Place {
    /// What reports call it.
    name: String,
    stand: Stand,
    entered: Entered,
}

/// How one asks from there.
enum Entered {
    Stack(Names),
    Host(Names),
    /// By an agent of its own.
    Agent {
        session: Box<Session>,
        names: Names,
        /// Holds the namespace.
        _source: Box<Source>,
    },
    /// It could not be entered, and why.
    Not(String),
}

/// What asking takes.
struct Asker<'a> {
    session: &'a Session,
    around: &'a Around,
    extra_ca: Option<&'a str>,
    from_ms: f64,
    began: Instant,
}

/// An address of a destination that a row forbids its source.
struct Forbidden<'a> {
    row: &'a Access,
    address: IpAddr,
}

/// Asks every row. `from_ms` is the agent's time now. Must not be called from a task of the runtime.
pub(super) fn ask(
    session: &Session,
    around: &Around,
    rows: &[Access],
    extra_ca: Option<&str>,
    from_ms: f64,
) -> Evidence {
    let asker = Asker { session, around, extra_ca, from_ms, began: Instant::now() };
    let mut places = session.block_on(asker.enter_all(rows));
    let mut evidence = Evidence { from_ms, to_ms: from_ms, ..Evidence::default() };
    let resolved = session.unless_interrupted(asker.resolve_all(rows, &places));
    if let Some(resolved) = resolved {
        let forbidden: Vec<Forbidden<'_>> = resolved
            .iter()
            .filter(|(row, _)| !row.allow)
            .flat_map(|(row, found)| found.iter().flatten().map(|address| Forbidden { row, address: *address }))
            .collect();
        let holders = session.block_on(asker.holders(&forbidden, &mut evidence.problems));
        places.extend(session.block_on(asker.enter_holders(&holders, &places)));
        match session.unless_interrupted(asker.ask_all(&resolved, &forbidden, &places, &holders)) {
            Some(answers) => evidence.answers = answers,
            None => evidence.problems.push("the run was interrupted".to_owned()),
        }
    } else {
        evidence.problems.push("the run was interrupted".to_owned());
    }
    // All at once: each is waited for until it is gone.
    std::thread::scope(|scope| {
        for place in &places {
            if let Entered::Agent { session, .. } = &place.entered {
                // It has changed nothing, so how it ended is of no interest.
                scope.spawn(|| drop(session.end()));
            }
        }
    });
    evidence
}

/// An address and the container that has it.
type Holder = (IpAddr, Stand);
type Resolved<'a> = (&'a Access, Result<Vec<IpAddr>, Came>);

impl Asker<'_> {
    fn now_ms(&self) -> f64 {
        self.from_ms + self.began.elapsed().as_secs_f64() * 1000.0
    }

    /// Every source once, and the host, which sees best whether something is there.
    async fn enter_all(&self, rows: &[Access]) -> Vec<Place> {
        let mut wanted: Vec<(String, Stand)> = Vec::new();
        let stated = rows.iter().map(|row| (row.source(), row.from.clone()));
        for (name, stand) in stated.chain([Stand::Stack, Stand::Host].map(|stand| (stand.to_string(), stand))) {
            if !wanted.iter().any(|(_, known)| *known == stand) {
                wanted.push((name, stand));
            }
        }
        join_all(wanted.into_iter().map(|(name, stand)| self.enter(name, stand))).await
    }

    /// The containers themselves that have the addresses which must not be reached.
    async fn holders(&self, forbidden: &[Forbidden<'_>], problems: &mut Vec<String>) -> Vec<Holder> {
        let addresses: Vec<IpAddr> = forbidden.iter().map(|one| one.address).collect();
        if addresses.is_empty() {
            return Vec::new();
        }
        match self.around.target.holders_of(&addresses).await {
            Ok(found) => {
                found.into_iter().map(|(address, name)| (address, Stand::In(TargetSpec::Docker(name)))).collect()
            }
            Err(error) => {
                problems.push(told(&error));
                Vec::new()
            }
        }
    }

    async fn enter_holders(&self, holders: &[Holder], known: &[Place]) -> Vec<Place> {
        let mut new: Vec<&Stand> = Vec::new();
        for (_, stand) in holders {
            if !new.contains(&stand) && !known.iter().any(|place| place.stand == *stand) {
                new.push(stand);
            }
        }
        join_all(new.into_iter().map(|stand| self.enter(stand.to_string(), stand.clone()))).await
    }

    async fn enter(&self, name: String, stand: Stand) -> Place {
        let target = &self.around.target;
        let entered = match &stand {
            Stand::Stack => {
                Entered::Stack(Names { resolv_conf: Ok(target.resolv_conf.text.clone()), hosts: target.hosts().await })
            }
            Stand::Host => Entered::Host(of_host()),
            Stand::In(spec) => match timeout(ENTRY, self.enter_source(spec)).await {
                Ok(Ok((session, names, source))) => {
                    Entered::Agent { session: Box::new(session), names, _source: Box::new(source) }
                }
                Ok(Err(error)) => Entered::Not(told(&error)),
                Err(_) => Entered::Not(format!("{name} could not be entered within {} s", ENTRY.as_secs())),
            },
        };
        Place { name, stand, entered }
    }

    async fn enter_source(&self, spec: &TargetSpec) -> Result<(Session, Names, Source), TargetError> {
        let source = self.around.target.source(spec).await?;
        let (resolv_conf, hosts) = (source.resolv_conf().await, source.hosts().await);
        let names = Names { resolv_conf: resolv_conf.map_err(|error| told(&error)), hosts };
        let process = source.launch(self.session.how).await?;
        Ok((Session::open(&self.around.handle, process, self.around.deadline), names, source))
    }

    async fn resolve_all<'r>(&self, rows: &'r [Access], places: &[Place]) -> Vec<Resolved<'r>> {
        let asked = rows.iter().map(|row| async move {
            let host = row.to.host_port().host;
            let found = match places.iter().find(|place| place.stand == row.from) {
                Some(place) => self.resolve(place, &host).await,
                None => Err(Came::Untried { why: "its source is not known".to_owned() }),
            };
            (row, found)
        });
        join_all(asked).await
    }

    async fn resolve(&self, place: &Place, host: &str) -> Result<Vec<IpAddr>, Came> {
        let (session, names) = match &place.entered {
            Entered::Stack(names) => (self.session, names),
            Entered::Agent { session, names, .. } => (&**session, names),
            Entered::Host(names) => return names.resolve(host, NAMES).await,
            Entered::Not(why) => return Err(Came::Untried { why: why.clone() }),
        };
        let limit_ms = NAMES.as_millis() as u64;
        let request = Request::Resolve { names: names.clone(), host: host.to_owned(), limit_ms };
        // Each name, with each suffix, is asked for within that.
        match timeout(NAMES * 4 + GRACE, session.call(request)).await {
            Ok(Ok(Reply::Resolved(found))) => found,
            other => Err(Came::Untried { why: unfit(other) }),
        }
    }

    /// First whether what is forbidden is there, then the rows, then again the first.
    async fn ask_all(
        &self,
        rows: &[Resolved<'_>],
        forbidden: &[Forbidden<'_>],
        places: &[Place],
        holders: &[Holder],
    ) -> Vec<Answer> {
        let first = join_all(forbidden.iter().map(|one| self.look(one, places, holders, None))).await;
        let steady: Vec<Option<Stand>> = first.iter().map(|(steady, _)| steady.clone()).collect();
        let mut answers: Vec<Answer> = first.into_iter().flat_map(|(_, answers)| answers).collect();
        answers.extend(join_all(rows.iter().map(|row| self.ask_row(row, places))).await.into_iter().flatten());
        let again = forbidden.iter().zip(&steady).filter_map(|(one, steady)| Some((one, steady.as_ref()?)));
        let again = join_all(again.map(|(one, steady)| self.look(one, places, holders, Some(steady)))).await;
        answers.extend(again.into_iter().flat_map(|(_, answers)| answers));
        answers
    }

    async fn ask_row(&self, (row, found): &Resolved<'_>, places: &[Place]) -> Vec<Answer> {
        let Some(place) = places.iter().find(|place| place.stand == row.from) else { return Vec::new() };
        match found {
            Err(came) => vec![self.answer(place, false, &row.to, None, came.clone())],
            Ok(addresses) => {
                let patience = if row.allow { PATIENCE } else { SILENCE };
                let asked = addresses.iter().map(|address| async move {
                    let came = self.reach(place, &row.to, *address, patience, false).await;
                    self.answer(place, false, &row.to, Some(*address), came)
                });
                join_all(asked).await
            }
        }
    }

    /// Asks from elsewhere whether a destination is there, of whoever answers first, or of `only`: where it was, and what everybody said until
    /// then. Whoever has the address itself, the stack or a container that the engine knows, is asked and nobody else: a private address
    /// may be another machine's from elsewhere, and what it says of the service is the last word.
    async fn look(
        &self,
        one: &Forbidden<'_>,
        places: &[Place],
        holders: &[Holder],
        only: Option<&Stand>,
    ) -> (Option<Stand>, Vec<Answer>) {
        let Forbidden { row, address } = one;
        // Another machine's loopback is another place.
        let may = |place: &&Place| {
            !address.is_loopback()
                && place.stand != row.from
                && only.is_none_or(|only| place.stand == *only)
                && !matches!(place.entered, Entered::Not(_))
        };
        let holds = |place: &&Place| holders.iter().any(|(held, stand)| held == address && *stand == place.stand);
        let ask = async |place: &Place| {
            let came = self.reach(place, &row.to, *address, SILENCE, place.stand == Stand::Stack).await;
            let there = came.is_there().then(|| place.stand.clone());
            let tried = !matches!(came, Came::Untried { .. });
            (there, tried, self.answer(place, true, &row.to, Some(*address), came))
        };
        let (own, others): (Vec<&Place>, Vec<&Place>) =
            places.iter().filter(may).partition(|place| place.stand == Stand::Stack || holds(place));
        let mut answers = Vec::new();
        for group in [own, others] {
            let mut decided = false;
            let mut waiting: Vec<_> = group.into_iter().map(|place| ask(place).boxed_local()).collect();
            while !waiting.is_empty() {
                let ((there, tried, answer), _, rest) = select_all(waiting).await;
                waiting = rest;
                decided |= tried;
                answers.push(answer);
                if there.is_some() {
                    return (there, answers);
                }
            }
            if decided {
                break;
            }
        }
        (None, answers)
    }

    async fn reach(
        &self,
        place: &Place,
        to: &Destination,
        address: IpAddr,
        patience: Duration,
        own_only: bool,
    ) -> Came {
        let patience_ms = patience.as_millis() as u64;
        let extra_ca = self.extra_ca.map(str::to_owned);
        let order = Reaching { to: to.clone(), address, patience_ms, own_only, extra_ca };
        let session = match &place.entered {
            Entered::Stack(_) => self.session,
            Entered::Agent { session, .. } => session,
            Entered::Host(_) => return reach_place(&order).await,
            Entered::Not(why) => return Came::Untried { why: why.clone() },
        };
        match timeout(patience * 2 + GRACE, session.call(Request::Reach(Box::new(order)))).await {
            Ok(Ok(Reply::Reached(came))) => came,
            other => Came::Untried { why: unfit(other) },
        }
    }

    fn answer(&self, place: &Place, control: bool, to: &Destination, address: Option<IpAddr>, came: Came) -> Answer {
        let lost = lacks(Handicap::Answers) || lacks(Handicap::Outside) && place.stand == Stand::Host;
        let said = if lost {
            Said::Nothing { error: "it was lost".to_owned() }
        } else {
            Said::Access { from: place.name.clone(), control, address, came }
        };
        Answer { at_ms: self.now_ms(), witness: to.to_string(), said }
    }
}

/// How names are looked up where leakcheck itself is.
fn of_host() -> Names {
    let read = |path: &str| std::fs::read_to_string(path);
    Names {
        resolv_conf: read("/etc/resolv.conf").map_err(|error| format!("/etc/resolv.conf cannot be read: {error}")),
        hosts: read("/etc/hosts").unwrap_or_default(),
    }
}

fn unfit(answer: Result<Result<Reply, String>, tokio::time::error::Elapsed>) -> String {
    match answer {
        Ok(Ok(Reply::Failed { what, .. }) | Err(what)) => what,
        Ok(Ok(_)) => "the agent gave an answer that does not fit".to_owned(),
        Err(_) => "the agent gave no answer in time".to_owned(),
    }
}

/// An error with its causes and what to do about it, in one line.
fn told(error: &TargetError) -> String {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    let text = causes.fold(format!("failed to {error}"), |text, cause| format!("{text}: {cause}"));
    error.help().map_or_else(|| text.clone(), |help| format!("{text} ({help})"))
}
