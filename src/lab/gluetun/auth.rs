//! Who may use which route of the control server: the roles of `/gluetun/auth/config.toml`.

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::Version;

/// How a role shows who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Auth {
    /// Anybody.
    None,
    /// The header `X-API-Key`.
    ApiKey(String),
    /// HTTP basic authentication.
    Basic { username: String, password: String },
}

/// Routes and the way to them.
#[derive(Clone, PartialEq, Eq)]
pub struct Role {
    /// `METHOD PATH`, such as `PUT /v1/vpn/status`; `None` covers every route.
    pub routes: Option<Vec<String>>,
    pub auth: Auth,
}

impl Role {
    /// A role for every route, as `HTTP_CONTROL_SERVER_AUTH_DEFAULT_ROLE` makes it.
    pub fn everything(auth: Auth) -> Self {
        Self { routes: None, auth }
    }

    /// A role for some routes.
    pub fn of<I>(routes: I, auth: Auth) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        Self { routes: Some(routes.into_iter().map(Into::into).collect()), auth }
    }

    fn covers(&self, route: &str) -> bool {
        self.routes.as_ref().is_none_or(|routes| routes.iter().any(|own| own == route))
    }
}

/// What became of a request's claim to a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Granted,
    Denied {
        /// The client is told that a user name and password would do.
        ask_basic: bool,
    },
}

/// Whether a request may use `route`. Without any role the version's default holds; `settings` says whether the route
/// is one of those with secrets, which no version leaves open.
pub(super) fn access(version: Version, roles: &[Role], route: &str, settings: bool, headers: &HeaderMap) -> Access {
    if roles.is_empty() {
        let open = version < Version::Latest && !settings;
        return if open { Access::Granted } else { Access::Denied { ask_basic: false } };
    }
    let mut ask_basic = false;
    for role in roles.iter().filter(|role| role.covers(route)) {
        let granted = match &role.auth {
            Auth::None => true,
            Auth::ApiKey(key) => headers.get("x-api-key").is_some_and(|given| given.as_bytes() == key.as_bytes()),
            Auth::Basic { username, password } => match basic(headers) {
                Some(given) => given == format!("{username}:{password}").into_bytes(),
                None => {
                    ask_basic = true;
                    false
                }
            },
        };
        if granted {
            return Access::Granted;
        }
    }
    Access::Denied { ask_basic }
}

/// User name and password of a request, with the colon between them.
fn basic(headers: &HeaderMap) -> Option<Vec<u8>> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, credentials) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    BASE64_STANDARD.decode(credentials.trim()).ok()
}
