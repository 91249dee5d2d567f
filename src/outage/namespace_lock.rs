//! One agent to a network namespace. The lock is an abstract Unix address bound inside the namespace, so it holds against every user, container
//! and machine from which a second run may come, and the kernel takes it back with the last process that has it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use tokio::time::{Instant, sleep};

const NAME: &str = "leakcheck";
const AGAIN: Duration = Duration::from_millis(100);

/// The lock, held until dropped.
pub struct NamespaceLock(UnixDatagram);

impl NamespaceLock {
    /// Takes the lock of the calling thread's network namespace. `None`: another process has had it for all of `patience`; one that is
    /// putting an outage back needs a few seconds.
    ///
    /// # Errors
    /// When the kernel refuses for another reason.
    pub async fn take(patience: Duration) -> io::Result<Option<Self>> {
        let end = Instant::now() + patience;
        let address = SocketAddr::from_abstract_name(NAME)?;
        loop {
            match UnixDatagram::bind_addr(&address) {
                Ok(socket) => return Ok(Some(Self(socket))),
                Err(error) if error.kind() != io::ErrorKind::AddrInUse => return Err(error),
                Err(_) if Instant::now() >= end => return Ok(None),
                Err(_) => sleep(AGAIN).await,
            }
        }
    }
}

impl AsFd for NamespaceLock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
