//! The ways to take the tunnel down, and which of them this stack allows.

use super::link_down::LinkDown;
use super::vpn_stop::VpnStop;
use crate::config::OutageMethod;
use crate::technique::Context;

/// A way to take the tunnel down, armed: it knows what to put back.
pub(super) enum Method {
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
    pub(super) async fn arm(name: &str, cx: &Context) -> Result<Self, String> {
        match name.parse::<OutageMethod>()? {
            OutageMethod::VpnStop => VpnStop::arm(cx).await.map(Method::VpnStop),
            OutageMethod::LinkDown => LinkDown::arm(cx).map(Method::LinkDown),
        }
    }

    /// Takes the tunnel down and says what proves it.
    ///
    /// # Errors
    /// Why it is not down; something may have been changed all the same.
    pub(super) async fn down(&mut self) -> Result<String, String> {
        match self {
            Method::VpnStop(method) => method.down().await,
            Method::LinkDown(method) => method.down(),
        }
    }

    /// Puts back what was changed. May be called more than once.
    ///
    /// # Errors
    /// What could not be put back.
    pub(super) async fn up(&mut self) -> Result<(), String> {
        match self {
            Method::VpnStop(method) => method.up().await,
            Method::LinkDown(method) => method.up(),
        }
    }

    /// Whether everything is as it was.
    ///
    /// # Errors
    /// What is not.
    pub(super) async fn verify(&self) -> Result<(), String> {
        match self {
            Method::VpnStop(method) => method.verify().await,
            Method::LinkDown(method) => method.verify(),
        }
    }
}
