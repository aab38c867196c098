//! A bulk download over a long path, in memory: what its receiver says meanwhile.

use std::cell::RefCell;
use std::rc::Rc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::clock;
use crate::net::memory::{self, Habits, NEAR, Tap, USERS, net};
use crate::net::transport::Transport;

const MS: Duration = Duration::from_millis(1);
const WAY: Duration = Duration::from_millis(25);
/// Bytes a millisecond: 200 Mbit/s.
const RATE: u64 = 25_000;

/// When the near end wrote, and how many bytes.
struct Writes(Rc<RefCell<Vec<(Instant, usize)>>>);

impl Tap for Writes {
    fn stands(&mut self, _: usize, _: usize) {}
    fn wrote(&mut self, _: usize, side: usize, bytes: &[u8]) {
        if side == NEAR {
            self.0.borrow_mut().push((clock::now(), bytes.len()));
        }
    }
    fn read(&mut self, _: usize, _: usize, _: usize) {}
    fn cut(&mut self, _: usize, _: usize, _: u64) {}
    fn closed(&mut self, _: usize, _: usize) {}
}

#[tokio::test(start_paused = true)]
async fn who_only_receives_over_a_long_path_has_few_packets_on_their_way() {
    let address = SocketAddr::from(([10, 0, 0, 1], 7443));
    let habits =
        Habits { latency: (WAY, WAY), rate: Some(RATE), capacity: (8 << 20, 8 << 20), pieces: 1, ..Habits::calm() };
    let writes = Rc::<RefCell<Vec<(Instant, usize)>>>::default();
    let _running = memory::begin(7, vec![[address; 2]], habits, Box::new(Writes(writes.clone())));
    tokio::spawn(memory::pump());
    let process = net(|network| {
        let process = network.process();
        network.listen(process, address);
        process
    });
    let dial = memory::as_process(process, || memory::connect(address)).expect("a network");
    let ((near_wire, rtt), far_wire) =
        (dial.await.expect("it listens"), memory::accept(address).await.expect("it does"));
    let mut near = Driver::near(settings(), Arc::<Seen>::default());
    let mut far = Driver::far(settings(), Arc::<Seen>::default());
    let wire = |socket| Wire::from_transport(Transport::Memory(socket)).expect("a connection");
    near.attach(wire(near_wire), 0, Vec::new(), rtt).expect("it begins");
    far.attach(wire(far_wire), 0, Vec::new(), rtt).expect("it begins");

    let [(client, ours), (service, theirs)] = [0, 1].map(|_| net(|network| network.pair(USERS, process)));
    let local = |socket| Local { transport: Transport::Memory(socket), guard: Box::new(()) };
    assert!(near.open(Opening::to("bulk"), local(ours)).is_ok());
    let (mut client, mut service) = (Transport::Memory(client), Transport::Memory(service));
    tokio::spawn(async move { while service.write_all(&[7; 64 * 1024]).await.is_ok() {} });
    let mut theirs = Some(theirs);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                event = near.next() => panic!("near: {event:?}"),
                event = far.next() => match event {
                    Event::Open { stream, .. } => far.accept(stream, local(theirs.take().expect("one stream"))),
                    other => panic!("far: {other:?}"),
                },
            }
        }
    });

    let (mut buffer, mut got) = (vec![0; 256 * 1024], 0);
    let warm = clock::now() + 2000 * MS;
    let end = warm + 2000 * MS;
    while clock::now() < end {
        let count = client.read(&mut buffer).await.expect("it flows");
        if clock::now() >= warm {
            got += count as u64;
        }
    }
    let writes: Vec<_> = writes.borrow().iter().filter(|(at, _)| *at >= warm).copied().collect();
    let within =
        |(at, _): &(Instant, usize)| writes.iter().filter(|(other, _)| (*at..*at + 2 * WAY).contains(other)).count();
    let most = writes.iter().map(within).max().unwrap_or_default();
    let shown: Vec<_> = writes.iter().take(30).map(|(at, bytes)| ((*at - warm).as_millis(), bytes)).collect();
    assert!(got > 2000 * RATE / 100 * 97, "{got} bytes in two seconds");
    assert!((2..=5).contains(&most), "{most} packets within a round trip: {shown:?}");
}
