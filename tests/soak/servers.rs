//! The servers behind: each talk's other end, and in direct mode the answers to beats.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use socket2::SockRef;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::lines;
use super::talk::{Broken, Kind, MAGIC};
use super::world::{Place, World};

/// Listens until closed.
pub struct Server {
    pub address: SocketAddr,
    /// Beats answered.
    pub beats: Arc<AtomicU64>,
    /// Beats wait for their answers while it is true.
    pub deaf: Arc<watch::Sender<bool>>,
    listening: JoinHandle<()>,
    gone: watch::Sender<bool>,
}

impl Server {
    pub async fn start(world: &Arc<World>, place: Place) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let (beats, deaf, gone) =
            (Arc::<AtomicU64>::default(), Arc::<watch::Sender<bool>>::default(), watch::Sender::default());
        let (world, count, hearing, going) = (world.clone(), beats.clone(), deaf.clone(), gone.clone());
        let listening = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let (world, count, deaf) = (world.clone(), count.clone(), hearing.clone());
                let mut gone = going.subscribe();
                tokio::spawn(async move {
                    // When the server goes its connections are reset.
                    let copy = SockRef::from(&stream).try_clone();
                    tokio::select! {
                        () = serve(stream, &world, place, &count, &deaf) => {}
                        _ = gone.wait_for(|gone| *gone) => {
                            if let Ok(copy) = copy {
                                let _ = copy.set_linger(Some(std::time::Duration::ZERO));
                            }
                        }
                    }
                });
            }
        });
        Ok(Self { address, beats, deaf, listening, gone })
    }

    /// Closes the port and resets every connection.
    pub fn close(self) {
        self.listening.abort();
        self.gone.send_replace(true);
    }
}

async fn serve(stream: TcpStream, world: &World, place: Place, beats: &AtomicU64, deaf: &watch::Sender<bool>) {
    let _ = stream.set_nodelay(true);
    let (from, mut to) = stream.into_split();
    let mut from = BufReader::with_capacity(16 * 1024, from);
    let talk = loop {
        match from.fill_buf().await.map(|bytes| bytes.first().copied()) {
            // Renewed, lost, or a client that had nothing to say.
            Ok(None) | Err(_) => return,
            Ok(Some(b'p')) => {
                let mut beat = [0; 5];
                if from.read_exact(&mut beat).await.is_err() {
                    return;
                }
                if &beat != b"ping\n" || place != Place::Server {
                    return world.fail(format!("a server heard {:?}", String::from_utf8_lossy(&beat)));
                }
                let _ = deaf.subscribe().wait_for(|deaf| !*deaf).await;
                beats.fetch_add(1, Ordering::Relaxed);
                if to.write_all(b"pong\n").await.is_err() {
                    return;
                }
            }
            Ok(Some(_)) => {
                let mut head = [0; 16];
                if from.read_exact(&mut head).await.is_err() {
                    // Cut in its first bytes; the client knows whether that may be.
                    return;
                }
                let (magic, number) = head.split_at(8);
                let number = u64::from_le_bytes(number.try_into().unwrap_or_default());
                if magic != MAGIC {
                    return world.fail(format!("a server heard {head:02x?} as the first bytes of a client"));
                }
                match world.talk(number) {
                    Some(talk) if talk.claim(place) => break talk,
                    Some(talk) => return talk.blame(world, "its first bytes came twice"),
                    // The client has gone meanwhile.
                    None => return,
                }
            }
        }
    };
    let ended = if talk.kind == Kind::Lines {
        lines::answer(world, &talk, &mut from, &mut to).await
    } else {
        tokio::try_join!(talk.check(world, 0, &mut from), talk.send(1, &mut to)).map(drop)
    };
    match ended {
        Ok(()) => {}
        Err(Broken::Wrong(what)) => talk.blame(world, &format!("at the server: {what}")),
        Err(_) if world.is_excused(&talk) => {
            world.tally.cut_at_server.fetch_add(u64::from(place != Place::Server), Ordering::Relaxed);
        }
        Err(broken) => talk.blame(world, &format!("at the server: {broken}")),
    }
}
