//! The connection a tunnel's link runs over: plain TCP, or TLS 1.3 over it.

#![forbid(unsafe_code)]

use std::io::{self, IoSlice, Read, Write};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::Connection;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::{client, server};

use super::identity::Identity;
use super::kernel::TcpInfo;
use super::rehearsal::Rehearsal;
use super::tcp::{Tcp, Unbound};
use super::transport::Transport;

/// Plain text encrypted ahead of the socket, in bytes: four records.
const AHEAD: usize = 64 << 10;
/// The most a record takes on the wire: 16 KiB, 2048 bytes of expansion as TLS 1.2 allowed, and a header of 5
/// (RFC 5246, section 6.2.3). A part of one may wait inside rustls.
const RECORD_MAX: usize = (16 << 10) + 2048 + 5;
/// From this size, a buffer to read into also takes the ciphertext on its way.
const ROOMY: usize = 64 << 10;

/// One connection, polled by whoever owns it. It has no task and no buffer of its own but what rustls holds: at most a
/// record that has not come whole, and four that the socket does not take.
///
/// A wire belongs to the runtime it was made in; [`Wire::park`] takes it to another.
#[derive(Debug)]
pub struct Wire {
    tcp: Tcp,
    tls: Option<Box<Connection>>,
    identity: Option<Identity>,
    peer: Option<SocketAddr>,
    local: Option<SocketAddr>,
}

/// A wire between two runtimes: nothing is read or written, and nothing is lost.
#[derive(Debug)]
pub struct Parked {
    tcp: Unbound,
    tls: Option<Box<Connection>>,
    identity: Option<Identity>,
    peer: Option<SocketAddr>,
    local: Option<SocketAddr>,
}

impl Wire {
    pub fn plain(tcp: impl Into<Tcp>) -> Self {
        Self::new(tcp.into(), None, None)
    }

    /// After the handshake.
    pub fn from_client_tls(stream: client::TlsStream<TcpStream>) -> Self {
        let (tcp, connection) = stream.into_inner();
        Self::new(tcp.into(), Some(Connection::Client(connection)), None)
    }

    /// After the handshake, which has verified the dialer's certificate if it asked for one.
    pub fn from_server_tls(stream: server::TlsStream<TcpStream>) -> Self {
        let (tcp, connection) = stream.into_inner();
        let leaf = connection.peer_certificates().and_then(|chain| chain.first());
        let identity = leaf.and_then(|leaf| Identity::of_certificate(leaf));
        Self::new(tcp.into(), Some(Connection::Server(connection)), identity)
    }

    /// A connection as it was dialled. A unix socket is none of ours and comes back.
    pub fn from_transport(stream: Transport) -> Result<Self, Transport> {
        match stream {
            Transport::Tcp(tcp) => Ok(Self::plain(tcp)),
            Transport::Tls(stream) => Ok(Self::from_client_tls(*stream)),
            #[cfg(test)]
            Transport::Memory(socket) => Ok(Self::plain(Tcp::Memory(socket))),
            other => Err(other),
        }
    }

    /// The connection in an outage that is rehearsed, unless it is in that one already.
    pub fn rehearsed(self, rehearsal: &Arc<Rehearsal>) -> Self {
        Self { tcp: self.tcp.rehearsed(rehearsal), ..self }
    }

    /// Lets what is due in a rehearsed outage go its way; of any other connection nothing is.
    #[inline]
    pub fn drive(&mut self, context: &mut Context<'_>) {
        self.tcp.drive(context);
    }

    fn new(tcp: Tcp, tls: Option<Connection>, identity: Option<Identity>) -> Self {
        let (peer, local) = (tcp.peer_addr().ok(), tcp.local_addr().ok());
        let tls = tls.map(|mut connection| {
            connection.set_buffer_limit(Some(AHEAD));
            Box::new(connection)
        });
        Self { tcp, tls, identity, peer, local }
    }

    /// Reads what is there into `buffer`; `Ok(0)` is the peer's end, said (`close_notify`) or not.
    ///
    /// One system call and then as much as it brought. Under TLS a buffer of 64 KiB or more is also where the
    /// ciphertext lands, so it should be one that many wires share; a smaller one works, at several system calls a
    /// record. What lies in `buffer` beyond the bytes read is then garbage. An empty buffer reads nothing: `Ok(0)`.
    pub fn poll_read(&mut self, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let Some(tls) = &mut self.tls else { return read_tcp(&mut self.tcp, context, buffer) };
        if buffer.is_empty() {
            return Poll::Ready(Ok(0));
        }
        // What was decrypted in the handshake, or did not fit the last time; nothing after a `close_notify`.
        match tls.reader().read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // rustls has seen the end already, and no `close_notify`.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Poll::Ready(Ok(0)),
            decided => return Poll::Ready(decided),
        }
        let read = if buffer.len() >= ROOMY { read_many_records } else { read_a_record };
        let result = ready!(read(&mut self.tcp, tls, context, buffer));
        if result.is_err() && tls.wants_write() {
            // The alert that tells the peer what was wrong with it; the error stands without.
            let _ = tls.write_tls(&mut Socket { tcp: &mut self.tcp, context });
        }
        Poll::Ready(result)
    }

    /// Takes the beginning of `bytes`. Under TLS they count as written once they are encrypted, which they are only
    /// while the socket has taken all that was encrypted before; [`Wire::poll_flush`] pushes what waits.
    pub fn poll_write(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.tls {
            Some(_) => self.poll_write_vectored(context, &[IoSlice::new(bytes)]),
            None => Pin::new(&mut self.tcp).poll_write(context, bytes),
        }
    }

    /// The same for bytes in several places: one system call without TLS, whole records with it.
    pub fn poll_write_vectored(
        &mut self,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Some(tls) = &mut self.tls else { return Pin::new(&mut self.tcp).poll_write_vectored(context, slices) };
        ready!(flush(&mut self.tcp, tls, context))?;
        let taken = match slices {
            [one] => tls.writer().write(one),
            several => tls.writer().write_vectored(several),
        }?;
        // Pending is fine: the waker is set, and whoever writes or flushes next goes on from here.
        match flush(&mut self.tcp, tls, context) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(taken)),
        }
    }

    /// Ready when all that was written is with the kernel.
    pub fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.tls {
            Some(tls) => flush(&mut self.tcp, tls, context),
            None => Poll::Ready(Ok(())),
        }
    }

    /// What ties a proof to this very connection: 32 bytes that both ends know and nobody else (RFC 8446, section 7.5);
    /// zeros without TLS.
    pub fn binding(&self) -> io::Result<[u8; 32]> {
        Ok(self.export(b"EXPORTER-everlink-binding", None)?.unwrap_or_default())
    }

    /// The secret of a session made on this connection; `None` without TLS.
    pub fn session_secret(&self, session: &[u8; 16]) -> io::Result<Option<[u8; 32]>> {
        self.export(b"EXPORTER-everlink-session", Some(session))
    }

    fn export(&self, label: &[u8], about: Option<&[u8]>) -> io::Result<Option<[u8; 32]>> {
        let export = |tls: &Connection| tls.export_keying_material([0; 32], label, about).map_err(io::Error::other);
        self.tls.as_deref().map(export).transpose()
    }

    /// Who the dialer is, by its certificate; `None` at the dialer's end, and where no certificate was asked for.
    pub fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }

    pub fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// The socket; under TLS it carries ciphertext.
    pub fn tcp(&self) -> &Tcp {
        &self.tcp
    }

    /// What the kernel knows of it.
    pub fn tcp_info(&self) -> io::Result<TcpInfo> {
        self.tcp.info()
    }

    /// As it was when the connection stood, so it is there for the last words about a lost one.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    pub fn local(&self) -> Option<SocketAddr> {
        self.local
    }

    /// Its close will be a reset.
    pub fn reset_on_close(&self) -> io::Result<()> {
        self.tcp.reset_on_close()
    }

    /// The socket takes more only while fewer than so many bytes have not left the host. `Ok(false)`: this system
    /// cannot.
    pub fn set_notsent_lowat(&self, bytes: u32) -> io::Result<bool> {
        self.tcp.set_notsent_lowat(bytes)
    }

    /// Leaves this runtime with all that was read, decrypted and encrypted. An error means the connection is gone.
    pub fn park(self) -> io::Result<Parked> {
        let Self { tcp, tls, identity, peer, local } = self;
        Ok(Parked { tcp: tcp.unbind()?, tls, identity, peer, local })
    }
}

impl Parked {
    /// Joins the runtime it is called in; panics outside of one. An error means the connection is gone.
    pub fn unpark(self) -> io::Result<Wire> {
        let Self { tcp, tls, identity, peer, local } = self;
        Ok(Wire { tcp: tcp.bind()?, tls, identity, peer, local })
    }
}

fn read_tcp(tcp: &mut Tcp, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
    let mut buffer = ReadBuf::new(buffer);
    ready!(Pin::new(tcp).poll_read(context, &mut buffer))?;
    Poll::Ready(Ok(buffer.filled().len()))
}

/// Ciphertext comes into `buffer` behind room for a record, goes through rustls, and its plain text to the front.
///
/// rustls reads 4 KiB from a socket that has been quiet and a record from a busy one; this is one system call for all
/// that is there. The plain text never catches up with the ciphertext still to be taken: no record grows, and what
/// rustls held before is less than the room.
fn read_many_records(
    tcp: &mut Tcp,
    tls: &mut Connection,
    context: &mut Context<'_>,
    buffer: &mut [u8],
) -> Poll<io::Result<usize>> {
    loop {
        let came = ready!(read_tcp(tcp, context, &mut buffer[RECORD_MAX..]))?;
        if came == 0 {
            return Poll::Ready(Ok(0));
        }
        let end = RECORD_MAX + came;
        let (mut taken, mut plain) = (RECORD_MAX, 0);
        while taken < end {
            taken += tls.read_tls(&mut &buffer[taken..end])?;
            let state = tls.process_new_packets().map_err(invalid)?;
            if state.plaintext_bytes_to_read() > 0 {
                plain += tls.reader().read(&mut buffer[plain..taken])?;
            }
            if state.peer_has_closed() {
                return Poll::Ready(Ok(plain));
            }
        }
        if plain > 0 {
            return Poll::Ready(Ok(plain));
        }
    }
}

/// For buffers too small to hold ciphertext as well: rustls reads as it likes.
fn read_a_record(
    tcp: &mut Tcp,
    tls: &mut Connection,
    context: &mut Context<'_>,
    buffer: &mut [u8],
) -> Poll<io::Result<usize>> {
    loop {
        match tls.read_tls(&mut Socket { tcp, context }) {
            Ok(0) => return Poll::Ready(Ok(0)),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
            Err(error) => return Poll::Ready(Err(error)),
        }
        let state = tls.process_new_packets().map_err(invalid)?;
        if state.plaintext_bytes_to_read() > 0 || state.peer_has_closed() {
            return Poll::Ready(tls.reader().read(buffer));
        }
    }
}

/// Writes until the socket has all there is.
fn flush(tcp: &mut Tcp, tls: &mut Connection, context: &mut Context<'_>) -> Poll<io::Result<()>> {
    while tls.wants_write() {
        match tls.write_tls(&mut Socket { tcp, context }) {
            Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
            Err(error) => return Poll::Ready(Err(error)),
        }
    }
    Poll::Ready(Ok(()))
}

fn invalid(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// The socket as rustls wants it; `WouldBlock` has set the waker.
struct Socket<'a, 'b> {
    tcp: &'a mut Tcp,
    context: &'a mut Context<'b>,
}

impl Read for Socket<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        now(read_tcp(self.tcp, self.context, buffer))
    }
}

impl Write for Socket<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        now(Pin::new(&mut *self.tcp).poll_write(self.context, bytes))
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        now(Pin::new(&mut *self.tcp).poll_write_vectored(self.context, slices))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn now<T>(poll: Poll<io::Result<T>>) -> io::Result<T> {
    match poll {
        Poll::Ready(result) => result,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}

#[cfg(test)]
mod tests;
