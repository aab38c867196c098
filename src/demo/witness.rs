//! A client of the demo's own: it sends numbered lines through the tunnel all the time, checks that each comes back in its
//! place, and tells what a cut did to them.

#![forbid(unsafe_code)]

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::tally::{News, Tally, line};
use super::tell;

/// Between two lines: 20 kB a second, too little to be felt and enough to see what a cut held up.
const EVERY: Duration = Duration::from_millis(50);
/// What is under way when it leaves has so long to come back: that of a link that is cut does not.
const LEAVES_WITHIN: Duration = Duration::from_millis(500);
/// Before a connection that the server ended is made anew.
const AGAIN: Duration = Duration::from_secs(1);

/// What all its connections came to.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Total {
    /// Those that were answered.
    connections: u32,
    returned: u64,
    /// Sent on connections that were ended by the server before they came back.
    ended: u64,
    /// Sent on the connection that is open.
    unanswered: usize,
    pauses: u32,
    longest: Duration,
    wrong: bool,
}

/// Goes on until it is dropped.
pub struct Witness {
    task: JoinHandle<()>,
    total: Arc<Mutex<Total>>,
    answered: watch::Receiver<bool>,
    leave: CancellationToken,
}

impl Witness {
    /// Talks to an echo server by way of this listener.
    pub fn start(through: SocketAddr) -> Self {
        let total = Arc::default();
        let (answered, heard) = watch::channel(false);
        let leave = CancellationToken::new();
        let task = tokio::spawn(attend(through, Arc::clone(&total), answered, leave.clone()));
        Self { task, total, answered: heard, leave }
    }

    /// Returns once something has come back.
    pub fn answered(&self) -> impl Future<Output = ()> + use<> {
        let mut answered = self.answered.clone();
        async move {
            let _ = answered.wait_for(|answered| *answered).await;
        }
    }

    /// Sends no more and waits for what is under way, but not long. Returns all of it in a sentence.
    pub async fn end(mut self) -> String {
        self.leave.cancel();
        let _ = tokio::time::timeout(LEAVES_WITHIN, &mut self.task).await;
        held(&self.total).to_string()
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl std::fmt::Display for Total {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes have come back through the tunnel, ", grouped(self.returned))?;
        f.write_str(if self.wrong { "NOT as they were sent" } else { "each in its place: none lost, none twice" })?;
        match self.pauses {
            0 => {}
            1 => write!(f, "; one pause of {}", seconds(self.longest))?,
            n => write!(f, "; {n} pauses, the longest {}", seconds(self.longest))?,
        }
        if self.unanswered > 0 {
            write!(f, "; {} are under way", grouped(self.unanswered as u64))?;
        }
        if self.ended > 0 {
            write!(f, "; {} were under way when the server ended their connection", grouped(self.ended))?;
        }
        Ok(())
    }
}

/// A panic elsewhere leaves only numbers behind.
fn held(total: &Mutex<Total>) -> MutexGuard<'_, Total> {
    total.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn attend(
    through: SocketAddr,
    total: Arc<Mutex<Total>>,
    answered: watch::Sender<bool>,
    leave: CancellationToken,
) {
    let mut gone: Option<Instant> = None;
    loop {
        let mut tally = Tally::default();
        let first = || {
            held(&total).connections += 1;
            answered.send_replace(true);
            if let Some(since) = gone.take() {
                let time = seconds(since.elapsed());
                tell(&format!("the server is back after {time}, and a new connection through the tunnel goes on"));
            }
        };
        let end = talk(through, &mut tally, &total, first, &leave).await;
        if leave.is_cancelled() {
            return;
        }
        {
            let mut total = held(&total);
            (total.ended, total.unanswered) = (total.ended + tally.unanswered() as u64, 0);
        }
        if gone.is_none() && tally.heard() > 0 {
            gone = Some(Instant::now());
            let how = end.map_or_else(|error| format!("was cut: {error}"), |()| "was ended by the server".to_owned());
            tell(&format!("the connection through the tunnel {how}; it is made anew every second until it answers"));
        }
        tokio::select! {
            () = leave.cancelled() => return,
            () = tokio::time::sleep(AGAIN) => {}
        }
    }
}

/// One connection, until it ends. `first`: something has come back, for the first time.
async fn talk(
    through: SocketAddr,
    tally: &mut Tally,
    total: &Mutex<Total>,
    first: impl FnOnce(),
    leave: &CancellationToken,
) -> io::Result<()> {
    let mut stream = TcpStream::connect(through).await?;
    let (mut first, mut leaving) = (Some(first), false);
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut number, mut rest) = (0, Vec::new());
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let news = tokio::select! {
            ready = stream.readable() => {
                ready?;
                let count = match stream.try_read(&mut buffer) {
                    Ok(0) => return Ok(()),
                    Ok(count) => count,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                    Err(error) => return Err(error),
                };
                if let Some(first) = first.take() {
                    first();
                }
                let got = tally.got(buffer.get(..count).unwrap_or_default(), Instant::now());
                held(total).returned += count as u64;
                match got {
                    Ok(news) => news,
                    Err(wrong) => {
                        held(total).wrong = true;
                        tracing::error!(byte = wrong.at, "what came back through the tunnel is not what was sent");
                        return Err(io::Error::other("what came back is not what was sent"));
                    }
                }
            }
            () = leave.cancelled(), if !leaving => {
                leaving = true;
                stream.shutdown().await?;
                None
            }
            _ = ticks.tick(), if !leaving => {
                if rest.is_empty() {
                    rest = line(number);
                    number += 1;
                }
                match stream.try_write(&rest) {
                    Ok(count) => tally.sent(&rest.drain(..count).collect::<Vec<_>>(), Instant::now()),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
                tally.look(Instant::now())
            }
        };
        held(total).unanswered = tally.unanswered();
        match news {
            None => {}
            Some(News::Silent { time, unanswered }) => tell(&format!(
                "nothing has come back through the tunnel for {}; its client sends on, {} bytes wait",
                seconds(time),
                grouped(unanswered as u64)
            )),
            Some(News::Back { time, bytes }) => {
                {
                    let mut total = held(total);
                    (total.pauses, total.longest) = (total.pauses + 1, total.longest.max(time));
                }
                tell(&format!(
                    "after a pause of {} all {} bytes that waited have come back on the same connection, each in its place: \
                     none lost, none twice",
                    seconds(time),
                    grouped(bytes)
                ));
            }
        }
    }
}

/// `10.3 s`.
fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

/// `1,234,567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::Server;

    #[test]
    fn numbers_are_grouped() {
        let pairs = [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")];
        for (number, text) in pairs {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn the_summary_says_what_was_lost_and_what_was_not() {
        let mut total = Total { returned: 12_000, ..Total::default() };
        let sound = "12,000 bytes have come back through the tunnel, each in its place: none lost, none twice";
        assert_eq!(total.to_string(), sound);
        (total.pauses, total.longest) = (1, Duration::from_millis(10_250));
        assert_eq!(total.to_string(), format!("{sound}; one pause of 10.2 s"));
        (total.pauses, total.unanswered, total.ended) = (2, 3_000, 1_000);
        let more = "; 2 pauses, the longest 10.2 s; 3,000 are under way; 1,000 were under way when the server ended their \
                    connection";
        assert_eq!(total.to_string(), format!("{sound}{more}"));
        total.wrong = true;
        assert!(total.to_string().contains("NOT as they were sent"), "{total}");
    }

    #[tokio::test]
    async fn it_talks_on_with_a_server_that_was_away() {
        let server = Server::start("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let witness = Witness::start(server.address);
        let within = Duration::from_secs(20);
        tokio::time::timeout(within, witness.answered()).await.expect("answered");
        server.go_away_for(Duration::from_millis(100));
        let again = async {
            while held(&witness.total).connections < 2 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(within, again).await.expect("it goes on");
        let told = witness.end().await;
        assert!(told.contains("none lost") && !told.contains("under way;"), "{told}");
    }

    #[tokio::test]
    async fn a_server_that_says_something_else_is_found_out() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let witness = Witness::start(listener.local_addr().unwrap());
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"?").await.unwrap();
        let found = async {
            while !held(&witness.total).wrong {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), found).await.expect("found out");
        let told = witness.end().await;
        assert!(told.contains("NOT as they were sent"), "{told}");
    }
}
