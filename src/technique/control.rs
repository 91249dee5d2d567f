//! A neighbour of our own, on the loopback, that answers: that nobody else did means something only where it was heard. It is asked by the
//! very code that asks the others.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::UdpSocket;
use tokio::task::{JoinHandle, spawn_local};

/// Answers as long as it lives.
pub(super) struct Responder {
    /// Where it is.
    pub at: SocketAddr,
    task: JoinHandle<()>,
}

impl Responder {
    /// Starts one whose answer to each question is what `answer` makes of it.
    ///
    /// # Errors
    /// When there is no socket to be had on the loopback.
    pub(super) async fn start(answer: impl Fn(&[u8]) -> Vec<u8> + 'static) -> io::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let at = socket.local_addr()?;
        let task = spawn_local(async move {
            let mut question = [0; 1500];
            while let Ok((length, from)) = socket.recv_from(&mut question).await {
                // That it does not come shows where it is waited for.
                let _ = socket.send_to(&answer(question.get(..length).unwrap_or_default()), from).await;
            }
        });
        Ok(Self { at, task })
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.task.abort();
    }
}
