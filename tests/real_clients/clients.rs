//! The clients: how each is configured, started and ended.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use leakcheck::lab::Lab;
use leakcheck::net::netns::{Netns, run_in};
use serde_json::{Value, json};

use super::web;

/// The tunnel's address in the lab.
const TUNNEL: &str = "10.64.0.2";
/// Where Deluge's daemon waits for its web interface.
const DELUGE_DAEMON: u16 = 58_846;

pub const CLIENTS: [Client; 3] = [
    Client {
        name: "qbittorrent",
        said_name: "qBittorrent v",
        programs: &["qbittorrent-nox"],
        url: "http://127.0.0.1:8090",
        port: 8090,
        user: Some("admin"),
        password: "adminadmin",
        tells_address: true,
        is_sought: false,
        binds_to_links: true,
        configure: qbittorrent,
        settle: |_, _| Ok(()),
    },
    Client {
        name: "transmission",
        said_name: "Transmission ",
        programs: &["transmission-daemon"],
        url: "http://127.0.0.1:9091",
        port: 9091,
        user: Some("me"),
        password: "password-of-transmission",
        tells_address: false,
        is_sought: true,
        binds_to_links: false,
        configure: transmission,
        settle: |_, _| Ok(()),
    },
    Client {
        name: "deluge",
        said_name: "Deluge ",
        programs: &["deluged", "deluge-web"],
        url: "http://127.0.0.1:8112",
        port: 8112,
        user: None,
        password: "deluge",
        tells_address: true,
        is_sought: false,
        binds_to_links: true,
        configure: deluge,
        settle: connect_deluge,
    },
];

/// What a trial varies.
pub struct Habits {
    /// The link that it is bound to; `None`: any.
    pub link: Option<&'static str>,
    /// Whether it asks routers for a port and tells its neighbours of itself.
    pub announces: bool,
    /// Whether it tells of itself without a password.
    pub open: bool,
}

/// A torrent client.
pub struct Client {
    /// Its word in leakcheck.toml.
    pub name: &'static str,
    /// How it is called in a report.
    pub said_name: &'static str,
    pub programs: &'static [&'static str],
    pub url: &'static str,
    port: u16,
    /// Deluge's web interface wants a password alone.
    pub user: Option<&'static str>,
    pub password: &'static str,
    pub tells_address: bool,
    /// Whether it stands where it is looked for though another one is configured.
    pub is_sought: bool,
    /// Whether it can be bound to a link, and not to an address alone.
    pub binds_to_links: bool,
    /// Writes its settings into a folder; the commands that start it, with what they are given.
    configure: fn(&Path, &Habits) -> Result<Vec<Vec<String>>>,
    /// What somebody has to do in its page before it works.
    settle: fn(&Lab, SocketAddr) -> Result<()>,
}

/// Ended when dropped.
pub struct Running(Vec<Child>);

impl Drop for Running {
    fn drop(&mut self) {
        for child in &mut self.0 {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

impl Client {
    /// Starts it in the stack's namespace, and waits until its web interface is there.
    pub fn start(&self, lab: &Lab, dir: &Path, habits: &Habits) -> Result<Running> {
        fs::create_dir_all(dir)?;
        let mut running = Running(Vec::new());
        for words in (self.configure)(dir, habits)? {
            let log = fs::File::create(dir.join(format!("{}.log", words[0])))?;
            let mut command = Command::new(&words[0]);
            command.args(&words[1..]).env("HOME", dir).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
            let child = run_in(&Netns::open(lab.stack_netns())?, "client", move || command.spawn())?;
            running.0.push(child.with_context(|| format!("start {}", words[0]))?);
        }
        let at = SocketAddr::from(([127, 0, 0, 1], self.port));
        web::wait_for(lab, at)?;
        (self.settle)(lab, at)?;
        Ok(running)
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// The password is that of its releases before 4.6.1, which had one; as the hash that later ones want it stands in the settings.
fn qbittorrent(dir: &Path, habits: &Habits) -> Result<Vec<Vec<String>>> {
    const ADMINADMIN: &str = "ARQ77eY1NUZaQsuDHbIMCA==:0WMRkYTUWVT9wVvdDtHAjU9b3b7uB8NR1Gur2hmQCvCDpm39Q+PsJRJPaCU51dEiz+dTzh8qbPsL8WkFljQYFQ==";
    let config = dir.join("qBittorrent/config");
    fs::create_dir_all(&config)?;
    let (link, on) = (habits.link.unwrap_or_default(), habits.announces);
    let text = format!(
        "[BitTorrent]\nSession\\Interface={link}\nSession\\InterfaceName={link}\nSession\\Port=51413\nSession\\LSDEnabled={on}\n\
         [LegalNotice]\nAccepted=true\n\
         [Network]\nPortForwardingEnabled={on}\n\
         [Preferences]\nWebUI\\Address=127.0.0.1\nWebUI\\Port=8090\nWebUI\\LocalHostAuth=true\nWebUI\\UseUPnP=false\n\
         WebUI\\Username=admin\nWebUI\\Password_PBKDF2=\"@ByteArray({ADMINADMIN})\"\n"
    );
    fs::write(config.join("qBittorrent.conf"), text)?;
    Ok(vec![words(&["qbittorrent-nox", &format!("--profile={}", dir.display())])])
}

fn transmission(dir: &Path, habits: &Habits) -> Result<Vec<Vec<String>>> {
    let mut settings = json!({
        "rpc-port": 9091, "rpc-bind-address": "127.0.0.1",
        "rpc-authentication-required": !habits.open, "rpc-username": "me", "rpc-password": "password-of-transmission",
        "peer-port": 51413, "port-forwarding-enabled": habits.announces, "lpd-enabled": habits.announces,
    });
    if habits.link.is_some() {
        settings["bind-address-ipv4"] = TUNNEL.into();
        settings["bind-address-ipv6"] = "fc00:bbbb:bbbb:bb01::2".into();
    }
    fs::write(dir.join("settings.json"), settings.to_string())?;
    Ok(vec![words(&["transmission-daemon", "--foreground", "--config-dir", &dir.display().to_string()])])
}

fn deluge(dir: &Path, habits: &Habits) -> Result<Vec<Vec<String>>> {
    let link = habits.link.unwrap_or_default();
    let on = habits.announces;
    let settings = json!({
        "listen_interface": link, "outgoing_interface": link, "listen_ports": [51413, 51413], "random_port": false,
        "upnp": on, "natpmp": on, "lsd": on, "daemon_port": DELUGE_DAEMON,
    });
    // Its files are two JSON objects: the form, and what is said in it.
    fs::write(dir.join("core.conf"), format!("{}{settings}", json!({ "file": 1, "format": 1 })))?;
    let dir = dir.display().to_string();
    Ok(vec![
        words(&["deluged", "--do-not-daemonize", "--config", &dir]),
        words(&["deluge-web", "--do-not-daemonize", "--config", &dir, "--interface", "127.0.0.1", "--port", "8112"]),
    ])
}

/// What its page does when its user picks the daemon.
fn connect_deluge(lab: &Lab, at: SocketAddr) -> Result<()> {
    web::wait_for(lab, SocketAddr::new(at.ip(), DELUGE_DAEMON))?;
    let call = |cookie: &str, method: &str, params: Value| -> Result<(String, Value)> {
        let question = json!({ "id": 1, "method": method, "params": params }).to_string();
        let (head, body) = web::post(lab, at, "/json", cookie, &question)?;
        let answer: Value = serde_json::from_str(&body).with_context(|| format!("read {body:?}"))?;
        Ok((head, answer["result"].clone()))
    };
    let (head, _) = call("", "auth.login", json!(["deluge"]))?;
    let cookie = head.lines().find_map(|line| line.strip_prefix("Set-Cookie: ")).context("find a cookie")?;
    let cookie = cookie.split(';').next().unwrap_or_default();
    let (_, hosts) = call(cookie, "web.get_hosts", json!([]))?;
    call(cookie, "web.connect", json!([hosts[0][0]]))?;
    let (_, connected) = call(cookie, "web.connected", json!([]))?;
    ensure!(connected == json!(true), "connect Deluge's web interface to its daemon: {hosts}");
    Ok(())
}
