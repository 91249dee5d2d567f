//! What witnesses said in this phase, so that several probes can look at it and each witness is asked once.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use reqwest::Url;
use tokio::sync::OnceCell;

use super::torrent::Told;
use super::udp::SourcePorts;
use super::{Context, exit_in, http, names};
use crate::model::evidence::{Answer, Evidence, Said};
use crate::sensor::allow::is_private;

/// Mullvad's opinion of an address (`/<ip>` is added).
const CHECK: &str = "https://am.i.mullvad.net/check-ip";
const PATIENCE: Duration = Duration::from_secs(5);

/// Whether an address is the provider's, or why it does not say.
type Opinion = OnceCell<Result<bool, String>>;

/// The memory of the phase that is open.
#[derive(Default)]
pub struct Heard(Mutex<Arc<Phase>>);

/// What was heard in one phase, each kind asked for once.
#[derive(Default)]
pub(super) struct Phase {
    pub http: OnceCell<Evidence>,
    pub stun: OnceCell<Evidence>,
    pub dht: OnceCell<Evidence>,
    pub tracker: OnceCell<Evidence>,
    pub torrent: OnceCell<Told>,
    ports: OnceCell<SourcePorts>,
    checks: Mutex<HashMap<IpAddr, Arc<Opinion>>>,
}

impl Heard {
    /// Forgets everything: answers of another phase prove nothing of this one.
    pub fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::default();
    }

    pub(super) fn now(&self) -> Arc<Phase> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Phase {
    /// The ports from which is asked beside one of the kernel's choice.
    pub async fn source_ports(&self, cx: &Context) -> &SourcePorts {
        self.ports.get_or_init(|| async { SourcePorts::find(&cx.setup.source_ports) }).await
    }
}

/// Puts on record which of the configured ports could not be asked from.
pub(super) fn note_taken(cx: &Context, ports: &SourcePorts, answers: &mut Vec<Answer>) {
    answers.extend(ports.taken.iter().map(|(port, why)| {
        cx.answer(format!("source port {port}"), Said::Nothing { error: format!("could not be asked from: {why}") })
    }));
}

/// Has Mullvad say of each address whether it is one of its own, where the witness itself did not.
pub(super) async fn confirm(cx: &Context, answers: &mut Vec<Answer>) {
    if !cx.setup.mullvad {
        return;
    }
    let mut known: HashMap<IpAddr, bool> = HashMap::new();
    for answer in answers.iter() {
        if let Said::Exit { ip, of_provider: Some(own) } = answer.said {
            known.insert(ip, own);
        }
    }
    let mut unknown: Vec<IpAddr> = answers.iter().filter_map(|answer| answer.said.exit()).collect();
    unknown.retain(|ip| !known.contains_key(ip) && !is_private(*ip));
    unknown.sort();
    unknown.dedup();
    let phase = cx.heard.now();
    let checked = join_all(unknown.iter().map(|ip| check(cx, &phase, *ip))).await;
    for (ip, said) in unknown.into_iter().zip(checked) {
        match said {
            Ok(own) => {
                known.insert(ip, own);
            }
            Err(error) => answers.push(cx.answer(format!("{CHECK}/{ip}"), Said::Nothing { error })),
        }
    }
    for answer in answers {
        if let Said::Exit { ip, of_provider: of_provider @ None } = &mut answer.said {
            *of_provider = known.get(ip).copied();
        }
    }
}

async fn check(cx: &Context, phase: &Phase, ip: IpAddr) -> Result<bool, String> {
    let cell = Arc::clone(phase.checks.lock().unwrap_or_else(PoisonError::into_inner).entry(ip).or_default());
    cell.get_or_init(|| ask(cx, ip)).await.clone()
}

async fn ask(cx: &Context, ip: IpAddr) -> Result<bool, String> {
    let url = Url::parse(&format!("{CHECK}/{ip}")).map_err(|error| error.to_string())?;
    let tls = http::trust(cx.setup.extra_ca.as_deref())?;
    let (servers, _) = names::nameservers(&cx.setup.resolv_conf);
    let found = names::addresses(&servers, url.host_str().unwrap_or_default()).await?;
    let address = found.iter().find(|address| address.is_ipv4()).or(found.first()).ok_or("its name has no address")?;
    match http::ask(&tls, &url, *address, PATIENCE, "application/json").await? {
        (200, body) => match exit_in(&body) {
            Said::Exit { ip: judged, of_provider: Some(own) } if judged == ip => Ok(own),
            _ => Err("its answer has the wrong shape".to_owned()),
        },
        (status, _) => Err(format!("it answered with HTTP status {status}")),
    }
}
