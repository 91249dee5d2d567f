//! A gateway that tells its external address over NAT-PMP (RFC 6886, section 3.2). It maps nothing.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::UdpSocket;

use super::internet::{ServerError, Servers};

/// Version 0, opcode 0: what is your external address?
const QUESTION: [u8; 2] = [0, 0];
/// Answers have the highest bit of the opcode set.
const ANSWER: u8 = 128;

/// Answers at `listen`, in the calling thread's network namespace and runtime.
///
/// # Errors
/// When the port cannot be taken.
pub fn serve(listen: SocketAddr, external: Ipv4Addr) -> Result<Servers, ServerError> {
    let bind = || {
        let socket = std::net::UdpSocket::bind(listen)?;
        socket.set_nonblocking(true)?;
        UdpSocket::from_std(socket)
    };
    let socket = bind().map_err(|error| ServerError::Bind(listen, error))?;
    let mut servers = Servers::default();
    servers.task(async move {
        let mut question = [0; 64];
        while let Ok((length, from)) = socket.recv_from(&mut question).await {
            if question[..length] != QUESTION {
                continue;
            }
            let mut answer = vec![0, ANSWER, 0, 0, 0, 0, 0, 1];
            answer.extend(external.octets());
            // Whoever asked and went away asks again.
            let _ = socket.send_to(&answer, from).await;
        }
    });
    Ok(servers)
}
