//! Addresses as BitTorrent packs them: the octets of an address, mostly with two of a port behind (BEP 5, 7, 23, 24, 32, 42). Pure.

use std::net::{IpAddr, SocketAddr};

/// An address alone, of 4 or 16 octets.
pub fn address(octets: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(octets).map(IpAddr::from).or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from)).ok()
}

/// An address and a port, of 6 or 18 octets.
pub fn address_and_port(octets: &[u8]) -> Option<SocketAddr> {
    let (ip, port) = octets.split_last_chunk::<2>()?;
    Some(SocketAddr::new(address(ip)?, u16::from_be_bytes(*port)))
}

/// Addresses and ports one after the other; what is left over at the end is left out.
pub fn list(octets: &[u8], v6: bool) -> impl Iterator<Item = SocketAddr> {
    octets.chunks_exact(if v6 { 18 } else { 6 }).filter_map(address_and_port)
}
