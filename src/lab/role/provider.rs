//! The VPN provider: WireGuard, exits, and the resolver inside the tunnel.

use anyhow::Context;
use ipnet::IpNet;

use super::{Part, place};
use crate::lab::internet::{self, Servers};
use crate::lab::leak::{Action, Leak};
use crate::lab::line::Quality;
use crate::lab::plan;
use crate::lab::provider::{self, ProviderConfig};
use crate::lab::variant::Protocol;
use crate::lab::wireguard::{PrivateKey, public_key_from_base64};
use crate::lab::witness::Journal;

pub(super) async fn start(leak: Option<&Leak>, journal: &Journal) -> anyhow::Result<Part> {
    let uplink = place::link_in(plan::net(plan::EXIT_NETS[0]))?;
    let end = plan::provider().families(false);
    // Docker gave it the first one.
    place::take(&uplink, &end.addresses[1..])?;
    place::default_route(end.gateways.first().map(|gateway| (*gateway, uplink.as_str())))?;
    let private_key = PrivateKey::from_base64(&place::required::<String>(&["WIREGUARD_PRIVATE_KEY"])?)?;
    let client = public_key_from_base64(&place::required::<String>(&["WIREGUARD_PUBLIC_KEY"])?)?;
    let mut exit = plan::ip(plan::EXIT);
    for action in leak.into_iter().flat_map(Leak::actions) {
        if let Action::Exit { v4, .. } = action {
            exit = *v4;
        }
    }
    let config = ProviderConfig {
        private_key,
        protocol: Protocol::default(),
        port: plan::socket(plan::ENDPOINT).port(),
        uplink,
        mtu: plan::TUNNEL_MTU,
        addresses: vec![IpNet::from(plan::ip(plan::TUNNEL_RESOLVER))],
        clients: vec![(client, vec![plan::net(plan::CLIENT)])],
        exits: vec![exit],
        line: Quality::default(),
    };
    let provider = provider::run(&config).await.context("start the VPN provider")?;
    let mut servers = Servers::default();
    let resolver = internet::recursor("provider resolver", journal, plan::ip(plan::EXIT));
    servers.dns(&[plan::ip(plan::TUNNEL_RESOLVER)], None, resolver)?;
    Ok(Part::holding(servers, provider))
}
