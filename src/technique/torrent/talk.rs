//! A conversation with one web interface: bounded questions to one address, with the cookie that it hands out. What an answer means is not
//! known here, nor does any text of an answer get into an error: it may hold passwords.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use reqwest::header::{COOKIE, HeaderMap, HeaderName, REFERER, SET_COOKIE};
use reqwest::{Client, Method, RequestBuilder, Url};

use super::super::http;
use crate::config::shown;

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(4);
/// Preferences have some ten thousand octets; lists of trackers and of banned peers among them may be long.
const MAX_BODY: usize = 512 * 1024;
/// A session's cookie, or its number, is not longer.
const MAX_SESSION: usize = 512;

/// See the head of this file.
pub(super) struct Talk {
    client: Client,
    base: Url,
    /// `name=value`, once one was handed out.
    cookie: Option<String>,
    answered: bool,
}

/// What came back.
pub(super) struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Talk {
    /// Begins one with the server of `base`, which is at `address`.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(base: &Url, address: IpAddr, extra_ca: Option<&str>) -> Result<Self, String> {
        let host = base.host_str().ok_or("the URL names no host")?;
        let port = base.port_or_known_default().ok_or("the URL names no port")?;
        let client = http::client(&http::trust(extra_ca)?, host, SocketAddr::new(address, port), PATIENCE)?;
        Ok(Talk { client, base: base.clone(), cookie: None, answered: false })
    }

    /// The base as errors name it.
    pub fn at(&self) -> String {
        shown(&self.base)
    }

    /// Whether the path of the base is that of a host alone.
    pub fn is_bare(&self) -> bool {
        matches!(self.base.path(), "" | "/")
    }

    /// Whether there was any answer, of whatever kind.
    pub fn is_answered(&self) -> bool {
        self.answered
    }

    /// Whether a session was begun.
    pub fn has_session(&self) -> bool {
        self.cookie.is_some()
    }

    /// A question to `path`, which is put below the base's own, with its query.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
        let mut url = self.base.clone();
        url.set_path(&format!("{}{path}", self.base.path().trim_end_matches('/')));
        url.set_query(query);
        url.set_fragment(None);
        let mut request = self.client.request(method, url);
        // Some have to be told that the question comes from a page of their own.
        request = request.header(REFERER, self.base.as_str());
        match &self.cookie {
            Some(cookie) => request.header(COOKIE, cookie),
            None => request,
        }
    }

    /// Sends one. A cookie of the name `session`, or of one that begins so, is kept for the next.
    ///
    /// # Errors
    /// When nothing usable came back.
    pub async fn send(&mut self, request: RequestBuilder, session: &str) -> Result<Reply, String> {
        let at = self.at();
        let failed = |error: reqwest::Error| format!("{at}: {}", http::chain(&error));
        let mut response = request.send().await.map_err(failed)?;
        self.answered = true;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            body.extend_from_slice(&chunk);
            if body.len() > MAX_BODY {
                return Err(format!("{at} answers with more than {MAX_BODY} octets"));
            }
        }
        self.keep(&headers, session);
        Ok(Reply { status, headers, body })
    }

    /// Keeps the cookie of a session whose name begins so.
    pub fn keep(&mut self, headers: &HeaderMap, session: &str) {
        if session.is_empty() {
            return;
        }
        let pairs = headers.get_all(SET_COOKIE).iter().filter_map(|value| value.to_str().ok()?.split(';').next());
        let pair = pairs.map(str::trim).find(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or_default();
            name.starts_with(session) && !value.is_empty() && pair.len() <= MAX_SESSION
        });
        if let Some(pair) = pair {
            self.cookie = Some(pair.to_owned());
        }
    }
}

impl Reply {
    /// A header that may be sent back.
    pub fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok().filter(|value| value.len() <= MAX_SESSION)
    }

    /// Whether it is a page for people.
    pub fn is_page(&self) -> bool {
        let text = self.body.trim_ascii_start();
        text.starts_with(b"<")
    }
}
