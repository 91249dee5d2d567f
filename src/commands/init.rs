//! `leakcheck init`: a `leakcheck.toml` with comments, from the stack that is found. What a run finds by itself is written as a comment, so
//! that it goes on being found; only what is worth pinning is set. What nobody else can know is suggested as a comment, see `suggest`.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::Path;

use anyhow::Context;

use super::doctor::options;
use super::suggest::{self, Client, Inside, Row};
use super::{Hint, catalog, print};
use crate::catalog::Selection;
use crate::cli::InitArgs;
use crate::config::{Config, TorrentClient};
use crate::model::evidence::Role;
use crate::runner::{self, Found};
use crate::target::Gluetun;
use crate::technique::{client_url, nameservers};

/// Writes the file.
///
/// # Errors
/// When the stack cannot be found or entered, or the file cannot be written or is there already.
pub fn init(args: &InitArgs) -> anyhow::Result<()> {
    let to_stdout = args.output.as_os_str() == "-";
    let there = args.output.exists() && !to_stdout;
    if there && !args.force {
        return Err(Hint {
            message: format!("write {}: it is there already", args.output.display()),
            help: "--force writes over it, --output names another file, --output - prints it".to_owned(),
        }
        .into());
    }
    let (config, selection, catalog) = (Config::default(), Selection::default(), catalog(None)?);
    let found = runner::look(&options(&config, &catalog, &selection, &args.stack))?;
    let text = Draft::of(&found).text();
    if to_stdout {
        return Ok(print(&text)?);
    }
    write(&args.output, &text).with_context(|| format!("write {}", args.output.display()))?;
    let _ = writeln!(io::stderr(), "wrote {}: read it, then leakcheck run", args.output.display());
    Ok(())
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    OpenOptions::new().write(true).create(true).truncate(true).open(path)?.write_all(text.as_bytes())
}

/// What goes into the file.
#[derive(Debug, Default)]
struct Draft {
    /// What it was found by, such as `docker:gluetun`.
    label: String,
    provider: Option<String>,
    interface: Option<String>,
    endpoint: Option<String>,
    local: Vec<String>,
    resolvers: Vec<String>,
    methods: Vec<String>,
    control_server: Option<String>,
    /// TCP ports that the owner means to be reached, at the stack's own address.
    served: Vec<String>,
    torrent: Option<Client>,
    access: Vec<Row>,
}

impl Draft {
    fn of(found: &Found) -> Self {
        let (stack, target) = (&found.stack, &found.target);
        let gluetun = target.gluetun.as_ref();
        let setting = |name: &str| gluetun.and_then(|gluetun| gluetun.env.get(name)).map(String::as_str);
        let uplinks = stack.links.iter().filter(|link| link.role == Role::Uplink);
        let own = uplinks.flat_map(|link| &link.addresses).map(ipnet::IpNet::addr).find(std::net::IpAddr::is_ipv4);
        let published = target.settings.iter().flat_map(|settings| &settings.published);
        let of_docker = published.filter(|one| one.proto == "tcp").map(|one| one.inside);
        let of_gluetun = gluetun.map(Gluetun::input_ports).unwrap_or_default();
        let mut ports: Vec<u16> = of_docker.chain(of_gluetun).collect();
        ports.sort_unstable();
        ports.dedup();
        let inside: Vec<Inside<'_>> = target
            .dependents
            .iter()
            .map(|one| Inside { name: &one.name, image: &one.settings.image, web_port: one.settings.web_port })
            .collect();
        let rows =
            found.account.iter().zip(own).flat_map(|(account, own)| suggest::rows(account, &own.to_string(), &ports));
        Draft {
            label: target.label.clone(),
            provider: setting("VPN_SERVICE_PROVIDER").map(str::to_lowercase),
            interface: stack.tunnel.clone(),
            endpoint: stack.endpoint.as_ref().map(|(address, _)| address.to_string()),
            local: stack.local.iter().map(ToString::to_string).collect(),
            resolvers: nameservers(&target.resolv_conf.text).0.iter().map(ToString::to_string).collect(),
            methods: stack.methods.clone(),
            control_server: gluetun.map(|gluetun| format!("http://127.0.0.1:{}", gluetun.control_port)),
            torrent: suggest::client(&inside, &ports),
            access: rows.collect(),
            served: own.iter().flat_map(|own| ports.iter().map(move |port| format!("tcp://{own}:{port}"))).collect(),
        }
    }

    fn text(&self) -> String {
        let mut page = String::new();
        let mut line = |text: &str| {
            page.push_str(text);
            page.push('\n');
        };
        line(&format!(
            "# What leakcheck has to know of {}. Every key is optional; the README tells of all. A key behind a # is",
            self.label
        ));
        line(
            "# found by itself, as it is written here or with its default, or is an example: take the # away to set it.",
        );
        line("");
        line("[target]");
        let (kind, name) = self.label.split_once(':').unwrap_or(("docker", &self.label));
        let name = if kind == "pid" { name.to_owned() } else { quoted(name) };
        line(&set(kind, name, "whose network is audited"));
        line("");
        line("[vpn]");
        let provider = self.provider.as_deref();
        let (word, about) = match provider {
            Some("mullvad") => ("mullvad", "Mullvad says itself whether an exit is its own".to_owned()),
            Some("custom") | None => ("any", "the exit must only not be home; \"mullvad\" proves more".to_owned()),
            Some(name) => ("any", format!("{name}: the exit must only not be home")),
        };
        line(&set("provider", quoted(word), &about));
        line(&found("interface", quoted(self.interface.as_deref().unwrap_or("tun0")), "the tunnel"));
        line(&found("endpoint", quoted(self.endpoint.as_deref().unwrap_or("198.51.100.2:51820")), "the VPN server"));
        line(&found("exit", list(&["198.51.100.0/24".to_owned()]), "the exit must lie in these"));
        line("");
        line("[home]");
        line(&found("ip", list(&["203.0.113.10".to_owned()]), "your public address; else asked at each run"));
        line("");
        line("[local]");
        line(&found("subnets", list(&self.local), "what may be talked to past the tunnel"));
        line("# What the stack has to reach, tunnel up or down, and what it must not: name some of yours.");
        line(&found("must_reach", list(&["http://192.168.1.50/".to_owned()]), "such as the NAS"));
        line(&found("must_not_reach", list(&["tcp://192.168.1.1:22".to_owned()]), "such as the router's login"));
        line("# What of the stack has to answer its neighbours: ports that are published or opened by Gluetun.");
        let example = ["http://172.18.0.10:8080/".to_owned()];
        line(&found(
            "must_serve",
            list(if self.served.is_empty() { &example } else { &self.served }),
            "web interfaces",
        ));
        line("");
        line("[echo]");
        line(&found("source_ports", "[6881]".to_owned(), "where the torrent client listens"));
        line("");
        line("[dns]");
        line(&found("resolvers", list(&self.resolvers), "what resolv.conf may name"));
        line(&found("forced_policy", quoted("no-escape"), "or \"drop\": not even through the tunnel"));
        self.torrent(&mut line);
        line("");
        line("[outage]");
        let wanted = ["vpn-stop", "link-down", "endpoint-block"].map(str::to_owned);
        let can = |word: &String| self.methods.contains(word);
        let possible: Vec<String> = wanted.iter().filter(|word| can(word)).cloned().collect();
        line(&found(
            "methods",
            list(if possible.is_empty() { &wanted } else { &possible }),
            "leakcheck run --help lists more",
        ));
        line(&found("window", quoted("5s"), "how long the tunnel stays down"));
        line(&found("recovery_timeout", quoted("90s"), "how long it may take to come back"));
        if let Some(server) = &self.control_server {
            line(&found("control_server", quoted(server), "Gluetun's, as seen from inside"));
            line(&found("api_key_file", quoted("/run/secrets/gluetun_api_key"), "where it asks for a key"));
        }
        self.access(&mut line);
        page
    }

    /// Nothing is set: a client that is named and not opened is a question without an answer, and no run would pass.
    fn torrent(&self, line: &mut impl FnMut(&str)) {
        let fallback = Client {
            client: TorrentClient::Qbittorrent,
            url: client_url(TorrentClient::Qbittorrent).to_owned(),
            seen: "or \"transmission\", \"deluge\"".to_owned(),
        };
        let Client { client, url, seen } = self.torrent.as_ref().unwrap_or(&fallback);
        line("");
        line("[torrent]");
        line(
            "# The torrent client is asked about itself if it tells without logging in. Else take the # away, and put its password,",
        );
        line(
            "# alone, into a file that only you can read; LEAKCHECK_TORRENT__PASSWORD_FILE can name that file as well.",
        );
        line(&found("client", quoted(client.word()), seen));
        line(&found("url", quoted(url), "as seen from inside the stack's network"));
        if *client != TorrentClient::Deluge {
            line(&found("user", quoted("admin"), "as you log in"));
        }
        line(&found(
            "password_file",
            quoted(&format!("/run/secrets/{client}_password")),
            "or api_key_file (qBittorrent 5.2)",
        ));
    }

    fn access(&self, line: &mut impl FnMut(&str)) {
        line("");
        line(
            "# Who may talk to whom, a row for each pair. Take the # away from what is meant so, and turn allow round where it is not;",
        );
        line(
            "# from: container:NAME, stack, host, netns:NAME-OR-PATH or pid:PID; to: http://, https://, tcp://, udp:// or icmp://.",
        );
        let example = [Row {
            from: "container:sonarr".to_owned(),
            to: "http://gluetun:8080/".to_owned(),
            allow: true,
            why: "an example".to_owned(),
        }];
        for Row { from, to, allow, why } in if self.access.is_empty() { &example[..] } else { &self.access } {
            line("# [[access]]");
            line(&found("from", quoted(from), why));
            line(&found("to", quoted(to), ""));
            line(&found("allow", allow.to_string(), if *allow { "has to answer" } else { "must not answer" }));
        }
    }
}

/// A key, and what it is about.
fn set(key: &str, value: String, about: &str) -> String {
    let pair = format!("{key} = {value}");
    if about.is_empty() { pair } else { format!("{pair:<48} # {about}") }
}

/// A key that a run finds by itself, or that only the owner knows.
fn found(key: &str, value: String, about: &str) -> String {
    format!("# {}", set(key, value, about))
}

/// As a TOML string.
fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

/// As a TOML array.
fn list(items: &[String]) -> String {
    let items: Vec<String> = items.iter().map(|item| quoted(item)).collect();
    format!("[{}]", items.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Config {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("leakcheck.toml");
        std::fs::write(&path, text).unwrap();
        Config::load(Some(&path), []).unwrap().0
    }

    fn draft() -> Draft {
        Draft {
            label: "docker:gluetun".to_owned(),
            provider: Some("mullvad".to_owned()),
            interface: Some("tun0".to_owned()),
            endpoint: Some("198.51.100.2:51820".to_owned()),
            local: vec!["172.18.0.0/16".to_owned()],
            resolvers: vec!["127.0.0.1".to_owned()],
            methods: vec!["vpn-stop".to_owned(), "endpoint-block".to_owned(), "kill".to_owned()],
            control_server: Some("http://127.0.0.1:8000".to_owned()),
            served: vec!["tcp://172.18.0.10:8080".to_owned()],
            torrent: Some(Client {
                client: TorrentClient::Transmission,
                url: "http://127.0.0.1:9092".to_owned(),
                seen: "the container tr".to_owned(),
            }),
            access: ["sonarr", "radarr"]
                .map(|name| Row {
                    from: format!("container:{name}"),
                    to: "tcp://gluetun:8080".to_owned(),
                    allow: name == "sonarr",
                    why: "is there".to_owned(),
                })
                .into(),
        }
    }

    /// What is set is taken, and so is each key behind a # once somebody takes that away.
    #[test]
    fn what_is_written_is_understood() {
        let bare = Draft { label: "pid:17".to_owned(), ..Draft::default() };
        for draft in [draft(), bare] {
            let text = draft.text();
            let config = load(&text);
            assert_eq!(
                (&config.local, &config.torrent),
                (&Config::default().local, &Config::default().torrent),
                "{text}"
            );
            assert!(config.access.is_empty(), "{text}");
            let keys = |line: &str| line.starts_with("# ") && line.contains(" = ") || line == "# [[access]]";
            let pinned: String =
                text.lines().map(|line| format!("{}\n", if keys(line) { &line[2..] } else { line })).collect();
            let config = load(&pinned);
            assert!(!config.home.ip.is_empty() && !config.local.must_serve.is_empty(), "{pinned}");
            assert!(config.torrent.password_file.is_some() && config.torrent.url.is_some(), "{pinned}");
            let access: Vec<_> = config.access.iter().map(|row| (row.from.to_string(), row.allow)).collect();
            let expected = match draft.access.as_slice() {
                [] => vec![("container:sonarr".to_owned(), true)],
                rows => rows.iter().map(|row| (row.from.clone(), row.allow)).collect(),
            };
            assert_eq!(access, expected, "{pinned}");
            let client = draft.torrent.as_ref().map_or(TorrentClient::Qbittorrent, |seen| seen.client);
            assert_eq!(config.torrent.client, Some(client), "{pinned}");
        }
        let config = load(&draft().text());
        assert_eq!(config.target.docker.as_deref(), Some("gluetun"));
        assert_eq!(config.vpn.provider, crate::config::Provider::Mullvad);
    }

    /// A name that holds what ends a string stays a name.
    #[test]
    fn names_are_quoted() {
        let draft = Draft { label: "netns:a\"b\\c".to_owned(), ..Draft::default() };
        assert_eq!(load(&draft.text()).target.netns.as_deref(), Some("a\"b\\c"));
    }
}
