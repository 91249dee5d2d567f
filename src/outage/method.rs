//! The ways to take the tunnel down, and which of them this stack allows.

use super::keeper::Keeper;
use super::link_down::LinkDown;
use super::namespace_lock::NamespaceLock;
use super::undo::{Recipe, Undo};
use super::vpn_stop::VpnStop;
use crate::agent::protocol::ApiKey;
use crate::config::OutageMethod;
use crate::technique::Context;

/// A way to take the tunnel down.
enum Method {
    /// Gluetun's control server is told to stop the VPN.
    VpnStop(VpnStop),
    /// The tunnel's link is set down.
    LinkDown(LinkDown),
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
    async fn arm(name: &str, cx: &Context) -> Result<(Self, Undo), String> {
        match name.parse::<OutageMethod>()? {
            OutageMethod::VpnStop => VpnStop::arm(cx).await.map(|(method, undo)| (Method::VpnStop(method), undo)),
            OutageMethod::LinkDown => LinkDown::arm(cx).map(|(method, undo)| (Method::LinkDown(method), undo)),
        }
    }

    /// Takes the tunnel down and says what proves it.
    async fn down(&mut self) -> Result<String, String> {
        match self {
            Method::VpnStop(method) => method.down().await,
            Method::LinkDown(method) => method.down(),
        }
    }
}

/// An outage that could begin: what would have to be put back is known, here and to a keeper. Nothing is changed yet.
pub struct Armed {
    method: Method,
    recipe: Recipe,
    key: Option<ApiKey>,
    keeper: Keeper,
    changed: bool,
}

impl Armed {
    /// Arms the method of this name.
    ///
    /// # Errors
    /// Why it cannot be used here.
    pub async fn new(name: &str, cx: &Context, lock: Option<&NamespaceLock>) -> Result<Self, String> {
        let (method, undo) = Method::arm(name, cx).await?;
        let recipe = Recipe::here(undo);
        let key = cx.setup.api_key.clone();
        let keeper = Keeper::start(&recipe, key.as_ref(), lock).await?;
        Ok(Self { method, recipe, key, keeper, changed: false })
    }

    /// What has to be done to put it back.
    pub fn recipe(&self) -> &Recipe {
        &self.recipe
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
        if self.changed { self.recipe.undo.perform(self.key.as_ref()).await } else { Ok(()) }
    }

    /// Whether everything is as it was.
    ///
    /// # Errors
    /// What is not.
    pub(super) async fn verify(&self) -> Result<(), String> {
        if self.changed { self.recipe.undo.verify(self.key.as_ref()).await } else { Ok(()) }
    }

    /// Ends the outage: all is as it was, or the keeper shall go on trying.
    pub async fn end(self, restored: bool) {
        if restored {
            self.keeper.dismiss().await;
        }
    }
}
