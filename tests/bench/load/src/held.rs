//! A connection that is held in silence: is its client told when it has died?

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use crate::measured::now;
use crate::outage::outcome;
use crate::sockets::{PATIENCE, must_connect, ping, spawn};

/// How long an answer is waited for when it is asked at last.
const ASKED: Duration = Duration::from_secs(5);

pub struct Held {
    stream: Arc<TcpStream>,
    ended: Receiver<(&'static str, u64)>,
    heard: Arc<AtomicU64>,
}

impl Held {
    /// Opens one, and proves it by a request.
    pub fn open(to: SocketAddr) -> Self {
        let stream = Arc::new(must_connect(to));
        (&*stream).write_all(b"E").ok();
        stream.set_read_timeout(Some(PATIENCE)).ok();
        let proved = ping(&stream);
        stream.set_read_timeout(None).ok();
        let (heard, (tell, ended)) = (Arc::new(AtomicU64::new(0)), channel());
        let (reading, hearing) = (stream.clone(), heard.clone());
        spawn(move || {
            let how = proved.err().map_or_else(|| listen(&reading, &hearing), |error| outcome(&error));
            tell.send((how, now())).ok();
        });
        Self { stream, ended, heard }
    }

    /// How each ended and when, of this process's clock: `alive` answers, `silent` neither answers nor has ended.
    pub fn ask(all: Vec<Self>) -> Vec<(&'static str, u64)> {
        let asked: Vec<_> = all.into_iter().map(|held| (held.ended.try_recv().ok(), held)).collect();
        for (_, held) in asked.iter().filter(|(ended, _)| ended.is_none()) {
            (&*held.stream).write_all(&[7; 64]).ok();
        }
        let end = now() + ASKED.as_nanos() as u64;
        asked.into_iter().map(|(ended, held)| ended.unwrap_or_else(|| held.answer(end))).collect()
    }

    fn answer(&self, end: u64) -> (&'static str, u64) {
        loop {
            if self.heard.load(Relaxed) >= 64 {
                return ("alive", 0);
            }
            if let Ok(ended) = self.ended.recv_timeout(Duration::from_millis(20)) {
                return ended;
            }
            if now() >= end {
                return ("silent", 0);
            }
        }
    }
}

/// Until the end.
fn listen(mut stream: &TcpStream, heard: &AtomicU64) -> &'static str {
    let mut bytes = [0; 256];
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return "eof",
            Ok(count) => drop(heard.fetch_add(count as u64, Relaxed)),
            Err(error) => return outcome(&error),
        }
    }
}
