//! Every key is read, every wrong one is refused. `fixtures/invalid/*.toml` hold one refused configuration each, with the
//! refusal in the comment at their head; `LEAKCHECK_BLESS=1` writes that comment anew.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::*;

type Env = Vec<(String, String)>;

fn env(pairs: &[(&str, &str)]) -> Env {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn load(text: &str, pairs: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("leakcheck.toml");
    fs::write(&path, text).unwrap();
    Config::load(Some(&path), env(pairs)).map(|(config, _)| config)
}

/// The refusal as the comment at the head of a fixture states it.
fn refusal(error: &ConfigError) -> String {
    let ConfigError::Invalid { line, column, key, message, .. } = error else { panic!("{error:?}") };
    let key = key.as_ref().map(|key| format!("{key}: ")).unwrap_or_default();
    let help = error.help().map(|help| format!("# help: {help}\n")).unwrap_or_default();
    format!("# refused: {line}:{column}: {key}{message}\n{help}")
}

#[test]
fn each_invalid_file_is_refused_as_it_says() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/invalid");
    let mut seen = 0;
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let error = match Config::load(Some(&path), Env::new()) {
            Ok(_) => panic!("{} is accepted", path.display()),
            Err(error) => error,
        };
        let body_at = text.split_inclusive('\n').take_while(|line| line.starts_with("# ")).map(str::len).sum();
        let (head, body) = text.split_at(body_at);
        // Line numbers count the comment, so it is written twice: once to be there, once to be right.
        if std::env::var_os("LEAKCHECK_BLESS").is_some() {
            fs::write(&path, format!("{}{body}", refusal(&error))).unwrap();
            let error = Config::load(Some(&path), Env::new()).unwrap_err();
            fs::write(&path, format!("{}{body}", refusal(&error))).unwrap();
        } else {
            assert_eq!(head, refusal(&error), "{}", path.display());
        }
        seen += 1;
    }
    assert!(seen > 25, "only {seen} files");
}

#[test]
fn own_web_witnesses_leave_out_the_public_ones_of_other_protocols() {
    let own = load("[echo]\nhttp = ['http://echo.example.com/json']\n", &[]).unwrap().echo;
    assert!(own.stun.is_empty() && own.dht.is_empty() && !own.dns.is_empty());
    let both =
        load("[echo]\nhttp = ['http://echo.example.com/json']\nstun = ['stun.example.com:3478']\n", &[]).unwrap().echo;
    assert!(both.stun.len() == 1 && both.dht.is_empty());
    let neither = load("[echo]\ndns = ['whoami.example.com']\n", &[]).unwrap().echo;
    assert_eq!((neither.stun, neither.dht), (Config::default().echo.stun, Config::default().echo.dht));
}

#[test]
fn every_key_is_read() {
    let config = load(include_str!("../../fixtures/valid/every-key.toml"), &[]).unwrap();
    let public = |text: &str| text.parse::<IpAddr>().unwrap();
    assert_eq!(config.target.docker.as_deref(), Some("gluetun"));
    assert_eq!(config.vpn.provider, Provider::Any);
    assert_eq!(config.vpn.interface.as_deref(), Some("tun0"));
    assert_eq!(config.vpn.endpoint, Some("198.51.100.2:51820".parse().unwrap()));
    let servers = ["198.51.100.3:51820", "[2001:db8:51::2]:51820"].map(|at| at.parse().unwrap());
    assert_eq!((config.vpn.other_servers, config.vpn.other_tunnels), (servers.to_vec(), vec!["tailscale0".to_owned()]));
    assert_eq!(config.vpn.exit, ["198.51.100.0/24".parse().unwrap(), "2001:db8:51::3/128".parse::<IpNet>().unwrap()]);
    assert_eq!(config.home.ip, [public("203.0.113.10"), public("2001:db8:18::10")]);
    assert_eq!(config.home.resolvers, [public("203.0.113.53")]);
    assert_eq!(config.local.subnets, ["172.18.0.0/16".parse::<IpNet>().unwrap(), "fd18::/64".parse().unwrap()]);
    let reach: Vec<_> = config.local.must_reach.iter().map(|local| (local.to_string(), local.host_port())).collect();
    let host = |host: &str, port| HostPort { host: host.to_owned(), port };
    assert_eq!(reach[0], ("http://192.168.1.50/".to_owned(), host("192.168.1.50", 80)));
    assert_eq!(reach[1], ("tcp://172.18.0.20:8989".to_owned(), host("172.18.0.20", 8989)));
    assert_eq!(reach[2], ("https://[fd18::20]/health".to_owned(), host("fd18::20", 443)));
    assert_eq!(config.local.must_not_reach[0].host_port().socket_addr(), Some("192.168.1.1:22".parse().unwrap()));
    assert_eq!(config.local.must_serve, [Local::Tcp(host("fd18::10", 8080))]);
    assert_eq!(config.echo.http[0].as_str(), "https://am.i.mullvad.net/json");
    assert_eq!(config.echo.stun, [host("stun.l.google.com", 19302)]);
    assert_eq!(config.echo.dht, [host("router.bittorrent.com", 6881), host("2001:db8::1", 25_401)]);
    assert_eq!(config.echo.tracker[0], Tracker::Udp(host("tracker.example.net", 6969)));
    assert_eq!(config.echo.source_ports.iter().map(|port| port.get()).collect::<Vec<_>>(), [6881, 51_413]);
    assert_eq!(config.echo.dns, ["whoami.akamai.net"]);
    assert!(config.echo.extra_ca.unwrap().ends_with("lab-ca.pem"));
    assert_eq!(config.dns.resolvers, [public("127.0.0.1"), public("10.64.0.1")]);
    assert_eq!(config.dns.forced, [public("8.8.8.8")]);
    assert_eq!(config.dns.forced_policy, ForcedPolicy::Drop);
    assert_eq!(config.dns.canary, "example.org");
    assert_eq!(config.outage.methods, [OutageMethod::VpnStop, OutageMethod::LinkDown]);
    assert_eq!(config.outage.window, Duration::from_millis(2500));
    assert_eq!(config.outage.recovery_timeout, Duration::from_secs(120));
    assert_eq!(config.outage.control_server.as_str(), "http://127.0.0.1:8001/");
    assert_eq!(config.outage.api_key_file, Some(PathBuf::from("/run/secrets/gluetun_api_key")));
    assert_eq!((config.outage.down.len(), config.outage.up.len()), (3, 3));
    let rows: Vec<_> = config.access.iter().map(|row| (row.source(), row.to.to_string(), row.allow)).collect();
    let row = |from: &str, to: &str, allow| (from.to_owned(), to.to_owned(), allow);
    assert_eq!(rows[0], row("container:sonarr", "http://gluetun:8080/api?…", true));
    assert_eq!(rows[1], row("LAN", "udp://[fd18::10]:53", false));
    assert_eq!(rows[2], row("stack", "icmp://nas.lan", false));
    assert_eq!(config.access[0].from, Stand::In("docker:sonarr".parse().unwrap()));
    assert_eq!(config.access[0].to.host_port(), host("gluetun", 8080));
    assert_eq!(config.torrent.client, Some(TorrentClient::Qbittorrent));
    assert_eq!(config.torrent.url.unwrap().as_str(), "http://127.0.0.1:8081/");
    assert_eq!(config.torrent.api_key_file, Some(PathBuf::from("/run/secrets/qbittorrent_api_key")));
}

#[test]
fn a_login_is_read_and_its_file_belongs_to_the_configuration() {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/valid/login.toml"));
    let (config, _) = Config::load(Some(path), Env::new()).unwrap();
    let rules = config.outage;
    assert_eq!(rules.methods, [OutageMethod::ProcessKill, OutageMethod::ProcessStop, OutageMethod::Command]);
    assert_eq!(rules.control_user.as_deref(), Some("admin"));
    assert_eq!(rules.control_password_file, path.parent().map(|folder| folder.join("password")));
    assert_eq!(rules.up, ["systemctl", "start", "openvpn-client@home"]);
}

#[test]
fn a_torrent_clients_login_is_read_and_the_environment_replaces_it() {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/valid/torrent.toml"));
    let (config, _) = Config::load(Some(path), Env::new()).unwrap();
    let torrent = config.torrent;
    assert_eq!((torrent.client, torrent.user.as_deref()), (Some(TorrentClient::Transmission), Some("admin")));
    assert_eq!(torrent.password_file, path.parent().map(|folder| folder.join("torrent-password")));
    let login = "[torrent]\nclient = 'qbittorrent'\nuser = 'admin'\npassword_file = 'pw'\n";
    let config = load(login, &[("LEAKCHECK_TORRENT__API_KEY_FILE", "/run/secrets/key")]).unwrap();
    assert!(config.torrent.user.is_none() && config.torrent.api_key_file.is_some());
    let none =
        load("", &[("LEAKCHECK_TORRENT__CLIENT", "deluge"), ("LEAKCHECK_TORRENT__PASSWORD_FILE", "pw")]).unwrap();
    assert_eq!(none.torrent.client, Some(TorrentClient::Deluge));
    assert!(load("", &[("LEAKCHECK_TORRENT__URL", "http://127.0.0.1:8080")]).is_err());
}

#[test]
fn the_environment_completes_what_the_file_says_and_replaces_another_way_in() {
    let login = "[outage]\ncontrol_user = \"admin\"\n";
    let config = load(login, &[("LEAKCHECK_OUTAGE__CONTROL_PASSWORD_FILE", "/run/secrets/pw")]).unwrap();
    assert_eq!(config.outage.control_user.as_deref(), Some("admin"));
    assert!(refusal(&load(login, &[]).unwrap_err()).contains("a user name opens nothing alone"));
    let down = "[outage]\ndown = [\"wg-quick\", \"down\", \"wg0\"]\n";
    assert!(load(down, &[("LEAKCHECK_OUTAGE__UP", "[\"wg-quick\", \"up\", \"wg0\"]")]).is_ok());
    assert!(refusal(&load(down, &[]).unwrap_err()).contains("name `up` too"));
    let key = "[outage]\napi_key_file = \"key\"\n";
    let pairs =
        [("LEAKCHECK_OUTAGE__CONTROL_USER", "admin"), ("LEAKCHECK_OUTAGE__CONTROL_PASSWORD_FILE", "/run/secrets/pw")];
    assert!(load(key, &pairs).unwrap().outage.api_key_file.is_none());
    let whole = format!("{login}control_password_file = \"pw\"\n");
    let config = load(&whole, &[("LEAKCHECK_OUTAGE__API_KEY_FILE", "/run/secrets/key")]).unwrap();
    assert!(config.outage.control_user.is_none() && config.outage.api_key_file.is_some());
}

#[test]
fn relative_paths_belong_to_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("other.toml");
    fs::write(&path, "echo.extra_ca = 'ca.pem'\ntarget.resolv_conf = '/etc/resolv.conf'\n").unwrap();
    let (config, read) = Config::load(Some(&path), Env::new()).unwrap();
    assert_eq!(config.echo.extra_ca, Some(dir.path().join("ca.pem")));
    assert_eq!(config.target.resolv_conf, Some(PathBuf::from("/etc/resolv.conf")));
    assert_eq!(read, Some(path));
}

#[test]
fn a_missing_file_is_an_error_only_when_it_was_asked_for() {
    let error = Config::load(Some(Path::new("/nonexistent/leakcheck.toml")), Env::new()).unwrap_err();
    assert!(matches!(error, ConfigError::Read { .. }) && error.help().is_some());
    assert_eq!(Config::load(None, Env::new()).unwrap(), (Config::default(), None));
}

#[test]
fn the_environment_overrides_the_file() {
    let file = "[vpn]\nprovider = 'any'\nexit = ['198.51.100.0/24']\n[target]\ndocker = 'gluetun'\n";
    let config = load(
        file,
        &[
            ("LEAKCHECK_VPN__PROVIDER", "mullvad"),
            ("LEAKCHECK_HOME__IP", "203.0.113.10, 2001:db8:18::10"),
            ("LEAKCHECK_DNS__FORCED", "['9.9.9.9']"),
            ("LEAKCHECK_ECHO__STUN", ""),
            ("LEAKCHECK_TARGET__PID", "42"),
            ("LEAKCHECK_OUTAGE__WINDOW", "1s"),
            ("LEAKCHECK_LAB", "required"),
            ("LEAKCHECK_LEAK", "no such thing"),
            ("PATH", "/bin"),
        ],
    )
    .unwrap();
    assert_eq!(config.vpn.provider, Provider::Mullvad);
    assert_eq!(config.vpn.exit.len(), 1);
    assert_eq!(config.home.ip.len(), 2);
    assert_eq!(config.dns.forced, ["9.9.9.9".parse::<IpAddr>().unwrap()]);
    assert_eq!(config.echo.stun, []);
    assert_eq!((config.target.docker, config.target.pid), (None, Some(42)));
    assert_eq!(config.outage.window, Duration::from_secs(1));
    // A name of digits is a name where a name is wanted.
    assert_eq!(load("", &[("LEAKCHECK_TARGET__NETNS", "7")]).unwrap().target.netns.as_deref(), Some("7"));
}

#[test]
fn a_wrong_variable_is_named() {
    let refused = |pairs: &[(&str, &str)]| {
        let error = load("", pairs).unwrap_err();
        (error.to_string(), error.help().unwrap_or_default())
    };
    let (message, help) = refused(&[("LEAKCHECK_VPN__PROVIDR", "any")]);
    assert!(message.starts_with("use the environment variable LEAKCHECK_VPN__PROVIDR: unknown key"), "{message}");
    assert_eq!(help, "did you mean `provider`?");
    assert!(refused(&[("LEAKCHECK_VNP__PROVIDER", "any")]).1.contains("`vpn`"));
    assert!(refused(&[("LEAKCHECK_VPN__PROVIDER", "mulvad")]).1.contains("`mullvad`"));
    assert!(refused(&[("LEAKCHECK_HOME__IP", "10.0.0.1")]).0.contains("no address that the internet can see"));
    assert!(refused(&[("LEAKCHECK_TARGET__PID", "me")]).0.contains("expected a whole number"));
    assert!(refused(&[("LEAKCHECK_TARGET__PID", "1"), ("LEAKCHECK_TARGET__NETNS", "x")]).0.contains("one target"));
}

#[test]
fn targets_and_durations_print_as_they_are_written() {
    for text in ["tcp://[fd18::20]:8989", "tcp://sonarr:8989", "http://192.168.1.50/", "https://nas.lan:8443/x"] {
        assert_eq!(text.parse::<Local>().unwrap().to_string(), text);
    }
    for text in [
        "tcp://:80",
        "tcp://[fd18::20",
        "tcp://fd18::20:80",
        "tcp://host:0",
        "tcp://host:99999",
        "udp://host:1",
        "http://",
    ] {
        assert!(text.parse::<Local>().is_err(), "{text}");
    }
    for (text, ms) in [("500ms", 500), ("1.5s", 1500), ("2m", 120_000), ("1h", 3_600_000)] {
        assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)));
    }
    for text in ["", "s", "5", "-1s", "1.2.3s", "25h", "1d", "inf", "NaNs", "1e3s"] {
        assert!(parse_duration(text).is_err(), "{text}");
    }
}

#[test]
fn a_trackers_key_is_not_shown_but_kept() {
    let text = "https://tracker.example.net/0123456789abcdef/announce?key=fedcba";
    let tracker: Tracker = text.parse().unwrap();
    assert_eq!(
        format!("{tracker} {tracker:?}"),
        "tracker https://tracker.example.net tracker https://tracker.example.net"
    );
    assert_eq!(serde_json::to_value(&tracker).unwrap(), text);
    let back: Tracker = serde_json::from_value(text.into()).unwrap();
    assert_eq!(back, tracker);
    let refused = "ftp://0123456789abcdef".parse::<Tracker>().unwrap_err();
    assert!(!refused.contains("0123"), "{refused}");
}

#[test]
fn lists_of_ports_may_come_from_the_environment() {
    for (text, ports) in
        [("6881,51413", vec![6881, 51_413]), ("[7000]", vec![7000]), ("6969", vec![6969]), ("", vec![])]
    {
        let config = load("", &[("LEAKCHECK_ECHO__SOURCE_PORTS", text)]).unwrap();
        assert_eq!(config.echo.source_ports.iter().map(|port| port.get()).collect::<Vec<_>>(), ports);
    }
    let error = load("", &[("LEAKCHECK_ECHO__SOURCE_PORTS", "6881,70000")]).unwrap_err().to_string();
    assert!(error.contains("LEAKCHECK_ECHO__SOURCE_PORTS"), "{error}");
}

#[test]
fn destinations_print_as_they_are_written_and_keep_what_they_ask() {
    for text in [
        "tcp://[fd18::20]:8989",
        "udp://gluetun:53",
        "icmp://192.168.1.1",
        "icmp://[fd18::20]",
        "https://nas.lan:8443/x",
    ] {
        assert_eq!(text.parse::<Destination>().unwrap().to_string(), text);
    }
    for text in
        ["gluetun:8080", "tcp://gluetun", "icmp://", "icmp://a b", "sctp://gluetun:1", "udp://gluetun:0", "http://", ""]
    {
        assert!(text.parse::<Destination>().is_err(), "{text}");
    }
    let keyed: Destination = "http://gluetun:8080/api?apikey=hunter2".parse().unwrap();
    assert!(!format!("{keyed} {keyed:?}").contains("hunter2"));
    let sent = serde_json::to_string(&keyed).unwrap();
    assert_eq!(serde_json::from_str::<Destination>(&sent).unwrap(), keyed);
    assert!(sent.contains("hunter2"), "the agent has to ask it");
    for text in ["stack", "host", "container:sonarr", "netns:lan", "pid:42"] {
        assert_eq!(text.parse::<Stand>().unwrap().to_string(), text);
    }
    for text in ["sonarr", "container:", "stack:x", "pid:0", "host:1", ""] {
        assert!(text.parse::<Stand>().is_err(), "{text}");
    }
}

/// Programs take their keys in queries: no report, log or error may repeat one.
#[test]
fn what_a_query_asks_for_is_not_shown() {
    let text = "http://192.168.1.50:8080/api?apikey=hunter2&mode=version#part";
    let local: Local = text.parse().unwrap();
    for shown in [local.to_string(), format!("{local:?}")] {
        assert_eq!(shown, "http://192.168.1.50:8080/api?…");
    }
    assert_eq!(local.stated(), text);
    assert_eq!(local.stated().parse::<Local>().unwrap(), local);
    assert_eq!("http://nas/health".parse::<Local>().unwrap().to_string(), "http://nas/health");
    let config = format!("[local]\nmust_reach = [\"{text}\"]\nmust_serve = [\"{text}\"]\n");
    assert!(!format!("{:?}", load(&config, &[]).unwrap().local).contains("hunter2"));
}

/// For editors. `SNAPSHOTS=overwrite cargo test --lib schema` writes it anew.
#[test]
fn the_schema_is_that_of_the_types() {
    let schema = serde_json::to_string_pretty(&schemars::schema_for!(Config)).unwrap() + "\n";
    snapbox::assert_data_eq!(schema, snapbox::file!["../../reports/leakcheck.schema.json"].raw());
}
