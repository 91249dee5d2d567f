//! The ways to take the tunnel down, and which of them this stack allows.

use super::control_server::ControlServer;
use super::endpoint_block::EndpointBlock;
use super::keeper::Keeper;
use super::link_down::LinkDown;
use super::namespace_lock::NamespaceLock;
use super::undo::{Recipe, Undo};
use super::vpn_stop::VpnStop;
use crate::agent::protocol::ApiKey;
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
}

/// By what an outage shows that the tunnel is dark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DarkBy {
    /// Nothing goes into it any more.
    Entering,
    /// Nothing comes out of it any more.
    Leaving,
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
        };
        match possible {
            Ok(()) => found.methods.push(method.to_string()),
            Err(why) => found.refused.push((method.to_string(), why)),
        }
    }
    found
}

impl Method {
    /// Arms a method: takes note of everything that will have to be put back.
    ///
    /// # Errors
    /// Why it cannot be used here.
    async fn arm(name: &str, cx: &Context, servers: &[Endpoint]) -> Result<(Self, Undo), String> {
        match name.parse::<OutageMethod>()? {
            OutageMethod::VpnStop => VpnStop::arm(cx).await.map(|(method, undo)| (Method::VpnStop(method), undo)),
            OutageMethod::LinkDown => LinkDown::arm(cx).map(|(method, undo)| (Method::LinkDown(method), undo)),
            OutageMethod::EndpointBlock => {
                EndpointBlock::arm(cx, servers).map(|(method, undo)| (Method::EndpointBlock(method), undo))
            }
        }
    }

    /// Takes the tunnel down and says what proves it.
    async fn down(&mut self) -> Result<String, String> {
        match self {
            Method::VpnStop(method) => method.down().await,
            Method::LinkDown(method) => method.down(),
            Method::EndpointBlock(method) => method.down(),
        }
    }

    /// Lets go of what nobody else can undo.
    fn release(&mut self) -> Result<(), String> {
        match self {
            Method::VpnStop(_) | Method::LinkDown(_) => Ok(()),
            Method::EndpointBlock(method) => method.release(),
        }
    }
}

/// An outage that could begin: what would have to be put back is known, here and to a keeper. Nothing is changed yet.
pub struct Armed {
    name: String,
    method: Method,
    recipe: Recipe,
    key: Option<ApiKey>,
    keeper: Keeper,
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
    ) -> Result<Self, String> {
        let (method, undo) = Method::arm(name, cx, servers).await?;
        let recipe = Recipe::here(undo);
        let key = cx.setup.api_key.clone();
        let keeper = Keeper::start(&recipe, key.as_ref(), lock).await?;
        Ok(Self { name: name.to_owned(), method, recipe, key, keeper, changed: false })
    }

    /// What has to be done to put it back.
    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// By what it shows that the tunnel is dark.
    pub(super) fn dark_by(&self) -> DarkBy {
        match self.method {
            Method::VpnStop(_) | Method::LinkDown(_) => DarkBy::Entering,
            Method::EndpointBlock(_) => DarkBy::Leaving,
        }
    }

    /// Takes the tunnel down and says what proves it.
    ///
    /// # Errors
    /// Why it is not down; something may have been changed all the same.
    pub(super) async fn down(&mut self) -> Result<String, String> {
        self.changed = true;
        self.method.down().await
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
        self.recipe.undo.perform(self.key.as_ref()).await
    }

    /// Whether everything is as it was.
    ///
    /// # Errors
    /// What is not.
    pub(super) async fn verify(&self) -> Result<(), String> {
        if self.changed { self.recipe.undo.verify(self.key.as_ref()).await } else { Ok(()) }
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
        if let Ok(server) = ControlServer::new(&cx.setup.control_server, self.key.clone())
            && let Ok(status) = server.status().await
        {
            told.push(format!("the control server says that the VPN is {}", status.escape_debug()));
        }
        match self.verify().await {
            Ok(()) => told.push(format!("what {} changed is undone", self.name)),
            Err(why) => told.push(format!("what {} changed is not undone: {why}", self.name)),
        }
        told.join(", ")
    }

    /// Ends the outage: all is as it was, or the keeper shall go on trying.
    pub async fn end(self, restored: bool) {
        if restored {
            self.keeper.dismiss().await;
        }
    }
}
