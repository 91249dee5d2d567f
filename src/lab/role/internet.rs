//! The ISP with its resolver, and the internet behind it, in one container.

use ipnet::IpNet;

use super::{Part, place};
use crate::lab::internet::{self, InternetConfig};
use crate::lab::plan;
use crate::lab::witness::{Journal, LabCa};
use crate::net::route::{RouteSpec, Rtnetlink};
use crate::net::sysctl;

/// Key of the certificate authority of `fixtures/compose/lab-ca.pem`. It is no secret, and must be trusted by nothing but this fixture.
const CA_KEY: &str = include_str!("../../../fixtures/compose/lab-ca-key.pem");

pub(super) fn start(journal: &Journal) -> anyhow::Result<Part> {
    let (line, transit) = (place::link_in(plan::net(plan::HOME_NET))?, place::link_in(plan::net(plan::EXIT_NETS[0]))?);
    place::take(&line, &plan::isp_line().families(false).addresses)?;
    place::take(&transit, &plan::isp_provider().families(false).addresses)?;
    // There is nothing beyond this internet: what it does not have, it says is unreachable.
    place::default_route(None)?;
    sysctl::set("ipv4/ip_forward", "1")?;
    let provider = plan::provider().addresses[0].addr();
    Rtnetlink::open()?.add_route(&RouteSpec::via(plan::net(plan::FOREIGN_NET), provider))?;
    let ca = LabCa::from_key(CA_KEY)?;
    let networks: Vec<IpNet> = vec![plan::net(plan::EXIT_NETS[0])];
    let mut servers = internet::run(&InternetConfig {
        ipv6: false,
        provider: networks,
        ca: &ca,
        journal: journal.clone(),
        odd: &[],
    })?;
    let resolver = plan::ip(plan::ISP_RESOLVER);
    servers.dns(&[resolver], None, internet::recursor("isp resolver", journal, resolver))?;
    Ok(servers.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_belongs_to_the_certificate_that_the_fixture_trusts() {
        let ours = LabCa::from_key(CA_KEY).expect("a key");
        let trusted = include_str!("../../../fixtures/compose/lab-ca.pem");
        assert_eq!(public_key(&ours.pem()), public_key(trusted));
    }

    /// The public key of a certificate over P-256: the point that follows the name of the curve.
    fn public_key(pem: &str) -> Vec<u8> {
        use base64::Engine as _;
        const CURVE: [u8; 10] = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
        let text: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
        let der = base64::engine::general_purpose::STANDARD.decode(text).expect("base64");
        let at = der.windows(CURVE.len()).position(|window| window == CURVE).expect("a key over P-256");
        der[at + CURVE.len()..][..68].to_vec()
    }
}
