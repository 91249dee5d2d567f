use super::*;

#[test]
fn the_kernels_table_tells_who_waits() {
    let table = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n\
        \x20 101: 00000000:1AE1 00000000:0000 07 00000000:00000000 00:00000000 00000000  1000        0 33 2 0 0\n\
        \x20 102: 0100007F:2000 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 34 2 0 0\n\
        \x20 103: 00000000:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 35 2 0 0\n\
        \x20 104: 0200400A:C001 81FA7D4A:4B69 01 00000000:00000000 00:00000000 00000000     0        0 36 2 0 0\n\
        nonsense\n";
    assert_eq!(waiting(table), [6881]);
    let v6 = "head\n  1: 00000000000000000000000000000000:C822 00000000000000000000000000000000:0000 07\n\
                2: 00000000000000000000000001000000:C823 00000000000000000000000000000000:0000 07\n";
    assert_eq!(waiting(v6), [51_234]);
}

#[test]
fn a_port_that_is_shared_can_be_used_and_one_that_is_not_cannot() {
    let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let alone = std::net::UdpSocket::bind((any, 0)).unwrap();
    let port = alone.local_addr().unwrap().port();
    let found = SourcePorts::find(&[port]);
    assert!(!found.usable.contains(&port));
    assert_eq!(found.taken.iter().map(|(port, _)| *port).collect::<Vec<_>>(), [port]);
    drop(alone);
    let shared = bind(any, port).unwrap();
    assert!(SourcePorts::find(&[port]).usable.contains(&port));
    drop(shared);
}

#[tokio::test]
async fn a_line_takes_the_witnesss_packets_and_nobody_elses() {
    let any = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let witness = std::net::UdpSocket::bind((any, 0)).unwrap();
    let client = bind(any, free_port()).unwrap();
    let at = client.local_addr().unwrap().as_socket().unwrap().port();
    let beside = bind(any, at).unwrap();
    beside.connect(&SockAddr::from(witness.local_addr().unwrap())).unwrap();
    let beside = std::net::UdpSocket::from(beside);
    let client = std::net::UdpSocket::from(client);
    for socket in [&client, &beside] {
        socket.set_nonblocking(false).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    }
    let stranger = std::net::UdpSocket::bind((any, 0)).unwrap();
    stranger.send_to(b"for the client", (any, at)).unwrap();
    witness.send_to(b"for us", (any, at)).unwrap();
    let mut buffer = [0; 64];
    assert_eq!(client.recv(&mut buffer).map(|length| buffer[..length].to_vec()).unwrap(), b"for the client");
    assert_eq!(beside.recv(&mut buffer).map(|length| buffer[..length].to_vec()).unwrap(), b"for us");
}

/// A line to a server that answers each question with what `answers` has for it.
async fn line_to(answers: impl Fn(&[u8]) -> Vec<Vec<u8>> + 'static) -> Line {
    let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let line = line(server.local_addr().unwrap()).await;
    tokio::task::spawn_local(async move {
        let mut buffer = [0; 2048];
        while let Ok((length, peer)) = server.recv_from(&mut buffer).await {
            for answer in answers(&buffer[..length]) {
                server.send_to(&answer, peer).await.unwrap();
            }
        }
    });
    line
}

async fn line(to: SocketAddr) -> Line {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(to).await.unwrap();
    let port = socket.local_addr().unwrap().port();
    let entry = crate::sensor::ledger::Ledger::new(1).enter(&"exit-udp".into());
    let fate = Fate::NotSent { reason: "not yet".to_owned() };
    Line { socket, stimulus: stimulus(&entry, 0.0, to, "question", fate), port, v6: false }
}

fn right(octets: &[u8]) -> Option<Result<u8, String>> {
    match octets {
        [b'y', number] => Some(Ok(*number)),
        [b'n'] => Some(Err("it refuses".to_owned())),
        _ => None,
    }
}

async fn here<T>(body: impl std::future::Future<Output = T>) -> T {
    tokio::task::LocalSet::new().run_until(body).await
}

#[tokio::test]
async fn rubbish_before_the_answer_is_passed_over() {
    here(async {
        let rubbish = || vec![Vec::new(), vec![0; 2048], b"yes".to_vec(), b"y7".to_vec(), b"y8".to_vec()];
        let mut line = line_to(move |_| rubbish()).await;
        assert_eq!(line.ask(&[b"?"], right).await, Ok(b'7'));
        assert_eq!(line.stimulus.fate, Fate::Sent);
        let mut line = line_to(|_| vec![b"n".to_vec()]).await;
        assert_eq!(line.ask(&[b"?"], right).await, Err("it refuses".to_owned()));
    })
    .await;
}

#[tokio::test]
async fn a_lost_question_is_sent_again_and_another_one_tried() {
    here(async {
        let mut line = line_to(|question| if question == b"2" { vec![b"y2".to_vec()] } else { Vec::new() }).await;
        assert_eq!(line.ask(&[b"1", b"2"], right).await, Ok(b'2'));
    })
    .await;
}

#[tokio::test]
async fn silence_a_closed_port_and_a_flood_all_end() {
    here(async {
        let began = Instant::now();
        let closed = std::net::UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).unwrap();
        let (mut silent, mut flood) = (line_to(|_| Vec::new()).await, line_to(|_| vec![vec![0; 9]; 2000]).await);
        let mut closed = line(closed).await;
        let ends = tokio::join!(silent.ask(&[b"?"], right), closed.ask(&[b"?"], right), flood.ask(&[b"?"], right),);
        let no = |why: &str| Err(why.to_owned());
        assert_eq!(ends, (no("no answer in time"), no("its port is closed"), no("no answer in time")));
        let all: Duration = WAITS.iter().sum();
        assert!(began.elapsed() >= all && began.elapsed() < all * 3, "{:?}", began.elapsed());
    })
    .await;
}

fn free_port() -> u16 {
    std::net::UdpSocket::bind("0.0.0.0:0").and_then(|socket| socket.local_addr()).unwrap().port()
}
