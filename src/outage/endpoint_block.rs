//! Method `endpoint-block`: packets to and from the VPN server are dropped, as when it dies or the line to it does, and nobody is told: the
//! tunnel stays up and swallows what it is given. Done by an nftables table that belongs to our socket, so that the kernel removes it when
//! this process ends, however it ends. Needs CAP_NET_ADMIN in the stack's namespace, a known server, and Linux 5.12.

use ipnet::IpNet;

use super::link_down::may_change_the_network;
use super::undo::{Undo, told};
use crate::model::evidence::{Proto, Role};
use crate::net::nft::{Batch, Chain, HookPoint, Match, Nft, OWN_TABLE, Policy, Rule, Table, TableFamily, Verdict};
use crate::sensor::allow::Endpoint;
use crate::technique::Context;

/// Before connection tracking and the raw table (-300), so that no rule of the stack comes first.
const PRIORITY: i32 = -310;

/// See the head of this file.
pub(super) struct EndpointBlock {
    /// More than one when the VPN has changed its server in this run.
    servers: Vec<Endpoint>,
    table: Table,
    /// Owns the table while the server is blocked.
    owner: Option<Nft>,
}

impl EndpointBlock {
    /// Whether the server is known and the kernel has tables that go with their owner. To find out, an empty one is made for a moment.
    pub(super) fn check(cx: &Context) -> Result<(), String> {
        let (block, _) = Self::arm(cx, cx.endpoint.as_slice())?;
        may_change_the_network()?;
        let mut batch = Batch::new();
        batch.add_owned_table(&block.table);
        let made = Nft::open().and_then(|mut nft| nft.commit(batch));
        made.map_err(|error| format!("the kernel has no nftables tables with an owner (Linux 5.12): {}", told(&error)))
    }

    /// `servers` are all that the VPN has been seen to use.
    pub(super) fn arm(cx: &Context, servers: &[Endpoint]) -> Result<(Self, Undo), String> {
        if !cx.links.iter().any(|link| link.role == Role::Tunnel) {
            return Err("no tunnel was found in the namespace".to_owned());
        }
        if servers.is_empty() {
            return Err("the VPN server is not known: set vpn.endpoint".to_owned());
        }
        let name = format!("{OWN_TABLE}{:08x}", rand::random::<u32>());
        let undo = Undo::Table { name: name.clone() };
        Ok((Self { servers: servers.to_vec(), table: Table::new(TableFamily::Inet, &name), owner: None }, undo))
    }

    pub(super) fn down(&mut self) -> Result<String, String> {
        let mut batch = Batch::new();
        batch.add_owned_table(&self.table);
        for (name, hook) in [("out", HookPoint::Output), ("in", HookPoint::Input)] {
            let chain = Chain { priority: PRIORITY, ..Chain::filter(name, hook, Policy::Accept) };
            batch.add_chain(&self.table, &chain);
        }
        for Endpoint { address, proto, .. } in &self.servers {
            let protocol = match proto {
                Proto::Tcp => libc::IPPROTO_TCP,
                _ => libc::IPPROTO_UDP,
            } as u8;
            let (host, port) = (IpNet::from(address.ip()), address.port());
            for (name, host, ports) in [
                ("out", Match::Destination(host), Match::DestinationPorts(port, port)),
                ("in", Match::Source(host), Match::SourcePorts(port, port)),
            ] {
                let rule = Rule::new(Verdict::Drop).when(host).when(Match::Protocol(protocol)).when(ports);
                batch.append_rule(&self.table, name, &rule.counted().comment("leakcheck"));
            }
        }
        let mut owner = Nft::open().map_err(|error| told(&error))?;
        owner.commit(batch).map_err(|error| told(&error))?;
        self.owner = Some(owner);
        let servers: Vec<String> = self.servers.iter().map(|server| server.address.to_string()).collect();
        Ok(format!("the kernel drops what goes to {} and comes from there", servers.join(" and ")))
    }

    /// The kernel removes the table with its owner's socket; it is asked to do so first.
    pub(super) fn release(&mut self) -> Result<(), String> {
        let Some(mut owner) = self.owner.take() else { return Ok(()) };
        let mut batch = Batch::new();
        batch.delete_table(&self.table);
        owner.commit(batch).map_err(|error| told(&error))
    }
}
