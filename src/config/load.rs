//! From file and environment to [`Config`].

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::de::{DeTable, DeValue};
use toml::{Spanned, Table, Value};

use super::{Config, ConfigError, OutageRules, Torrent, TorrentClient, access};

/// Read when no other file is named and it is there.
const DEFAULT_FILE: &str = "leakcheck.toml";
/// Variables of this prefix with two underscores in the rest are configuration.
const PREFIX: &str = "LEAKCHECK_";
/// The keys of `[target]` that exclude each other.
const TARGETS: [&str; 3] = ["docker", "netns", "pid"];
/// The two ways to open a control server.
const KEY: &[&str] = &["api_key_file"];
const LOGIN: &[&str] = &["control_user", "control_password_file"];
/// The same for a torrent client, whose key is named alike.
const CLIENT_LOGIN: &[&str] = &["user", "password_file"];

impl Config {
    /// Reads `explicit`, else `leakcheck.toml` of the working folder if there is one, and lays the variables
    /// `LEAKCHECK_SECTION__KEY` of `env` over it. Gives the file that was read too.
    ///
    /// Lists in a variable are separated by commas or written as a TOML array. Relative paths in a file are relative to
    /// that file, in a variable to the working folder.
    ///
    /// # Errors
    /// [`ConfigError`] for what cannot be read, and for every key or value that is not known.
    pub fn load(
        explicit: Option<&Path>,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(Config, Option<PathBuf>), ConfigError> {
        let path = match explicit {
            Some(path) => Some(path.to_owned()),
            None => Some(PathBuf::from(DEFAULT_FILE)).filter(|path| path.exists()),
        };
        let (mut table, text) = match &path {
            Some(path) => read(path)?,
            None => (Table::new(), String::new()),
        };
        let overrides = overrides(env)?;
        // Another kind of target, or another way in, replaces the file's, as a flag does.
        for (section, new, old) in [
            ("target", &TARGETS[..], &TARGETS[..]),
            ("outage", KEY, LOGIN),
            ("outage", LOGIN, KEY),
            ("torrent", KEY, CLIENT_LOGIN),
            ("torrent", CLIENT_LOGIN, KEY),
        ] {
            let is_set = overrides.iter().any(|set| set.section == section && new.contains(&set.key.as_str()));
            if let (true, Some(Value::Table(keys))) = (is_set, table.get_mut(section)) {
                keys.retain(|key, _| !old.contains(&key));
            }
        }
        for Override { section, key, value } in &overrides {
            let entry = table.entry(section.clone()).or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(entry) = entry {
                entry.insert(key.clone(), value.clone());
            }
        }
        leave_strangers_out(&mut table);
        // The file was checked by itself, and each variable too: what is wrong now comes from a variable.
        let config = Config::deserialize(table)
            .map_err(|e| ConfigError::Env { variable: format!("{PREFIX}*"), message: plain(e.message()) })?;
        // Only now: one may complete what the other says.
        let Err(Clash { section, key, message }) = check(&config) else { return Ok((config, path)) };
        let message = message.to_owned();
        match path.filter(|_| !overrides.iter().any(|set| set.section == section && set.key == key)) {
            Some(path) => {
                let (line, column) = place(&text, span_of(&text, section, key).map_or(0, |span| span.start));
                Err(ConfigError::Invalid { path, line, column, key: Some(format!("{section}.{key}")), message })
            }
            None => {
                let variable = format!("{PREFIX}{}__{}", section.to_uppercase(), key.to_uppercase());
                Err(ConfigError::Env { variable, message })
            }
        }
    }
}

/// Whoever names web witnesses of their own does not want the public ones of other protocols asked beside them, unless they are named
/// too: a self-hosted set of witnesses stays among itself, and a stack without the internet is not inconclusive for lack of Google.
fn leave_strangers_out(table: &mut Table) {
    if let Some(Value::Table(echo)) = table.get_mut("echo")
        && echo.contains_key("http")
    {
        for key in ["stun", "dht"] {
            echo.entry(key).or_insert_with(|| Value::Array(Vec::new()));
        }
    }
}

/// Keys that do not go together.
struct Clash {
    section: &'static str,
    key: &'static str,
    message: &'static str,
}

/// What no single value can say.
fn check(config: &Config) -> Result<(), Clash> {
    let clash = |section, key, message| Err(Clash { section, key, message });
    let set = [config.target.docker.is_some(), config.target.netns.is_some(), config.target.pid.is_some()];
    if let Some((second, _)) = TARGETS.into_iter().zip(set).filter(|(_, set)| *set).nth(1) {
        return clash("target", second, "a stack has one target: name one of docker, netns and pid");
    }
    if config.vpn.interface.as_ref().is_some_and(|name| config.vpn.other_tunnels.contains(name)) {
        return clash(
            "vpn",
            "other_tunnels",
            "one of these is the VPN's own tunnel by `interface`: it cannot be another one",
        );
    }
    check_torrent(&config.torrent)?;
    let OutageRules { api_key_file, control_user, control_password_file, down, up, .. } = &config.outage;
    match (control_user, control_password_file) {
        (Some(_), None) => {
            return clash(
                "outage",
                "control_user",
                "a user name opens nothing alone: name `control_password_file` too",
            );
        }
        (None, Some(_)) => {
            return clash("outage", "control_password_file", "whose password is it? name `control_user` too");
        }
        (Some(_), Some(_)) if api_key_file.is_some() => {
            return clash(
                "outage",
                "api_key_file",
                "the control server is opened by a key or by a user name, not by both",
            );
        }
        (Some(user), _) if user.is_empty() || user.contains(':') => {
            return clash("outage", "control_user", "a user name is not empty and holds no colon");
        }
        _ => {}
    }
    for (key, command) in [("down", down), ("up", up)] {
        if command.first().is_some_and(String::is_empty) {
            return clash("outage", key, "the first of a command is the program, and it has no name");
        }
    }
    match (down.is_empty(), up.is_empty()) {
        (true, false) => clash("outage", "up", "a tunnel that nothing takes down needs no `up`: name `down` too"),
        (false, true) => clash("outage", "down", "the tunnel would stay down: name `up` too"),
        (true, true) | (false, false) => Ok(()),
    }
}

/// The same for the keys of `[torrent]`.
fn check_torrent(torrent: &Torrent) -> Result<(), Clash> {
    let clash = |key, message| Err(Clash { section: "torrent", key, message });
    let Torrent { client, url, user, password_file, api_key_file } = torrent;
    let Some(client) = client else {
        let set = [
            ("url", url.is_some()),
            ("user", user.is_some()),
            ("password_file", password_file.is_some()),
            ("api_key_file", api_key_file.is_some()),
        ];
        return match set.into_iter().find(|(_, set)| *set) {
            Some((key, _)) => clash(key, "which torrent client is it? name `client` too"),
            None => Ok(()),
        };
    };
    match (client, user, password_file, api_key_file) {
        (TorrentClient::Transmission | TorrentClient::Deluge, _, _, Some(_)) => {
            clash("api_key_file", "of the torrent clients qBittorrent alone has API keys")
        }
        (_, Some(_), _, Some(_)) | (_, _, Some(_), Some(_)) => {
            clash("api_key_file", "a torrent client is opened by a key or by a password, not by both")
        }
        (TorrentClient::Deluge, Some(_), ..) => {
            clash("user", "Deluge's web interface asks for a password and no user name")
        }
        (_, Some(user), ..) if user.is_empty() || user.contains(':') => {
            clash("user", "a user name is not empty and holds no colon")
        }
        (_, Some(_), None, _) => clash("user", "a user name opens nothing alone: name `password_file` too"),
        (TorrentClient::Qbittorrent | TorrentClient::Transmission, None, Some(_), _) => {
            clash("password_file", "whose password is it? name `user` too")
        }
        _ => Ok(()),
    }
}

/// Reads and checks one file.
fn read(path: &Path) -> Result<(Table, String), ConfigError> {
    let text = fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    let folder = path.parent().unwrap_or(Path::new(""));
    match parse(&text, folder) {
        Ok(table) => Ok((table, text)),
        Err(Refusal { span, key, message }) => {
            let (line, column) = place(&text, span.map_or(0, |span| span.start));
            Err(ConfigError::Invalid { path: path.to_owned(), line, column, key, message })
        }
    }
}

/// Where a key of a section stands in a text that has been parsed before.
fn span_of(text: &str, section: &str, key: &str) -> Option<Range<usize>> {
    let tree = DeTable::parse(text).ok()?;
    match tree.get_ref().get(section)?.get_ref() {
        DeValue::Table(table) => table.iter().find(|(name, _)| name.get_ref() == key).map(|(name, _)| name.span()),
        _ => None,
    }
}

/// Where a key of a row of `[[access]]` stands.
fn span_in_row(tree: &DeTable<'_>, row: usize, key: &str) -> Option<Range<usize>> {
    let DeValue::Array(rows) = tree.get("access")?.get_ref() else { return None };
    let DeValue::Table(row) = rows.get(row)?.get_ref() else { return None };
    row.iter().find(|(name, _)| name.get_ref() == key).map(|(name, _)| name.span())
}

/// What is wrong with a text, and where.
struct Refusal {
    span: Option<Range<usize>>,
    key: Option<String>,
    message: String,
}

/// Checks `text` key by key, and makes its relative paths relative to `folder`.
fn parse(text: &str, folder: &Path) -> Result<Table, Refusal> {
    let tree = DeTable::parse(text).map_err(|e| Refusal { span: e.span(), key: None, message: plain(e.message()) })?;
    let config = toml::from_str::<Config>(text).map_err(|e| Refusal {
        key: e.span().and_then(|span| key_at(tree.get_ref(), &span)),
        span: e.span(),
        message: plain(e.message()),
    })?;
    if let Some((row, key, message)) = access::clash(&config.access) {
        return Err(Refusal {
            span: span_in_row(tree.get_ref(), row, key),
            key: Some(format!("access.{key}")),
            message,
        });
    }
    let mut table: Table = text.parse().map_err(|e: toml::de::Error| Refusal {
        span: e.span(),
        key: None,
        message: plain(e.message()),
    })?;
    let methods = table.get("outage").and_then(|outage| outage.get("methods")).and_then(Value::as_array);
    if methods.is_some_and(Vec::is_empty) {
        let message = "an empty list makes no outage: leave the key out, or run with --quick".to_owned();
        return Err(Refusal {
            span: span_of(text, "outage", "methods"),
            key: Some("outage.methods".to_owned()),
            message,
        });
    }
    for (section, key) in [
        ("target", "resolv_conf"),
        ("echo", "extra_ca"),
        ("outage", "api_key_file"),
        ("outage", "control_password_file"),
        ("torrent", "password_file"),
        ("torrent", "api_key_file"),
    ] {
        if let Some(Value::String(path)) = table.get_mut(section).and_then(|section| section.get_mut(key)) {
            *path = folder.join(&*path).to_string_lossy().into_owned();
        }
    }
    Ok(table)
}

/// The full name of the innermost key whose name or value holds `span`.
fn key_at(table: &DeTable<'_>, span: &Range<usize>) -> Option<String> {
    let holds = |outer: Range<usize>| outer.start <= span.start && span.end <= outer.end;
    for (key, value) in table {
        let key: &Spanned<_> = key;
        let name = key.get_ref();
        let rest = match value.get_ref() {
            DeValue::Table(inner) => key_at(inner, span),
            DeValue::Array(items) => items.iter().find_map(|item| match item.get_ref() {
                DeValue::Table(inner) => key_at(inner, span),
                _ => None,
            }),
            _ => None,
        };
        if let Some(rest) = rest {
            return Some(format!("{name}.{rest}"));
        }
        if holds(key.span()) || holds(value.span()) {
            return Some(name.to_string());
        }
    }
    None
}

/// Line and column, both from 1, of a byte of `text`.
fn place(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// A key that the environment sets.
struct Override {
    section: String,
    key: String,
    value: Value,
}

/// The configuration in the environment, sorted so that the first error is always the same.
fn overrides(env: impl IntoIterator<Item = (String, String)>) -> Result<Vec<Override>, ConfigError> {
    let mut variables: Vec<_> = env.into_iter().collect();
    variables.sort();
    let mut found = Vec::new();
    for (variable, text) in variables {
        let Some((section, key)) = variable.strip_prefix(PREFIX).and_then(|rest| rest.split_once("__")) else {
            continue;
        };
        let (section, key) = (section.to_lowercase(), key.to_lowercase());
        match typed(&section, &key, &text) {
            Ok(value) => found.push(Override { section, key, value }),
            Err(message) => return Err(ConfigError::Env { variable, message }),
        }
    }
    Ok(found)
}

/// The text of a variable as the type that its key wants, found by trying.
fn typed(section: &str, key: &str, text: &str) -> Result<Value, String> {
    let mut candidates = Vec::new();
    if text.trim_start().starts_with('[')
        && let Ok(mut table) = format!("list = {text}").parse::<Table>()
        && let Some(list) = table.remove("list")
    {
        candidates.push(list);
    }
    let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
    candidates
        .extend(items.clone().map(|item| item.parse().map(Value::Integer)).collect::<Result<_, _>>().map(Value::Array));
    candidates.push(Value::Array(items.map(|item| Value::String(item.to_owned())).collect()));
    candidates.extend(text.trim().parse::<i64>().map(Value::Integer));
    candidates.push(Value::String(text.to_owned()));
    let mut refusals = Vec::new();
    for value in candidates {
        let table =
            Table::from_iter([(section.to_owned(), Value::Table(Table::from_iter([(key.to_owned(), value.clone())])))]);
        match Config::deserialize(table) {
            Ok(_) => return Ok(value),
            Err(e) => refusals.push(plain(e.message())),
        }
    }
    // A refusal of the type only says that the guess was wrong; one of the value says what the reader did wrong.
    let told = refusals.iter().find(|message| !message.starts_with(WRONG_TYPE)).or(refusals.last());
    Err(told.cloned().unwrap_or_else(|| "has no usable value".to_owned()))
}

/// How a refusal begins that is about the type of a value and not about the value.
const WRONG_TYPE: &str = "wrong type: ";

/// serde's words in those of a configuration.
fn plain(message: &str) -> String {
    message
        .replace('\n', ", ")
        .replace("unknown field", "unknown key")
        .replace("missing field", "missing key")
        .replace("invalid type: ", WRONG_TYPE)
        .replace("a sequence", "a list in [ ]")
        .replace("u32", "a whole number")
        .replace("a nonzero u16", "a port from 1 to 65535")
        .replace("struct ", "a table for ")
}

/// Reads a text as a configuration, for [`crate::untrusted`].
#[cfg(feature = "lab")]
pub(crate) fn understand(text: &str) {
    match parse(text, Path::new("")) {
        Ok(table) => drop(table.try_into::<Config>().map(|config| check(&config).is_ok())),
        Err(refusal) => drop(place(text, refusal.span.map_or(0, |span| span.start))),
    }
}
