//! The clients: how many talk at once, about what, and how each talk is judged at its end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fastrand::Rng;
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::lines;
use super::talk::{Broken, Door, Kind, Leg, MAGIC, Talk};
use super::world::{HANG, Phase, World};

/// Who talks all the time: what, where, and how many.
const CAST: [(Kind, Door, usize); 19] = [
    (Kind::Long, Door::Left, 3),
    (Kind::Long, Door::Right, 3),
    (Kind::Long, Door::Both, 3),
    (Kind::Long, Door::Direct, 2),
    (Kind::Lazy, Door::Left, 1),
    (Kind::Lazy, Door::Both, 1),
    (Kind::Lines, Door::Left, 1),
    (Kind::Lines, Door::Right, 1),
    (Kind::Lines, Door::Both, 1),
    (Kind::Lines, Door::Direct, 1),
    (Kind::Short, Door::Left, 1),
    (Kind::Short, Door::Right, 1),
    (Kind::Short, Door::Both, 1),
    (Kind::Short, Door::Direct, 2),
    (Kind::Bulk, Door::Left, 1),
    (Kind::Bulk, Door::Both, 1),
    (Kind::Half, Door::Right, 1),
    (Kind::Half, Door::Both, 1),
    (Kind::Half, Door::Direct, 1),
];

/// Where clients connect, by [`Door`].
pub type Doors = [SocketAddr; 4];

/// Starts all of them. They talk in storms and fall silent in calms.
pub fn start(world: &Arc<World>, doors: Doors) {
    let cast = CAST.iter().flat_map(|(kind, door, count)| std::iter::repeat_n((*kind, *door), *count));
    for (place, (kind, door)) in cast.enumerate() {
        let (world, mut rng) = (world.clone(), world.rng(1000 + place as u64));
        tokio::spawn(async move {
            while world.until_storm().await {
                let talk = Talk::new(&world, kind, door, legs(kind, &mut rng));
                world.enter(&talk);
                run(&world, &talk, doors[door as usize], &mut rng).await;
                world.leave(&talk);
                world.sleep(pause(kind, &mut rng)).await;
            }
        });
    }
    tokio::spawn(watch_for_hangs(world.clone()));
}

fn pause(kind: Kind, rng: &mut Rng) -> Duration {
    Duration::from_millis(match kind {
        Kind::Long | Kind::Lazy | Kind::Half => rng.u64(100..2000),
        Kind::Lines => rng.u64(50..1000),
        Kind::Short => rng.u64(50..800),
        Kind::Bulk => rng.u64(1000..8000),
    })
}

fn legs(kind: Kind, rng: &mut Rng) -> [Leg; 2] {
    let mut make = || Leg {
        total: u64::MAX,
        piece: rng.usize(200..3000),
        pause: Duration::from_millis(rng.u64(40..250)),
        after: false,
    };
    let both = [make(), make()];
    match kind {
        Kind::Long | Kind::Lazy => both,
        Kind::Lines => both.map(|leg| Leg { total: rng.u64(5..200), ..leg }),
        Kind::Short => both.map(|leg| Leg { total: rng.u64(0..20_000), pause: Duration::ZERO, ..leg }),
        Kind::Bulk => both.map(|leg| {
            let total = if rng.bool() { rng.u64(1..2 << 20) } else { rng.u64(0..1000) };
            Leg { total, piece: 16 * 1024, pause: Duration::ZERO, ..leg }
        }),
        Kind::Half => {
            let mut legs = both.map(|leg| Leg { total: rng.u64(2000..60_000), ..leg });
            legs[usize::from(rng.bool())].after = true;
            legs
        }
    }
}

/// One talk from its connection to its end.
async fn run(world: &Arc<World>, talk: &Arc<Talk>, door: SocketAddr, rng: &mut Rng) {
    if matches!(talk.kind, Kind::Long | Kind::Lazy) {
        let (talk, life) = (talk.clone(), Duration::from_millis(rng.u64(5_000..180_000)));
        tokio::spawn(async move {
            let mut finish = talk.finish.subscribe();
            let _ = tokio::time::timeout(life, finish.wait_for(|finish| *finish)).await;
            talk.finish.send_replace(true);
        });
    }
    let ended = tokio::select! {
        ended = converse(world, talk, door) => ended,
        // Told by the watch over hangs.
        () = talk.given_up() => return,
    };
    match ended {
        Ok(()) => {
            world.tally.finished.fetch_add(1, Ordering::Relaxed);
        }
        Err(Broken::Wrong(what)) => talk.blame(world, &format!("at the client: {what}")),
        Err(Broken::Cut(error)) if is_reset(&error) && world.is_excused(talk) => {
            let tally = if talk.door == Door::Direct { &world.tally.reset_direct } else { &world.tally.reset };
            tally.fetch_add(1, Ordering::Relaxed);
        }
        Err(Broken::Cut(error)) if is_reset(&error) && talk.is_said() && world.is_starved() => {
            world.tally.starved.fetch_add(1, Ordering::Relaxed);
        }
        // A server's end is passed on as one in direct mode; never in a tunnel.
        Err(Broken::Early(_)) if talk.door == Door::Direct && world.is_excused(talk) => {
            world.tally.reset_direct.fetch_add(1, Ordering::Relaxed);
        }
        Err(broken) => talk.blame(world, &format!("at the client: {broken}")),
    }
}

/// What a reset is to whoever reads, and to whoever writes after another has been told.
fn is_reset(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}

async fn converse(world: &World, talk: &Talk, door: SocketAddr) -> Result<(), Broken> {
    let stream = TcpStream::connect(door).await?;
    stream.set_nodelay(true)?;
    let (from, mut to) = stream.into_split();
    let mut head = [0; 16];
    head[..8].copy_from_slice(&MAGIC);
    head[8..].copy_from_slice(&talk.number.to_le_bytes());
    to.write_all(&head).await?;
    let mut from = BufReader::with_capacity(16 * 1024, from);
    if talk.kind == Kind::Lines {
        return lines::ask(world, talk, &mut from, &mut to).await;
    }
    tokio::try_join!(talk.send(0, &mut to), talk.check(world, 1, &mut from)).map(drop)
}

/// A talk in which nothing moves is a failure, and over. In a calm every talk is told to come to its end.
async fn watch_for_hangs(world: Arc<World>) {
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let (now, calm) = (world.now(), *world.phase.borrow() == Phase::Calm);
        for talk in world.talks() {
            if calm {
                talk.finish.send_replace(true);
            }
            if now - talk.last() > HANG.as_secs_f64() {
                talk.blame(&world, "it hangs");
                talk.give_up();
            }
        }
    }
}
