//! A sealed stack is sealed, and works.

use super::tools::{Wire, ask, exit, get, in_stack, ping_bound, put_status, send_bound};
use anyhow::{Result, ensure};
use leakcheck::lab::{Lab, LabSpec, PrivateDir, Variant};
use rustls::pki_types::pem::PemObject;
use std::time::{Duration, Instant};

pub const TRIALS: &[(&str, crate::Body)] = &[
    ("sealed::starts", starts),
    ("sealed::exit_is_the_providers", exit_is_the_providers),
    ("sealed::uplink_is_closed", uplink_is_closed),
    ("sealed::stops_and_starts", stops_and_starts),
    ("sealed::works_without_ipv6", works_without_ipv6),
    ("sealed::web_is_signed_by_the_labs_authority", web_is_signed_by_the_labs_authority),
    ("sealed::home_has_the_isps_resolver", home_has_the_isps_resolver),
    ("sealed::waits_to_be_killed", waits_to_be_killed),
];

fn starts(world: PrivateDir) -> Result<()> {
    let begun = Instant::now();
    let lab = Lab::start(&world, LabSpec::sealed())?;
    eprintln!("started in {:?}", begun.elapsed());
    drop(lab);
    Ok(())
}

/// For `kernel::sigkill_leaves_nothing`: tells its namespaces and waits. By itself, where nobody reads, it ends at once.
fn waits_to_be_killed(world: PrivateDir) -> Result<()> {
    use std::io::Write;
    let lab = Lab::start(&world, LabSpec::sealed())?;
    let wires = lab.topology();
    let realms =
        [&wires.stack, &wires.neighbour, &wires.lan_host, &wires.home, &wires.isp, &wires.internet, &wires.provider];
    let inodes = realms.into_iter().map(|realm| Ok(realm.netns().inode()?.to_string())).collect::<Result<Vec<_>>>()?;
    let mut out = std::io::stdout();
    writeln!(out, "{}", inodes.join(" "))?;
    out.flush()?;
    if std::env::var_os("LEAKCHECK_LAB_WAIT").is_some() {
        std::thread::sleep(Duration::from_secs(60));
    }
    Ok(())
}

fn exit_is_the_providers(world: PrivateDir) -> Result<()> {
    let lab = Lab::start(&world, LabSpec::sealed())?;
    let begun = Instant::now();
    ensure!(exit(&lab, false)?.to_string() == "198.51.100.3");
    eprintln!("first answer after {:?}", begun.elapsed());
    ensure!(exit(&lab, true)?.to_string() == "2001:db8:51::3");
    ensure!(ask(&lab, "127.0.0.1:53", "sealed-1.example.com".to_owned())?, "the stack's resolver does not resolve");
    let askers = lab.journal().dns_askers("authority", "sealed-1.example.com.");
    ensure!(askers.iter().all(|ip| ip.to_string() == "198.51.100.3") && !askers.is_empty(), "{askers:?}");
    ensure!(ask(&lab, "8.8.8.8:53", "sealed-2.example.com".to_owned())?, "8.8.8.8 does not answer");
    for at in ["192.168.1.50:80", "172.18.0.20:8989"] {
        in_stack(&lab, move || get(at.parse()?, "local", "/"))??;
    }
    get("172.18.0.10:8080".parse()?, "stack", "/")?;
    // The home itself stands on the bare line.
    ensure!(get("104.26.12.205:80".parse()?, "api.ipify.org", "/")? == "203.0.113.10");
    Ok(())
}

fn uplink_is_closed(world: PrivateDir) -> Result<()> {
    let lab = Lab::start(&world, LabSpec::sealed())?;
    let wire = Wire::listen()?;
    for to in ["8.8.8.8:53", "1.1.1.1:443", "[2001:4860:4860::8888]:53", "239.192.152.143:6771"] {
        let errno = send_bound(&lab, "eth0", to, b"marked")?;
        ensure!(errno == Some(libc::EPERM), "{to}: {errno:?}");
    }
    for to in ["8.8.8.8", "2001:4860:4860::8888"] {
        ensure!(ping_bound(&lab, to)? == Some(libc::EPERM), "{to}");
    }
    let seen = wire.finish()?;
    ensure!(seen.is_empty(), "{seen:?}");
    Ok(())
}

fn stops_and_starts(world: PrivateDir) -> Result<()> {
    let lab = Lab::start(&world, LabSpec::sealed())?;
    exit(&lab, false)?;
    let wire = Wire::listen()?;
    let answer = put_status(&lab, "stopped")?;
    ensure!(answer.contains("\"stopped\""), "{answer}");
    ensure!(exit(&lab, false).is_err(), "there is an exit although the VPN is stopped");
    in_stack(&lab, || get("192.168.1.50:80".parse()?, "local", "/"))??;
    let answer = put_status(&lab, "running")?;
    ensure!(answer.contains("\"running\""), "{answer}");
    let begun = Instant::now();
    ensure!(exit(&lab, false)?.to_string() == "198.51.100.3");
    ensure!(begun.elapsed() < Duration::from_secs(2), "recovery took {:?}", begun.elapsed());
    let seen = wire.finish()?;
    ensure!(seen.is_empty(), "{seen:?}");
    Ok(())
}

fn works_without_ipv6(world: PrivateDir) -> Result<()> {
    let lab = Lab::start(&world, LabSpec { variant: Variant::named("ipv4-only")?, ..LabSpec::sealed() })?;
    ensure!(exit(&lab, false)?.to_string() == "198.51.100.3");
    ensure!(exit(&lab, true).is_err(), "there is IPv6");
    ensure!(send_bound(&lab, "eth0", "8.8.8.8:53", b"marked")? == Some(libc::EPERM));
    ensure!(!lab.config_toml().contains("2001:db8"), "{}", lab.config_toml());
    Ok(())
}

/// Over HTTPS, by name, with the lab's certificate authority and no other: what the checker's own client does.
fn web_is_signed_by_the_labs_authority(world: PrivateDir) -> Result<()> {
    let lab = Lab::start(&world, LabSpec::sealed())?;
    let pem = std::fs::read(lab.ca())?;
    let text = in_stack(&lab, move || -> Result<String> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(rustls::pki_types::CertificateDer::from_pem_slice(&pem)?)?;
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .no_proxy()
            .resolve("am.i.mullvad.net", "45.83.223.233:443".parse()?)
            .timeout(Duration::from_secs(5))
            .build()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let get = async { client.get("https://am.i.mullvad.net/json").send().await?.text().await };
        Ok(runtime.block_on(get)?)
    })??;
    let json: serde_json::Value = serde_json::from_str(&text)?;
    ensure!(json["ip"] == "198.51.100.3" && json["mullvad_exit_ip"] == true, "{text}");
    Ok(())
}

fn home_has_the_isps_resolver(world: PrivateDir) -> Result<()> {
    let lab = Lab::start(&world, LabSpec::sealed())?;
    ensure!(std::fs::read_to_string("/etc/resolv.conf")?.trim() == "nameserver 203.0.113.53");
    ensure!(std::fs::read_to_string(lab.stack_resolv_conf())?.trim() == "nameserver 127.0.0.1");
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(Duration::from_secs(3)))?;
    socket.send_to(&super::tools::question("home.example.com"), "203.0.113.53:53")?;
    let length = socket.recv(&mut [0; 512])?;
    ensure!(length > 12);
    let askers = lab.journal().dns_askers("authority", "home.example.com.");
    ensure!(askers.iter().map(ToString::to_string).collect::<Vec<_>>() == ["203.0.113.53"], "{askers:?}");
    Ok(())
}
