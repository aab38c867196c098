//! The near end, by hand.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use ring::rand::{SecureRandom, SystemRandom};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::PATIENCE;
use crate::config::{Beats, Resume};
use crate::net::transport::Transport;
use crate::session::hello::{self, Answer, Hello, Refusal, Secret, SessionId, Token, Welcome};
use crate::session::{GoAwayCode, Incoming, Limits, Opening, RefusalCode, ResetCode, Session};

pub const TOKEN: &str = "a token of more than sixteen bytes";

/// What became of a stream.
#[derive(Debug, Default)]
pub struct Seen {
    pub got: Vec<u8>,
    pub opened: bool,
    pub fin: bool,
    pub refused: Option<RefusalCode>,
    pub reset: Option<ResetCode>,
    to_send: Vec<u8>,
}

/// Why there is no connection.
#[derive(Debug, PartialEq, Eq)]
pub enum No {
    Refused(Refusal),
    Closed,
}

pub struct Dialer {
    pub gateway: SocketAddr,
    /// Where it dials from, if not from anywhere.
    pub from: Option<IpAddr>,
    pub token: Option<Token>,
    pub id: SessionId,
    pub secret: Option<Secret>,
    pub epoch: u64,
    pub beats: Beats,
    pub resume: Resume,
    pub session: Session<()>,
    pub streams: HashMap<u32, Seen>,
    pub connection: Option<Transport>,
    pub welcome: Option<Welcome>,
    pub go_away: Option<GoAwayCode>,
    /// Answers nothing and says nothing, and so looks dead.
    pub mute: bool,
}

impl Dialer {
    pub fn new(gateway: SocketAddr) -> Self {
        let limits = Limits { buffer: 16 << 20, peer_buffer: 16 << 20, windows: 64 << 20, streams: 1024 };
        Self {
            gateway,
            from: None,
            token: Some(Token::new(TOKEN.as_bytes()).expect("long enough")),
            id: SessionId::NEW,
            secret: None,
            epoch: 0,
            beats: Beats { interval: Duration::from_secs(5), timeout: Duration::from_secs(3), misses: 3 },
            resume: Resume { deadline: Duration::from_secs(60), buffer: 16 << 20 },
            session: Session::new(true, limits, Instant::now()),
            streams: HashMap::new(),
            connection: None,
            welcome: None,
            go_away: None,
            mute: false,
        }
    }

    pub fn hello(&self) -> Hello {
        let mut nonce = [0; 32];
        SystemRandom::new().fill(&mut nonce).expect("random");
        Hello {
            versions: hello::VERSIONS,
            session: self.id,
            epoch: self.epoch,
            received: self.session.received(),
            nonce,
            beats: self.beats,
            resume: self.resume,
        }
    }

    /// A connection whose close is a reset.
    pub async fn tcp(&self) -> TcpStream {
        let socket = TcpSocket::new_v4().expect("a socket");
        if let Some(from) = self.from {
            socket.bind((from, 0).into()).expect("an address of this host");
        }
        let tcp = socket.connect(self.gateway).await.expect("it listens");
        SockRef::from(&tcp).set_linger(Some(Duration::ZERO)).expect("set");
        tcp
    }

    /// A plain connection with the next epoch, over which the session goes on.
    pub async fn connect(&mut self) -> Result<(), No> {
        self.epoch += 1;
        let hello = self.hello();
        self.connect_by(hello).await
    }

    /// The same with a hello of one's own.
    pub async fn connect_by(&mut self, hello: Hello) -> Result<(), No> {
        let connection = Transport::Tcp(self.tcp().await);
        self.greet(connection, hello).await
    }

    /// Says `hello` over a connection.
    pub async fn greet(&mut self, mut connection: Transport, hello: Hello) -> Result<(), No> {
        let binding = export(&connection, b"EXPORTER-everlink-binding", None).unwrap_or_default();
        let bytes = hello.encode(self.secret.as_ref(), self.token.as_ref(), &binding);
        connection.write_all(&bytes).await.map_err(|_| No::Closed)?;
        connection.flush().await.map_err(|_| No::Closed)?;
        let welcome = match read_answer(&mut connection).await? {
            Answer::Welcome(welcome) => welcome,
            Answer::Refusal(refusal) => return Err(No::Refused(refusal)),
        };
        let said = welcome.welcome.clone();
        if self.id.is_new() {
            self.id = said.session;
            let exported = export(&connection, b"EXPORTER-everlink-session", Some(&said.session.0));
            self.secret = Some(match (exported, &self.token) {
                (Some(exported), _) => Secret::new(exported),
                (None, Some(token)) => Secret::from_token(token, &said.session, &hello.nonce, &said.nonce),
                (None, None) => Secret::without_token(&said.session, &hello.nonce, &said.nonce),
            });
        }
        assert!(welcome.is_proven(self.secret.as_ref().expect("made"), &binding, &bytes), "a welcome of somebody else");
        assert_eq!((said.session, said.epoch), (self.id, hello.epoch));
        self.session.resume(said.received, hello.received).expect("an offset that can be");
        self.welcome = Some(said);
        self.connection = Some(connection);
        Ok(())
    }

    /// Opens a stream and sends `bytes` with it.
    pub fn open(&mut self, service: &str, bytes: &[u8]) -> u32 {
        let client = Some("192.0.2.7:1234".parse().expect("an address"));
        let local = Some("192.0.2.8:80".parse().expect("an address"));
        let id =
            self.session.open(Opening { client, local, ..Opening::to(service) }, (), Instant::now()).expect("room");
        self.streams.insert(id, Seen { to_send: bytes.to_vec(), ..Seen::default() });
        id
    }

    pub fn send(&mut self, stream: u32, bytes: &[u8]) {
        self.seen(stream).to_send.extend(bytes);
    }

    pub fn seen(&mut self, stream: u32) -> &mut Seen {
        self.streams.entry(stream).or_default()
    }

    /// Closes the connection by a reset, whatever is on its way.
    pub fn cut(&mut self) {
        self.connection = None;
    }

    /// Works until `done`.
    pub async fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done(self) {
            assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}: {:?}", self.streams);
            if self.work().await.is_err() {
                self.connection = None;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }

    /// Sends what there is, and takes what comes within a moment.
    async fn work(&mut self) -> io::Result<()> {
        let now = Instant::now();
        if self.mute {
            tokio::time::sleep(Duration::from_millis(1)).await;
            return Ok(());
        }
        let Some(connection) = &mut self.connection else { return Err(io::ErrorKind::NotConnected.into()) };
        self.session.emit(1 << 20, now);
        for (id, seen) in &mut self.streams {
            let quota = self.session.quota(*id, 64 * 1024).min(seen.to_send.len());
            if quota > 0 {
                self.session.fill(*id, quota, |(), slot| {
                    let count = slot.len().min(seen.to_send.len());
                    slot[..count].copy_from_slice(&seen.to_send[..count]);
                    seen.to_send.drain(..count);
                    (count, ())
                });
            }
        }
        while !self.session.next().is_empty() {
            let count = connection.write(self.session.next()).await?;
            self.session.sent(count);
        }
        connection.flush().await?;
        let mut buffer = vec![0; 64 * 1024];
        match tokio::time::timeout(Duration::from_millis(2), connection.read(&mut buffer)).await {
            Err(_) => Ok(()),
            Ok(Ok(0)) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                let count = read?;
                self.take(&buffer[..count]);
                Ok(())
            }
        }
    }

    fn take(&mut self, mut bytes: &[u8]) {
        while let Some(incoming) = self.session.receive(Instant::now(), &mut bytes).expect("a gateway that behaves") {
            match incoming {
                Incoming::Data { stream, bytes } => {
                    self.streams.entry(stream).or_default().got.extend(bytes);
                    let count = bytes.len();
                    self.session.pass(stream, count);
                }
                Incoming::Opened { stream } => self.seen(stream).opened = true,
                Incoming::Fin { stream } => self.seen(stream).fin = true,
                Incoming::Refused { stream, code } => {
                    self.session.release(stream);
                    self.seen(stream).refused = Some(code);
                }
                Incoming::Reset { stream, code } => {
                    self.session.release(stream);
                    self.seen(stream).reset = Some(code);
                }
                Incoming::GoAway { code, .. } => self.go_away = Some(code),
                _ => {}
            }
        }
    }
}

/// `None` without TLS.
fn export(connection: &Transport, label: &[u8], context: Option<&[u8]>) -> Option<[u8; 32]> {
    let Transport::Tls(stream) = connection else { return None };
    Some(stream.get_ref().1.export_keying_material([0; 32], label, context).expect("after the handshake"))
}

async fn read_answer(connection: &mut Transport) -> Result<Answer, No> {
    let mut bytes = Vec::new();
    loop {
        match Answer::parse(&bytes).expect("an answer") {
            // What follows are frames: none may be taken with it.
            Some((answer, length)) if length == bytes.len() => return Ok(answer),
            Some(_) => panic!("read too far"),
            None => {}
        }
        match tokio::time::timeout(PATIENCE, connection.read_u8()).await.expect("an answer or an end") {
            Ok(byte) => bytes.push(byte),
            Err(_) => return Err(No::Closed),
        }
    }
}
