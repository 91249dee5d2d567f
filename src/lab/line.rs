//! A bad line: WireGuard's UDP socket with loss and delay between it and the wire, in both directions. What is lost are the tunnel's outer
//! packets, handshakes among them, as on a mobile line or a crowded wireless one. A line without either is the bare socket.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use gotatun::packet::{Packet, PacketBufPool};
use gotatun::udp::socket::{UdpSocket, UdpSocketFactory};
use gotatun::udp::{UdpRecv, UdpSend, UdpTransportFactory, UdpTransportFactoryParams};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

/// Packets that are on their way at once, in one direction; more are lost, as where a router's queue is full.
const IN_FLIGHT: usize = 8192;

/// How bad a line is, the same in both directions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Quality {
    /// Of a hundred packets so many are lost, at random.
    pub loss_percent: u8,
    /// How long each packet is on its way.
    pub delay: Duration,
}

impl Quality {
    /// The worse of both in each respect.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self { loss_percent: self.loss_percent.max(other.loss_percent), delay: self.delay.max(other.delay) }
    }

    fn carries(self) -> bool {
        self.loss_percent == 0 || rand::random_range(0..100) >= self.loss_percent
    }
}

type OnItsWay = (Instant, Packet, SocketAddr);

/// Makes sockets on such a line.
pub(super) struct Line {
    inner: UdpSocketFactory,
    quality: Quality,
}

impl Line {
    pub(super) fn new(quality: Quality) -> Self {
        Self { inner: UdpSocketFactory::default(), quality }
    }
}

impl UdpTransportFactory for Line {
    type Send = LineSend;
    type Recv = LineRecv;

    async fn bind(&mut self, params: &UdpTransportFactoryParams) -> io::Result<(LineSend, LineRecv)> {
        let (send, receive) = self.inner.bind(params).await?;
        let quality = self.quality;
        if quality.delay.is_zero() {
            let send = LineSend { socket: send, quality, late: None };
            return Ok((send, LineRecv { socket: receive, quality, late: None, next: None }));
        }
        let (out, leaving) = mpsc::channel(IN_FLIGHT);
        let (arriving, late) = mpsc::channel(IN_FLIGHT);
        tokio::spawn(send_late(send.clone(), leaving));
        tokio::spawn(receive_late(receive.clone(), quality, arriving));
        let send = LineSend { socket: send, quality, late: Some(out) };
        Ok((send, LineRecv { socket: receive, quality, late: Some(late), next: None }))
    }
}

/// Sends each packet when it is due, until nobody can give it one any more.
async fn send_late(socket: UdpSocket, mut leaving: mpsc::Receiver<OnItsWay>) {
    while let Some((due, packet, to)) = leaving.recv().await {
        sleep_until(due).await;
        // What the network refuses is lost, as it would be further out.
        let _ = socket.send_to(packet, to).await;
    }
}

/// Takes packets in and hands them on with the time at which they are due, until nobody wants them any more.
async fn receive_late(mut socket: UdpSocket, quality: Quality, arriving: mpsc::Sender<OnItsWay>) {
    let (mut pool, mut buffer, mut packets) = (PacketBufPool::new(64), Default::default(), Vec::new());
    loop {
        tokio::select! {
            received = socket.recv_many_from(&mut buffer, &mut pool, &mut packets) => if received.is_err() {
                // An ICMP error about an earlier packet, which says nothing of the socket.
                tokio::task::yield_now().await;
            },
            () = arriving.closed() => return,
        }
        let due = Instant::now() + quality.delay;
        for (packet, from) in packets.drain(..).filter(|_| quality.carries()) {
            // A queue that is full loses it.
            let _ = arriving.try_send((due, packet, from));
        }
    }
}

/// The sending end.
#[derive(Clone)]
pub(super) struct LineSend {
    socket: UdpSocket,
    quality: Quality,
    late: Option<mpsc::Sender<OnItsWay>>,
}

impl UdpSend for LineSend {
    type SendManyBuf = <UdpSocket as UdpSend>::SendManyBuf;

    async fn send_to(&self, packet: Packet, to: SocketAddr) -> io::Result<()> {
        match &self.late {
            _ if !self.quality.carries() => Ok(()),
            Some(late) => {
                // A queue that is full loses it.
                let _ = late.try_send((Instant::now() + self.quality.delay, packet, to));
                Ok(())
            }
            None => self.socket.send_to(packet, to).await,
        }
    }

    fn max_number_of_packets_to_send(&self) -> usize {
        self.socket.max_number_of_packets_to_send()
    }

    async fn send_many_to(
        &self,
        buffer: &mut Self::SendManyBuf,
        packets: &mut Vec<(Packet, SocketAddr)>,
    ) -> io::Result<()> {
        if self.late.is_none() {
            packets.retain(|_| self.quality.carries());
            return self.socket.send_many_to(buffer, packets).await;
        }
        for (packet, to) in packets.drain(..) {
            self.send_to(packet, to).await?;
        }
        Ok(())
    }

    fn local_addr(&self) -> io::Result<Option<SocketAddr>> {
        UdpSend::local_addr(&self.socket)
    }

    fn set_fwmark(&self, mark: u32) -> io::Result<()> {
        self.socket.set_fwmark(mark)
    }
}

/// The receiving end.
pub(super) struct LineRecv {
    socket: UdpSocket,
    quality: Quality,
    late: Option<mpsc::Receiver<OnItsWay>>,
    /// Taken from `late` and not yet due.
    next: Option<OnItsWay>,
}

impl LineRecv {
    async fn due(&mut self) -> io::Result<(Packet, SocketAddr)> {
        if self.next.is_none()
            && let Some(late) = &mut self.late
        {
            self.next = late.recv().await;
        }
        let due = self.next.as_ref().map(|(due, ..)| *due).ok_or(io::ErrorKind::BrokenPipe)?;
        sleep_until(due).await;
        self.next.take().map(|(_, packet, from)| (packet, from)).ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }
}

impl UdpRecv for LineRecv {
    type RecvManyBuf = <UdpSocket as UdpRecv>::RecvManyBuf;

    async fn recv_from(&mut self, pool: &mut PacketBufPool) -> io::Result<(Packet, SocketAddr)> {
        if self.late.is_some() {
            return self.due().await;
        }
        loop {
            let received = self.socket.recv_from(pool).await?;
            if self.quality.carries() {
                return Ok(received);
            }
        }
    }

    async fn recv_many_from(
        &mut self,
        buffer: &mut Self::RecvManyBuf,
        pool: &mut PacketBufPool,
        packets: &mut Vec<(Packet, SocketAddr)>,
    ) -> io::Result<()> {
        if self.late.is_some() {
            packets.push(self.due().await?);
            return Ok(());
        }
        self.socket.recv_many_from(buffer, pool, packets).await?;
        packets.retain(|_| self.quality.carries());
        Ok(())
    }

    fn enable_udp_gro(&self) -> io::Result<()> {
        self.socket.enable_udp_gro()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::time::timeout;

    use super::*;

    /// What of `sent` packets arrives over two ends of such a line, and how long the first was on its way.
    async fn carry(quality: Quality, sent: usize) -> (usize, Duration) {
        let params = || UdpTransportFactoryParams { addr: Some(Ipv4Addr::LOCALHOST.into()), port: 0, fwmark: None };
        let (_there, mut receive) = Line::new(Quality::default()).bind(&params()).await.unwrap();
        let (send, _here) = Line::new(quality).bind(&params()).await.unwrap();
        let to = UdpSend::local_addr(&_there).unwrap().unwrap();
        let (mut pool, began) = (PacketBufPool::new(4), Instant::now());
        let (mut arrived, mut first) = (0, Duration::ZERO);
        for _ in 0..sent {
            let mut packet = pool.get();
            packet.truncate(100);
            send.send_to(packet, to).await.unwrap();
            let patience = quality.delay + Duration::from_millis(20);
            if timeout(patience, receive.recv_from(&mut pool)).await.is_ok() {
                arrived += 1;
                if first.is_zero() {
                    first = began.elapsed();
                }
            }
        }
        (arrived, first)
    }

    #[tokio::test]
    async fn a_good_line_loses_nothing_and_a_bad_one_some() {
        assert_eq!(carry(Quality::default(), 20).await.0, 20);
        assert_eq!(carry(Quality { loss_percent: 100, ..Quality::default() }, 3).await.0, 0);
        let (arrived, _) = carry(Quality { loss_percent: 50, ..Quality::default() }, 60).await;
        assert!((1..60).contains(&arrived), "{arrived}");
    }

    #[tokio::test]
    async fn a_slow_line_takes_its_time() {
        let delay = Duration::from_millis(150);
        let (_, first) = carry(Quality { delay, ..Quality::default() }, 1).await;
        assert!(first.is_zero() || first >= delay, "{first:?}");
    }
}
