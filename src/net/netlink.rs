//! A small blocking netlink client: requests that are acknowledged, dumps, and batches whose every error is reported.
//!
//! It moves payload bytes and knows nothing of their meaning: what the kernel sent can be kept, and be sent again, with
//! no attribute lost to a parser that did not know it. RFC 3549; `include/uapi/linux/netlink.h`.

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR};
use netlink_sys::{Socket, SocketAddr};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

/// `struct nlmsghdr`: length, type, flags, sequence number, port id.
const HEADER: usize = 16;
/// The kernel answers at once; a reply that takes longer never comes.
const REPLY_TIMEOUT: Duration = Duration::from_secs(5);
/// The errno and the header of the refused request stand before the extended-acknowledgement attributes.
const ERROR_FIXED: usize = 4 + HEADER;
/// One answer to one request is smaller than a page.
const ANSWER_ROOM: usize = 16 * 1024;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;
/// How often a dump is taken again when the kernel says that the table changed meanwhile.
const DUMP_ATTEMPTS: usize = 10;

/// Why a netlink exchange did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The socket itself failed.
    #[error("{0} a netlink socket")]
    Socket(&'static str, #[source] io::Error),
    /// The kernel refused the request; the text is its own explanation, where it gave one.
    #[error("get the kernel's consent{}", .explanation.as_ref().map(|t| format!(" ({t})")).unwrap_or_default())]
    Refused {
        /// Extended acknowledgement text.
        explanation: Option<String>,
        /// The errno.
        #[source]
        source: io::Error,
    },
    /// The kernel's message was shorter than its own header says.
    #[error("read a truncated netlink message")]
    Truncated,
    /// The table kept changing while it was read.
    #[error("read a table that never stood still")]
    Unsettled,
}

impl NetlinkError {
    /// The errno with which the kernel refused, if it did.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}

/// A message of the kernel, or one for it: the type and the payload after `nlmsghdr`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// `nlmsg_type`.
    pub kind: u16,
    /// `nlmsg_flags`, of which `NLM_F_REQUEST` and `NLM_F_ACK` are added on sending.
    pub flags: u16,
    /// What follows the header.
    pub payload: Vec<u8>,
}

/// A netlink socket in the network namespace in which it was opened.
pub struct Client {
    socket: Socket,
    sequence: u32,
}

impl Client {
    /// Opens a socket for `protocol` (`NETLINK_ROUTE`, `NETLINK_NETFILTER`) in the current network namespace.
    ///
    /// # Errors
    /// When the socket cannot be made, bound or given its options.
    pub fn open(protocol: isize) -> Result<Self, NetlinkError> {
        let mut socket = Socket::new(protocol).map_err(|e| NetlinkError::Socket("open", e))?;
        socket.bind_auto().map_err(|e| NetlinkError::Socket("bind", e))?;
        socket.set_ext_ack(true).map_err(|e| NetlinkError::Socket("configure", e))?;
        // A large ruleset's dump outgrows the default; where the limit is lower the kernel clamps it.
        socket.set_rx_buf_sz(1_u32 << 20).map_err(|e| NetlinkError::Socket("configure", e))?;
        let client = Self { socket, sequence: 0 };
        client.set_timeout(Some(REPLY_TIMEOUT))?;
        Ok(client)
    }

    /// How long a read may block; `None` is for ever.
    ///
    /// # Errors
    /// When the kernel refuses the option.
    pub fn set_timeout(&self, timeout: Option<Duration>) -> Result<(), NetlinkError> {
        socket2::SockRef::from(&Borrowed(self.socket.as_raw_fd()))
            .set_read_timeout(timeout)
            .map_err(|e| NetlinkError::Socket("configure", e))
    }

    /// Joins a multicast group, for [`Client::listen`].
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn join(&mut self, group: u32) -> Result<(), NetlinkError> {
        self.socket.add_membership(group).map_err(|e| NetlinkError::Socket("subscribe", e))
    }

    /// Blocks until the kernel sends messages of a joined group.
    ///
    /// # Errors
    /// When reading fails, also with `WouldBlock` after the timeout.
    pub fn listen(&mut self) -> Result<Vec<Message>, NetlinkError> {
        Ok(split(&self.receive()?)?.into_iter().map(|(message, _)| message).collect())
    }

    /// Sends one request and waits for its acknowledgement.
    ///
    /// # Errors
    /// The kernel's refusal, or a failure of the socket.
    pub fn request(&mut self, message: &Message) -> Result<(), NetlinkError> {
        let mut refused = Vec::new();
        self.batch(std::slice::from_ref(message), &[NLM_F_ACK], &mut refused)?;
        refused.into_iter().next().map_or(Ok(()), |(_, error)| Err(error))
    }

    /// Sends `messages` as one datagram, those whose flag holds `NLM_F_ACK` being acknowledged; every refusal goes to
    /// `refused` with the index of its message.
    ///
    /// # Errors
    /// A failure of the socket.
    pub fn batch(
        &mut self,
        messages: &[Message],
        acknowledge: &[u16],
        refused: &mut Vec<(usize, NetlinkError)>,
    ) -> Result<(), NetlinkError> {
        let first = self.sequence.wrapping_add(1);
        let mut datagram = Vec::new();
        for (message, ack) in messages.iter().zip(acknowledge) {
            self.sequence = self.sequence.wrapping_add(1);
            append(&mut datagram, message, NLM_F_REQUEST | ack, self.sequence);
        }
        self.send(&datagram)?;
        let mut waiting = acknowledge.iter().filter(|ack| **ack != 0).count();
        while waiting > 0 {
            for (message, sequence) in split(&self.receive()?)? {
                if message.kind != NLMSG_ERROR {
                    continue;
                }
                let index = sequence.wrapping_sub(first) as usize;
                if index >= messages.len() {
                    continue;
                }
                if let Err(error) = acknowledgement(&message) {
                    // A batch that is refused as a whole (no permission, say) gets this one answer and no other.
                    let whole = acknowledge[index] == 0;
                    refused.push((index, error));
                    if whole {
                        return Ok(());
                    }
                }
                waiting = waiting.saturating_sub(1);
            }
        }
        Ok(())
    }

    /// Sends requests of which each has exactly one answer, as one datagram, and hands each answer to `take`: the place of its request,
    /// and the type and payload of the message, or the kernel's refusal. Made for many: nothing is copied.
    ///
    /// # Errors
    /// A failure of the socket.
    pub fn exchange(
        &mut self,
        messages: &[Message],
        mut take: impl FnMut(usize, Result<(u16, &[u8]), NetlinkError>),
    ) -> Result<(), NetlinkError> {
        let first = self.sequence.wrapping_add(1);
        let mut datagram = Vec::with_capacity(messages.len() * 64);
        for message in messages {
            self.sequence = self.sequence.wrapping_add(1);
            append(&mut datagram, message, NLM_F_REQUEST, self.sequence);
        }
        self.send(&datagram)?;
        let mut room = vec![0; ANSWER_ROOM];
        let mut waiting = messages.len();
        while waiting > 0 {
            let length = match self.socket.recv(&mut &mut room[..], 0) {
                Ok(length) => length,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(NetlinkError::Socket("read from", e)),
            };
            let mut rest = &room[..length];
            while rest.len() >= HEADER {
                let length = u32::from_ne_bytes(field(rest, 0)) as usize;
                let body = rest.get(HEADER..length).ok_or(NetlinkError::Truncated)?;
                let (kind, flags) = (u16::from_ne_bytes(field(rest, 4)), u16::from_ne_bytes(field(rest, 6)));
                let place = u32::from_ne_bytes(field(rest, 8)).wrapping_sub(first) as usize;
                if place < messages.len() {
                    waiting = waiting.saturating_sub(1);
                    let refusal = if kind == NLMSG_ERROR {
                        acknowledgement(&Message { kind, flags, payload: body.to_vec() })
                    } else {
                        Ok(())
                    };
                    take(place, refusal.map(|()| (kind, body)));
                }
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            }
        }
        Ok(())
    }

    /// Asks for a table and returns every entry; taken again when the kernel says that it changed while being read.
    ///
    /// # Errors
    /// The kernel's refusal, a failure of the socket, or a table that changes without end.
    pub fn dump(&mut self, kind: u16, payload: &[u8]) -> Result<Vec<Message>, NetlinkError> {
        for _ in 0..DUMP_ATTEMPTS {
            if let Some(entries) = self.dump_once(kind, payload)? {
                return Ok(entries);
            }
        }
        Err(NetlinkError::Unsettled)
    }

    fn dump_once(&mut self, kind: u16, payload: &[u8]) -> Result<Option<Vec<Message>>, NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut datagram = Vec::new();
        let request = Message { kind, flags: 0, payload: payload.to_vec() };
        append(&mut datagram, &request, NLM_F_REQUEST | NLM_F_DUMP, self.sequence);
        self.send(&datagram)?;
        let (mut entries, mut consistent) = (Vec::new(), true);
        loop {
            for (message, sequence) in split(&self.receive()?)? {
                if sequence != self.sequence {
                    continue;
                }
                consistent &= message.flags & NLM_F_DUMP_INTR == 0;
                match message.kind {
                    NLMSG_DONE => return Ok(consistent.then_some(entries)),
                    NLMSG_ERROR => acknowledgement(&message)?,
                    _ => entries.push(message),
                }
            }
        }
    }

    fn send(&self, datagram: &[u8]) -> Result<(), NetlinkError> {
        self.socket
            .send_to(datagram, &SocketAddr::new(0, 0), 0)
            .map(|_| ())
            .map_err(|e| NetlinkError::Socket("write to", e))
    }

    fn receive(&self) -> Result<Vec<u8>, NetlinkError> {
        loop {
            match self.socket.recv_from_full() {
                Ok((datagram, _)) => return Ok(datagram),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(NetlinkError::Socket("read from", e)),
            }
        }
    }
}

/// `netlink_sys::Socket` has no `AsFd`, which `socket2` asks for.
struct Borrowed(RawFd);

impl std::os::fd::AsFd for Borrowed {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        // SAFETY: the only user borrows from a `Client` whose socket stays open for the whole call.
        unsafe { std::os::fd::BorrowedFd::borrow_raw(self.0) }
    }
}

fn append(datagram: &mut Vec<u8>, message: &Message, flags: u16, sequence: u32) {
    let length = HEADER + message.payload.len();
    datagram.extend((length as u32).to_ne_bytes());
    datagram.extend(message.kind.to_ne_bytes());
    datagram.extend((message.flags | flags).to_ne_bytes());
    datagram.extend(sequence.to_ne_bytes());
    datagram.extend(0_u32.to_ne_bytes());
    datagram.extend(&message.payload);
    datagram.resize(datagram.len().next_multiple_of(4), 0);
}

fn split(mut datagram: &[u8]) -> Result<Vec<(Message, u32)>, NetlinkError> {
    let mut messages = Vec::new();
    while datagram.len() >= HEADER {
        let length = u32::from_ne_bytes(field(datagram, 0)) as usize;
        let body = datagram.get(HEADER..length).ok_or(NetlinkError::Truncated)?;
        let kind = u16::from_ne_bytes(field(datagram, 4));
        let flags = u16::from_ne_bytes(field(datagram, 6));
        messages.push((Message { kind, flags, payload: body.to_vec() }, u32::from_ne_bytes(field(datagram, 8))));
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(messages)
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut value = [0; N];
    value.copy_from_slice(&bytes[at..at + N]);
    value
}

fn acknowledgement(message: &Message) -> Result<(), NetlinkError> {
    if message.payload.len() < 4 {
        return Err(NetlinkError::Truncated);
    }
    let code = i32::from_ne_bytes(field(&message.payload, 0));
    if code == 0 {
        return Ok(());
    }
    let explanation = (message.flags & NLM_F_ACK_TLVS != 0)
        .then(|| {
            // Unless NLM_F_CAPPED is set the refused request is echoed in full before the attributes.
            let echoed =
                message.payload.get(4..8).map_or(0, |_| u32::from_ne_bytes(field(&message.payload, 4)) as usize);
            let capped = message.flags & netlink_packet_core::NLM_F_CAPPED != 0;
            let start = if capped { ERROR_FIXED } else { 4 + echoed.next_multiple_of(4) };
            attributes(message.payload.get(start..).unwrap_or_default())
                .find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG)
                .map(|(_, text)| String::from_utf8_lossy(text).trim_end_matches('\0').to_owned())
        })
        .flatten();
    Err(NetlinkError::Refused { explanation, source: io::Error::from_raw_os_error(code.wrapping_neg()) })
}

/// The attributes of a payload, type flags removed; stops at the first that is malformed.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        if bytes.len() < 4 {
            return None;
        }
        let length = usize::from(u16::from_ne_bytes(field(bytes, 0)));
        let kind = u16::from_ne_bytes(field(bytes, 2)) & netlink_packet_core::NLA_TYPE_MASK;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// Appends one attribute, padded, as [`attributes`] reads it.
pub fn put_attribute(payload: &mut Vec<u8>, kind: u16, value: &[u8]) {
    payload.extend(((4 + value.len()) as u16).to_ne_bytes());
    payload.extend(kind.to_ne_bytes());
    payload.extend(value);
    payload.resize(payload.len().next_multiple_of(4), 0);
}

/// The bytes of a typed message of one of the netlink-packet crates.
pub fn emit(message: &impl netlink_packet_core::Emitable) -> Vec<u8> {
    let mut bytes = vec![0; message.buffer_len()];
    message.emit(&mut bytes);
    bytes
}

/// Reads a datagram as if the kernel had sent it, for [`crate::untrusted`].
#[cfg(feature = "lab")]
pub(crate) fn understand(datagram: &[u8]) {
    for (message, _) in split(datagram).unwrap_or_default() {
        let _ = acknowledgement(&message);
        let _ = attributes(&message.payload).map(|(_, value)| value.len()).sum::<usize>();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_and_attributes_survive_the_wire_format() {
        let mut payload = vec![7, 7, 7, 7];
        put_attribute(&mut payload, 3, b"abc");
        put_attribute(&mut payload, 4 | netlink_packet_core::NLA_F_NESTED, b"");
        let mut datagram = Vec::new();
        let message = Message { kind: 20, flags: 1, payload };
        append(&mut datagram, &message, 4, 99);
        append(&mut datagram, &message, 4, 100);
        let messages = split(&datagram).unwrap();
        assert_eq!(messages.len(), 2);
        assert_eq!(messages[1].1, 100);
        assert_eq!(messages[0].0.flags, 5);
        let found: Vec<_> = attributes(&messages[0].0.payload[4..]).collect();
        assert_eq!(found, [(3, &b"abc"[..]), (4, &b""[..])]);
    }

    #[test]
    fn a_cut_message_is_an_error() {
        let mut datagram = Vec::new();
        append(&mut datagram, &Message { kind: 20, flags: 0, payload: vec![1; 8] }, 0, 1);
        datagram.truncate(20);
        assert!(matches!(split(&datagram), Err(NetlinkError::Truncated)));
    }

    #[test]
    fn the_kernels_own_words_are_kept() {
        let mut payload = (-libc::EINVAL).to_ne_bytes().to_vec();
        payload.extend([0; HEADER]);
        put_attribute(&mut payload, NLMSGERR_ATTR_MSG, b"Invalid prefix\0");
        let flags = NLM_F_ACK_TLVS | netlink_packet_core::NLM_F_CAPPED;
        let error = acknowledgement(&Message { kind: NLMSG_ERROR, flags, payload }).unwrap_err();
        assert_eq!(error.errno(), Some(libc::EINVAL));
        assert!(error.to_string().contains("Invalid prefix"));
    }
}
