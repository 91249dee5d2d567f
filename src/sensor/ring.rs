//! A packet ring (packet(7), TPACKET_V2): packets of all links, from the network header on, with the kernel's timestamps, in memory that
//! no socket buffer limit bounds. Cooked, so links with and without a link header look alike.

use std::io;
use std::mem::{size_of, zeroed};
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{Ordering, fence};

use libc::{c_int, c_void, sock_filter, sockaddr_ll, tpacket_req, tpacket2_hdr};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use super::filter::SNAP;

/// What the kernel writes before the octets of a cooked packet: its header, the address, and 16 octets (TPACKET2_HDRLEN of linux/if_packet.h,
/// aligned).
const HEAD: usize = 80;
const FRAME_SIZE: usize = HEAD + SNAP as usize;
const BLOCK_SIZE: usize = 64 * 1024;
/// Blocks of a ring as the sensor has it: 10,560 packets. Where routing does not look at the source address most stimuli take the tunnel, and all
/// of them are looked at: 20,000 within a second, of which a reader that waits for the processor must not lose one.
pub const BLOCKS: u16 = 96;
/// What is left of a block stays empty: no packet lies in two.
const FRAMES_PER_BLOCK: usize = BLOCK_SIZE / FRAME_SIZE;

/// A packet as the kernel handed it over.
pub struct Frame<'a> {
    /// Interface index.
    pub index: u32,
    /// EtherType in host byte order.
    pub ether_type: u16,
    /// Octets from the network header on, at most [`super::filter::SNAP`].
    pub octets: &'a [u8],
    /// How many there were on the wire.
    pub length: u32,
    /// Kernel timestamp, CLOCK_REALTIME: seconds and nanoseconds.
    pub time: (i64, i64),
    /// Tag control information of a VLAN tag that the kernel keeps outside the octets.
    pub tag: Option<u16>,
}

/// The socket and its ring.
pub struct Ring {
    socket: OwnedFd,
    memory: NonNull<c_void>,
    blocks: u16,
    next: usize,
}

// SAFETY: the mapping belongs to this value alone and is reachable through `&mut self` only.
unsafe impl Send for Ring {}

impl Ring {
    /// Opens a ring of so many blocks of 110 packets that hears nothing yet: protocol 0 until [`Ring::listen`].
    ///
    /// # Errors
    /// When the kernel refuses: CAP_NET_RAW is missing, or memory.
    pub fn open(blocks: u16) -> io::Result<Ring> {
        // SAFETY: a plain system call; the descriptor is checked before it is owned.
        let raw = check(unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) })?;
        // SAFETY: `raw` is a fresh descriptor that nobody else owns.
        let socket = unsafe { OwnedFd::from_raw_fd(raw) };
        set(socket.as_fd(), libc::SOL_PACKET, libc::PACKET_VERSION, &(libc::tpacket_versions::TPACKET_V2 as c_int))?;
        let request = tpacket_req {
            tp_block_size: BLOCK_SIZE as u32,
            tp_block_nr: blocks.into(),
            tp_frame_size: FRAME_SIZE as u32,
            tp_frame_nr: u32::from(blocks) * FRAMES_PER_BLOCK as u32,
        };
        set(socket.as_fd(), libc::SOL_PACKET, libc::PACKET_RX_RING, &request)?;
        let length = NonZeroUsize::new(usize::from(blocks) * BLOCK_SIZE).ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: the kernel has just allocated a ring of exactly this size for this socket.
        let memory = unsafe {
            mmap(None, length, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED, &socket, 0)?
        };
        Ok(Ring { socket, memory, blocks, next: 0 })
    }

    /// Attaches a filter, atomically replacing the one before.
    pub fn filter(&self, code: &[sock_filter]) -> io::Result<()> {
        attach(self.socket.as_fd(), code)
    }

    /// Begins to hear every protocol on every link, those that come later too. Attach a filter first.
    pub fn listen(&self) -> io::Result<()> {
        // SAFETY: all-zero is a valid sockaddr_ll.
        let mut address: sockaddr_ll = unsafe { zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        // SAFETY: the address is valid for its stated size.
        check(unsafe {
            libc::bind(self.socket.as_raw_fd(), (&raw const address).cast(), size_of::<sockaddr_ll>() as u32)
        })?;
        Ok(())
    }

    /// Packets that the kernel dropped since the last call because the ring was full.
    pub fn drops(&self) -> io::Result<u32> {
        // SAFETY: all-zero is a valid tpacket_stats.
        let mut stats: libc::tpacket_stats = unsafe { zeroed() };
        let mut length = size_of::<libc::tpacket_stats>() as u32;
        // SAFETY: the kernel writes at most `length` octets of a tpacket_stats.
        check(unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut stats).cast(),
                &raw mut length,
            )
        })?;
        Ok(stats.tp_drops)
    }

    /// Waits for packets, at most `milliseconds`.
    pub fn wait(&self, milliseconds: u16) -> io::Result<()> {
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::from(milliseconds)) {
            Ok(_) | Err(nix::Error::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Hands over the next packet, if there is one.
    pub fn next<T>(&mut self, read: impl FnOnce(Frame<'_>) -> T) -> Option<T> {
        let place = self.next / FRAMES_PER_BLOCK * BLOCK_SIZE + self.next % FRAMES_PER_BLOCK * FRAME_SIZE;
        // SAFETY: `next` is below the number of frames, so the slot lies inside the mapping, and FRAME_SIZE keeps slots aligned.
        let header = unsafe { self.memory.cast::<u8>().add(place).cast::<tpacket2_hdr>() };
        // SAFETY: the status word is the only one that kernel and program share; volatile with fences is the protocol of packet(7).
        let status = unsafe { (&raw const (*header.as_ptr()).tp_status).read_volatile() };
        if status & libc::TP_STATUS_USER == 0 {
            return None;
        }
        fence(Ordering::Acquire);
        // SAFETY: TP_STATUS_USER gives the whole slot to this program until the status is handed back below.
        let (head, address, octets) = unsafe {
            let head = header.read();
            let base = header.cast::<u8>();
            let address = base.add(align(size_of::<tpacket2_hdr>())).cast::<sockaddr_ll>().read();
            let from = usize::from(head.tp_net).min(FRAME_SIZE);
            let length = (head.tp_snaplen as usize).min(FRAME_SIZE - from);
            (head, address, std::slice::from_raw_parts(base.add(from).as_ptr(), length))
        };
        let result = read(Frame {
            index: address.sll_ifindex as u32,
            ether_type: u16::from_be(address.sll_protocol),
            octets,
            length: head.tp_len,
            time: (i64::from(head.tp_sec), i64::from(head.tp_nsec)),
            tag: (status & libc::TP_STATUS_VLAN_VALID != 0).then_some(head.tp_vlan_tci),
        });
        fence(Ordering::Release);
        // SAFETY: as above; the slot goes back to the kernel and is not touched again.
        unsafe { (&raw mut (*header.as_ptr()).tp_status).write_volatile(libc::TP_STATUS_KERNEL) };
        self.next = (self.next + 1) % (usize::from(self.blocks) * FRAMES_PER_BLOCK);
        Some(result)
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `open` with this size and nothing borrows from it any more.
        let _ = unsafe { munmap(self.memory, usize::from(self.blocks) * BLOCK_SIZE) };
    }
}

/// Attaches a classic BPF filter to a socket (SO_ATTACH_FILTER, socket(7)).
pub fn attach(socket: BorrowedFd<'_>, code: &[sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog { len: code.len() as u16, filter: code.as_ptr().cast_mut() };
    set(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
}

fn set<T>(socket: BorrowedFd<'_>, level: c_int, option: c_int, value: &T) -> io::Result<()> {
    // SAFETY: the value is valid for its size, and the kernel copies it during the call.
    check(unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const *value).cast(), size_of::<T>() as u32)
    })?;
    Ok(())
}

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// TPACKET_ALIGN of linux/if_packet.h.
fn align(size: usize) -> usize {
    size.next_multiple_of(libc::TPACKET_ALIGNMENT)
}
