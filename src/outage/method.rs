//! The ways to take the tunnel down, and which of them this stack allows.

use std::time::Duration;

use super::command::Command;
use super::control_server::ControlServer;
use super::endpoint_block::EndpointBlock;
use super::hands::Hands;
use super::keeper::Keeper;
use super::link_down::LinkDown;
use super::namespace_lock::NamespaceLock;
use super::process_kill::ProcessKill;
use super::process_stop::ProcessStop;
use super::undo::{Recipe, Undo};
use super::vpn_stop::VpnStop;
use crate::agent::protocol::{Act, ControlKey};
use crate::config::OutageMethod;
use crate::model::evidence::Role;
use crate::net::route::Snapshot;
use crate::sensor::allow::Endpoint;
use crate::technique::Context;

/// A way to take the tunnel down.
enum Method {
    /// Gluetun's control server is told to stop the VPN.
    VpnStop(VpnStop),
    /// The tunnel's link is set down.
    LinkDown(LinkDown),
    /// Packets to and from the server are dropped.
    EndpointBlock(EndpointBlock),
    /// The VPN's process is killed.
    ProcessKill(ProcessKill),
    /// The VPN's process is stopped.
    ProcessStop(ProcessStop),
    /// A command of the configuration takes it down.
    Command(Command),
    /// Something is done to the container, by the runner.
    Container(OutageMethod, Hands),
}

/// By what an outage shows that the tunnel is dark.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum DarkBy {
    /// Nothing goes into it any more.
    Entering,
    /// Nothing comes out of it any more.
    Leaving,
    /// One of the two: what becomes of the link is not for us to say.
    Either,
    /// Nothing comes out of it any more, and nobody can answer but who is beyond it.
    Paused {
        /// The kernel says that nobody takes packets out of it.
        clogged: bool,
    },
    /// Nothing goes into it any more, or the namespace has no uplink any more.
    Gone {
        /// Since then it has none, milliseconds since the beginning of the outage.
        since_ms: Option<f64>,
    },
}

/// What can be done here.
#[derive(Debug, Default)]
pub struct Available {
    /// Names of the methods that can be asked for.
    pub methods: Vec<String>,
    /// For the others, why not.
    pub refused: Vec<(String, String)>,
}

/// Which methods this stack allows. Looks, changes nothing.
pub async fn available(cx: &Context) -> Available {
    let mut found = Available::default();
    for method in OutageMethod::ALL {
        let possible = match method {
            OutageMethod::VpnStop => VpnStop::check(cx).await,
            OutageMethod::LinkDown => LinkDown::check(cx),
            OutageMethod::EndpointBlock => EndpointBlock::check(cx),
            OutageMethod::ProcessKill => ProcessKill::check(cx).await,
            OutageMethod::ProcessStop => ProcessStop::check(cx),
            OutageMethod::Command => Command::check(cx),
            OutageMethod::Pause | OutageMethod::Restart | OutageMethod::Kill => check_container(cx),
        };
        match possible {
            Ok(()) => found.methods.push(method.to_string()),
            Err(why) => found.refused.push((method.to_string(), why)),
        }
    }
    found
}

/// Whether the target is a container, and has a tunnel. Whether Docker does as it is told only doing it will tell.
fn check_container(cx: &Context) -> Result<(), String> {
    if cx.setup.container.is_none() {
        return Err("the target is no container that Docker knows: name it by --target docker:NAME".to_owned());
    }
    if !cx.links.iter().any(|link| link.role == Role::Tunnel) {
        return Err("no tunnel was found in the namespace".to_owned());
    }
    Ok(())
}

impl Method {
    /// Arms a method: takes note of everything that will have to be put back.
    ///
    /// # Errors
    /// Why it cannot be used here.
    async fn arm(
        name: &str,
        cx: &Context,
        servers: &[Endpoint],
        hands: &Hands,
    ) -> Result<(Self, Option<Undo>), String> {
        match name.parse::<OutageMethod>()? {
            OutageMethod::VpnStop => VpnStop::arm(cx).await.map(|(method, undo)| (Method::VpnStop(method), Some(undo))),
            OutageMethod::LinkDown => LinkDown::arm(cx).map(|(method, undo)| (Method::LinkDown(method), Some(undo))),
            OutageMethod::EndpointBlock => {
                EndpointBlock::arm(cx, servers).map(|(method, undo)| (Method::EndpointBlock(method), Some(undo)))
            }
            method @ (OutageMethod::Pause | OutageMethod::Restart | OutageMethod::Kill) => {
                check_container(cx)?;
                Ok((Method::Container(method, hands.clone()), None))
            }
            OutageMethod::ProcessKill => {
                ProcessKill::arm(cx).await.map(|(method, undo)| (Method::ProcessKill(method), Some(undo)))
            }
            OutageMethod::ProcessStop => {
                ProcessStop::arm(cx).map(|(method, undo)| (Method::ProcessStop(method), Some(undo)))
            }
            OutageMethod::Command => Command::arm(cx).map(|(method, undo)| (Method::Command(method), Some(undo))),
        }
    }

    /// Takes the tunnel down and says what proves it.
    async fn down(&mut self) -> Result<String, String> {
        match self {
            Method::VpnStop(method) => method.down().await,
            Method::LinkDown(method) => method.down(),
            Method::EndpointBlock(method) => method.down(),
            Method::ProcessKill(method) => method.down().await,
            Method::ProcessStop(method) => method.down().await,
            Method::Command(method) => method.down().await,
            Method::Container(_, hands) => hands.act(Act::Down).await,
        }
    }

    /// Waits until the VPN is up again although nobody has put it back; without end for what nobody else would.
    async fn came_back(&self) {
        match self {
            Method::VpnStop(method) => method.came_back().await,
            Method::ProcessKill(method) => method.came_back().await,
            Method::LinkDown(_)
            | Method::EndpointBlock(_)
            | Method::ProcessStop(_)
            | Method::Command(_)
            | Method::Container(..) => std::future::pending().await,
        }
    }

    /// Lets go of what nobody else can undo.
    fn release(&mut self) -> Result<(), String> {
        match self {
            Method::EndpointBlock(method) => method.release(),
            Method::VpnStop(_)
            | Method::LinkDown(_)
            | Method::ProcessKill(_)
            | Method::ProcessStop(_)
            | Method::Command(_)
            | Method::Container(..) => Ok(()),
        }
    }
}

/// An outage that could begin: what would have to be put back is known, here and to a keeper. Nothing is changed yet.
pub struct Armed {
    name: String,
    method: Method,
    /// `None`: the runner itself changes and puts back, and has a keeper of its own.
    kept: Option<(Recipe, Keeper)>,
    key: Option<ControlKey>,
    changed: bool,
}

impl Armed {
    /// Arms the method of this name; `servers` are all that the VPN has been seen to use.
    ///
    /// # Errors
    /// Why it cannot be used here.
    pub async fn new(
        name: &str,
        cx: &Context,
        servers: &[Endpoint],
        lock: Option<&NamespaceLock>,
        hands: &Hands,
    ) -> Result<Self, String> {
        let (method, undo) = Method::arm(name, cx, servers, hands).await?;
        let key = cx.setup.control_key.clone();
        let kept = match undo.map(Recipe::here) {
            Some(recipe) => {
                let keeper = Keeper::start(&recipe, key.as_ref(), lock).await?;
                Some((recipe, keeper))
            }
            None => None,
        };
        Ok(Self { name: name.to_owned(), method, kept, key, changed: false })
    }

    /// What has to be done to put it back; `None`: the runner knows.
    pub fn recipe(&self) -> Option<&Recipe> {
        self.kept.as_ref().map(|(recipe, _)| recipe)
    }

    /// Whether the namespace loses its links for good, so that recovery has to be looked for in another one.
    pub(super) fn ends_namespace(&self) -> bool {
        matches!(&self.method, Method::Container(method, _) if method.starts_anew())
    }

    /// How long the runner may take to put it back, where it is the runner who does: as long as recovery may, and some.
    pub(super) fn put_back_at_most(&self, recovery: Duration) -> Option<Duration> {
        matches!(self.method, Method::Container(..)).then(|| recovery + Duration::from_secs(15))
    }

    /// By what it shows that the tunnel is dark.
    pub(super) fn dark_by(&self) -> DarkBy {
        match self.method {
            Method::VpnStop(_) | Method::LinkDown(_) => DarkBy::Entering,
            Method::EndpointBlock(_) | Method::ProcessStop(_) => DarkBy::Leaving,
            Method::ProcessKill(_) | Method::Command(_) => DarkBy::Either,
            Method::Container(method, _) if method.starts_anew() => DarkBy::Gone { since_ms: None },
            Method::Container(..) => DarkBy::Paused { clogged: false },
        }
    }

    /// Says to the keeper that the outage begins, and what it may take at the most.
    pub(super) fn begin(&self, at_most: Duration) {
        if let Some((_, keeper)) = &self.kept {
            keeper.expect_end_within(at_most);
        }
    }

    /// Whether it is somebody else who puts it back, so that there is nothing but waiting.
    pub(super) fn waits_for_others(&self) -> bool {
        matches!(self.recipe().map(|recipe| &recipe.undo), Some(Undo::Killed { up, .. }) if up.is_empty())
    }

    /// Whether putting back is the runner's, who is gone: its own keeper does it, and nothing here can.
    pub(super) fn is_helpless(&self) -> bool {
        matches!(&self.method, Method::Container(_, hands) if hands.are_gone())
    }

    /// What a person can do who has to put it back by hand.
    pub(super) fn advice(&self) -> String {
        let advice = self.recipe().map(|recipe| recipe.undo.advice());
        advice.unwrap_or_else(|| "start the VPN container, and then what depends on it".to_owned())
    }

    /// Takes the tunnel down and says what proves it.
    ///
    /// # Errors
    /// Why it is not down; something may have been changed all the same.
    pub(super) async fn down(&mut self) -> Result<String, String> {
        self.changed = true;
        self.method.down().await
    }

    /// Waits until the VPN is up again although nobody has put it back.
    pub(super) async fn came_back(&self) {
        self.method.came_back().await;
    }

    /// Puts back what was changed. May be called more than once.
    ///
    /// # Errors
    /// What could not be put back.
    pub(super) async fn up(&mut self) -> Result<(), String> {
        if !self.changed {
            return Ok(());
        }
        self.method.release()?;
        match (&self.method, &self.kept) {
            (Method::Container(_, hands), _) => hands.act(Act::Up).await.map(drop),
            (_, Some((recipe, _))) => recipe.undo.perform(self.key.as_ref()).await,
            (_, None) => Ok(()),
        }
    }

    /// Whether everything is as it was.
    ///
    /// # Errors
    /// What is not.
    pub(super) async fn verify(&self) -> Result<(), String> {
        match (&self.method, &self.kept) {
            _ if !self.changed => Ok(()),
            (Method::Container(_, hands), _) => hands.act(Act::Verify).await.map(drop),
            (_, Some((recipe, _))) => recipe.undo.verify(self.key.as_ref()).await,
            (_, None) => Ok(()),
        }
    }

    /// In what state the stack is, for somebody who has to mend it.
    pub(super) async fn describe(&self, cx: &Context) -> String {
        let mut told = Vec::new();
        let now = Snapshot::take().ok();
        if let Some(tunnel) = cx.links.iter().find(|link| link.role == Role::Tunnel) {
            told.push(match now.as_ref().map(|now| now.link(&tunnel.name)) {
                Some(Some(link)) => format!("the link {} is {}", tunnel.name, if link.is_up() { "up" } else { "down" }),
                Some(None) => format!("there is no link {}", tunnel.name),
                None => format!("the link {} could not be asked for", tunnel.name),
            });
        }
        if let Ok((_, status)) = ControlServer::find(&cx.setup.control_server, self.key.clone()).await {
            told.push(format!("the control server says that the VPN is {}", status.escape_debug()));
        }
        let advice = match self.verify().await {
            Ok(()) => {
                told.push(format!("what {} changed is undone", self.name));
                "restart the VPN, and then what depends on it".to_owned()
            }
            Err(why) => {
                told.push(format!("what {} changed is not undone: {why}", self.name));
                self.advice()
            }
        };
        told.push(format!("if it stays so, {advice}"));
        told.join(", ")
    }

    /// Ends the outage: all is as it was, or the keeper shall go on trying.
    pub async fn end(self, restored: bool) {
        if let (true, Some((_, keeper))) = (restored, self.kept) {
            keeper.dismiss().await;
        }
    }
}
