//! Method `endpoint-block`: packets to and from the VPN server are dropped, as when it dies or the line to it does, and nobody is told: the
//! tunnel stays up and swallows what it is given. Done by an nftables table that belongs to our socket, so that the kernel removes it when
//! this process ends, however it ends. Needs CAP_NET_ADMIN in the stack's namespace, a known server, and Linux 5.12.

use ipnet::IpNet;

use super::link_down::may_change_the_network;
use super::undo::{Undo, told};
use crate::model::evidence::{Proto, Role};
use crate::net::nft::{Batch, Chain, HookPoint, Match, Nft, Policy, Rule, Table, TableFamily, Verdict};
use crate::sensor::allow::Endpoint;
use crate::technique::Context;

/// Before connection tracking and the raw table (-300), so that no rule of the stack comes first.
const PRIORITY: i32 = -310;

/// See the head of this file.
pub(super) struct EndpointBlock {
    endpoint: Endpoint,
    table: Table,
    /// Owns the table while the server is blocked.
    owner: Option<Nft>,
}

impl EndpointBlock {
    /// Whether the server is known and the kernel has tables that go with their owner. To find out, an empty one is made for a moment.
    pub(super) fn check(cx: &Context) -> Result<(), String> {
        let (block, _) = Self::arm(cx)?;
        may_change_the_network()?;
        let mut batch = Batch::new();
        batch.add_owned_table(&block.table);
        let made = Nft::open().and_then(|mut nft| nft.commit(batch));
        made.map_err(|error| format!("the kernel has no nftables tables with an owner (Linux 5.12): {}", told(&error)))
    }

    pub(super) fn arm(cx: &Context) -> Result<(Self, Undo), String> {
        if !cx.links.iter().any(|link| link.role == Role::Tunnel) {
            return Err("no tunnel was found in the namespace".to_owned());
        }
        let endpoint = cx.endpoint.clone().ok_or("the VPN server is not known: set vpn.endpoint")?;
        let name = format!("leakcheck-{:08x}", rand::random::<u32>());
        let undo = Undo::Table { name: name.clone() };
        Ok((Self { endpoint, table: Table::new(TableFamily::Inet, &name), owner: None }, undo))
    }

    pub(super) fn down(&mut self) -> Result<String, String> {
        let Endpoint { address, proto, .. } = self.endpoint;
        let protocol = match proto {
            Proto::Tcp => libc::IPPROTO_TCP,
            _ => libc::IPPROTO_UDP,
        } as u8;
        let (host, port) = (IpNet::from(address.ip()), address.port());
        let rule = |host, ports| {
            Rule::new(Verdict::Drop)
                .when(host)
                .when(Match::Protocol(protocol))
                .when(ports)
                .counted()
                .comment("leakcheck")
        };
        let mut batch = Batch::new();
        batch.add_owned_table(&self.table);
        for (name, hook, rule) in [
            ("out", HookPoint::Output, rule(Match::Destination(host), Match::DestinationPorts(port, port))),
            ("in", HookPoint::Input, rule(Match::Source(host), Match::SourcePorts(port, port))),
        ] {
            let chain = Chain { priority: PRIORITY, ..Chain::filter(name, hook, Policy::Accept) };
            batch.add_chain(&self.table, &chain);
            batch.append_rule(&self.table, name, &rule);
        }
        let mut owner = Nft::open().map_err(|error| told(&error))?;
        owner.commit(batch).map_err(|error| told(&error))?;
        self.owner = Some(owner);
        Ok(format!("the kernel drops what goes to {address} and comes from there"))
    }

    /// The kernel removes the table with its owner's socket; it is asked to do so first.
    pub(super) fn release(&mut self) -> Result<(), String> {
        let Some(mut owner) = self.owner.take() else { return Ok(()) };
        let mut batch = Batch::new();
        batch.delete_table(&self.table);
        owner.commit(batch).map_err(|error| told(&error))
    }
}
