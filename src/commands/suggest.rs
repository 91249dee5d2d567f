//! What `leakcheck init` suggests of what a run does not find by itself: how the torrent client is asked, and who may talk to whom. All of it
//! is what the engine tells of the containers; nobody is asked, and no secret is read.

use crate::config::TorrentClient;
use crate::model::evidence::{ContainerAccount, StackAccount};
use crate::technique::client_url;

/// Rows of the access matrix; the owner goes on from there.
const ROWS: usize = 8;
/// Docker's own networks, on which names are not resolved.
const NAMELESS: [&str; 3] = ["bridge", "host", "none"];
/// Ports at which the clients' web interfaces are by default.
const PORTS: [(u16, TorrentClient); 3] =
    [(9091, TorrentClient::Transmission), (8112, TorrentClient::Deluge), (8080, TorrentClient::Qbittorrent)];

/// A container in the stack's network, as far as it matters here.
pub(super) struct Inside<'a> {
    pub(super) name: &'a str,
    pub(super) image: &'a str,
    /// Where its web interface listens, if its environment says so.
    pub(super) web_port: Option<u16>,
}

/// A torrent client that was seen.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Client {
    pub(super) client: TorrentClient,
    pub(super) url: String,
    /// By what it was seen.
    pub(super) seen: String,
}

/// The torrent client among the containers of the stack; else the one whose usual port the stack serves.
pub(super) fn client(inside: &[Inside<'_>], served: &[u16]) -> Option<Client> {
    let by_image = inside.iter().find_map(|one| Some((one, of_image(one.image)?)));
    if let Some((one, client)) = by_image {
        let url = match one.web_port {
            Some(port) => format!("http://127.0.0.1:{port}"),
            None => client_url(client).to_owned(),
        };
        return Some(Client { client, url, seen: format!("by the container {}", one.name) });
    }
    let (port, client) = PORTS.into_iter().find(|(port, _)| served.contains(port))?;
    Some(Client { client, url: client_url(client).to_owned(), seen: format!("by port {port}, its usual one") })
}

/// By the last part of an image's name, such as `lscr.io/linuxserver/qbittorrent:latest`.
fn of_image(image: &str) -> Option<TorrentClient> {
    let name = image.rsplit('/').next().unwrap_or_default().split([':', '@']).next().unwrap_or_default();
    let words: Vec<&str> = name.split(['-', '_']).collect();
    // One that watches a client is called after it, too.
    let watches = words.iter().any(|word| matches!(*word, "exporter" | "proxy" | "prometheus"));
    let starts = |client: &TorrentClient| words.iter().any(|word| word.starts_with(client.word()));
    PORTS.into_iter().map(|(_, client)| client).find(starts).filter(|_| !watches)
}

/// A row of the access matrix.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) from: String,
    pub(super) to: String,
    pub(super) allow: bool,
    /// Why it is suggested.
    pub(super) why: String,
}

/// Each container beside the stack to each port that the stack serves: allowed where both are on one network, as it is then most likely meant.
/// `own` is an address of the stack, for those who cannot resolve its name.
pub(super) fn rows(account: &StackAccount, own: &str, served: &[u16]) -> Vec<Row> {
    let beside = account.beside.iter().filter(|one| one.state == "running" && !one.joined_gone && has_own_network(one));
    let pairs = beside.flat_map(|one| served.iter().map(move |port| (one, port)));
    let row = |(one, port): (&ContainerAccount, &u16)| {
        let shared = one.networks.iter().find(|net| account.vpn.networks.contains(net));
        let named = shared.filter(|net| !NAMELESS.contains(&net.as_str()));
        let host = named.map_or(own, |_| &account.vpn.name);
        Row {
            from: format!("container:{}", one.name),
            to: format!("tcp://{host}:{port}"),
            allow: shared.is_some(),
            why: match shared {
                Some(net) => format!("is on the network {net} with the stack"),
                None => "is on no network with the stack".to_owned(),
            },
        }
    };
    pairs.map(row).take(ROWS).collect()
}

fn has_own_network(one: &ContainerAccount) -> bool {
    let mode = one.network_mode.as_str();
    mode != "host" && mode != "none" && !mode.starts_with("container:")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_known_by_its_image_and_else_by_its_port() {
        let seen = |image: &str, web_port, served: &[u16]| {
            client(
                &[
                    Inside { name: "vpn-sidecar", image: "alpine", web_port: None },
                    Inside { name: "it", image, web_port },
                ],
                served,
            )
            .map(|found| (found.client, found.url, found.seen))
        };
        let by_image = "by the container it".to_owned();
        let local = |port: u16| format!("http://127.0.0.1:{port}");
        for (image, web_port, expected) in [
            ("lscr.io/linuxserver/qbittorrent:5.1.2", None, (TorrentClient::Qbittorrent, local(8080))),
            ("qbittorrentofficial/qbittorrent-nox", Some(8090), (TorrentClient::Qbittorrent, local(8090))),
            ("haugene/transmission-openvpn@sha256:0", None, (TorrentClient::Transmission, local(9091))),
            ("binhex/arch-delugevpn", None, (TorrentClient::Deluge, local(8112))),
        ] {
            assert_eq!(seen(image, web_port, &[]), Some((expected.0, expected.1, by_image.clone())), "{image}");
        }
        for image in ["esanchezm/prometheus-qbittorrent-exporter", "qbittorrent/web", "", "registry:5000/deluge/x"] {
            assert_eq!(seen(image, None, &[80]), None, "{image}");
        }
        let by_port = seen("custom", None, &[80, 9091]).unwrap();
        assert_eq!((by_port.0, by_port.1), (TorrentClient::Transmission, local(9091)));
        assert!(by_port.2.contains("9091"));
    }

    fn beside(name: &str, network: &str) -> ContainerAccount {
        ContainerAccount {
            name: name.to_owned(),
            state: "running".to_owned(),
            network_mode: network.to_owned(),
            networks: vec![network.to_owned()],
            ..ContainerAccount::default()
        }
    }

    #[test]
    fn rows_are_of_those_who_stand_beside_and_allowed_on_a_common_network() {
        let mut account = StackAccount { vpn: beside("gluetun", "media"), ..StackAccount::default() };
        let stopped = ContainerAccount { state: "exited".to_owned(), ..beside("stopped", "media") };
        account.beside = vec![beside("sonarr", "media"), beside("guest", "other"), beside("on-host", "host"), stopped];
        let found = rows(&account, "172.18.0.10", &[8080]);
        let told: Vec<_> = found.iter().map(|row| (row.from.as_str(), row.to.as_str(), row.allow)).collect();
        assert_eq!(
            told,
            [("container:sonarr", "tcp://gluetun:8080", true), ("container:guest", "tcp://172.18.0.10:8080", false),]
        );
        account.vpn.networks = vec!["bridge".to_owned()];
        account.beside = vec![beside("sonarr", "bridge")];
        let found = rows(&account, "172.17.0.2", &[8080]);
        assert_eq!((found[0].to.as_str(), found[0].allow), ("tcp://172.17.0.2:8080", true), "bridge resolves no names");
        account.beside = (0..20).map(|n| beside(&format!("c{n}"), "media")).collect();
        assert_eq!(rows(&account, "172.18.0.10", &[1, 2, 3]).len(), ROWS);
        assert!(rows(&account, "172.18.0.10", &[]).is_empty());
    }
}
