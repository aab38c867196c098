//! TLS towards a gateway's dialers: 1.3 and everlink's own protocol, nothing else.

use std::io;
use std::sync::Arc;

use rustls::server::{Acceptor, NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{CertificateError, PeerIncompatible, ServerConfig};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;

use super::files::{Contents, Fault, File, Material, Notice};
use super::kept::{Kept, Loaded};
use super::{TUNNEL_PROTOCOL, provider, roots, unix_now};
use crate::config;
use crate::net::renewal::Renewed;
use crate::net::wire::Wire;

/// What a gateway shakes hands with, by its files as they were last found fit.
///
/// Sessions are never resumed (no ticket is sent, none is taken) and nothing is read before a handshake has ended, so
/// that every connection shows the dialer's certificate anew.
pub struct ServerTls {
    settings: config::ServerTls,
    kept: Kept<ServerConfig>,
}

/// Why a dialer is refused that TLS itself has nothing against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
enum Refused {
    #[error("it does not ask for everlink/1 (ALPN): only everlink's own dialers are served here")]
    Protocol,
    #[error("its certificate has no URI or DNS name among its subject alternative names: issue one that has")]
    Nameless,
}

impl ServerTls {
    /// Reads and judges the files.
    pub fn new(settings: &config::ServerTls) -> Result<Self, Fault> {
        let loaded = load(&Contents::read(settings)?)?;
        Ok(Self { settings: settings.clone(), kept: Kept::new(loaded) })
    }

    /// Looks at the files again. `Others`: they had changed, and new handshakes use them. What cannot be used (half
    /// written, of two pairs, expired) changes nothing, and is an error once: the same fault of the same contents is
    /// `Same` from then on. Connections that stand are never touched. Blocks on the file system.
    pub fn reload(&self) -> Result<Renewed, Fault> {
        self.kept.renew(Contents::read(&self.settings), load)
    }

    /// Whether the files, when they were last read, held what cannot be used: older content is in force then.
    pub fn is_behind(&self) -> bool {
        self.kept.is_behind()
    }

    /// Shakes hands with a dialer. The caller sets the limit of time; dropping the future closes the connection.
    /// [`explain`] says what an error means. With a `client_ca_file` the wire has an identity.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<Wire> {
        let config = self.kept.get().config.clone();
        let asks_for_certificate = self.asks_for_certificate();
        let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        // TLS would let a dialer pass that names no protocol at all.
        if !start.client_hello().alpn().into_iter().flatten().any(|protocol| protocol == TUNNEL_PROTOCOL) {
            // Nothing has been sent on this connection, so there is room; a peer that is gone needs no alert.
            let _ = start.io.try_write(&NO_APPLICATION_PROTOCOL);
            return Err(refused(Refused::Protocol));
        }
        let wire = Wire::from_server_tls(start.into_stream(config).await?);
        match wire.identity() {
            None if asks_for_certificate => Err(refused(Refused::Nameless)),
            _ => Ok(wire),
        }
    }

    /// Whether a dialer must show a certificate.
    pub fn asks_for_certificate(&self) -> bool {
        self.settings.client_ca_file.is_some()
    }

    /// When the gateway's certificate, or one of its chain, ends, in seconds of Unix time: the role `server`.
    pub fn not_after(&self) -> Option<i64> {
        self.kept.get().pair_not_after
    }

    /// When the next certificate of `client_ca_file` ends, in seconds of Unix time: the role `client_ca`.
    pub fn client_ca_not_after(&self) -> Option<i64> {
        self.kept.get().ca_not_after
    }
}

/// The fatal alert of this name in a record of its own (RFC 8446, sections 5.1 and 6; RFC 7301, section 3.2).
const NO_APPLICATION_PROTOCOL: [u8; 7] = [21, 3, 3, 0, 2, 2, 120];

fn refused(why: Refused) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// Whether the files a gateway's configuration names can be used now: what [`ServerTls::new`] would say, and what it
/// would not refuse but a person should know.
pub fn inspect(tls: &config::ServerTls) -> Result<Vec<Notice>, Fault> {
    let contents = Contents::read(tls)?;
    let material = contents.judge(unix_now())?;
    let notices = material.notices.clone();
    build(&contents, material)?;
    Ok(notices)
}

/// What a dialer's failed handshake means, and what to do about it. There are few such texts, and nothing in them is the
/// dialer's to choose, so that lines of log can be told once and then counted by them.
pub fn explain(error: &io::Error) -> String {
    if let Some(refused) = inner::<Refused>(error) {
        return refused.to_string();
    }
    let Some(tls) = inner::<rustls::Error>(error) else {
        return match error.kind() {
            io::ErrorKind::UnexpectedEof => "it closed the connection in the middle of the handshake".to_owned(),
            _ => error.to_string(),
        };
    };
    match tls {
        rustls::Error::InvalidMessage(_) => "it does not speak TLS".to_owned(),
        rustls::Error::PeerIncompatible(
            PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::SupportedVersionsExtensionRequired,
        ) => "it does not speak TLS 1.3".to_owned(),
        rustls::Error::NoCertificatesPresented => {
            "it shows no certificate: set tls.cert_file and tls.key_file there".to_owned()
        }
        rustls::Error::InvalidCertificate(certificate) => explain_certificate(certificate),
        rustls::Error::AlertReceived(alert) => {
            format!("it refused the handshake ({alert:?}): see its log; does it trust this gateway's certificate?")
        }
        other => other.to_string(),
    }
}

fn explain_certificate(error: &CertificateError) -> String {
    match error {
        CertificateError::UnknownIssuer => {
            "its certificate is signed by nobody trusted here: set gateway.tls.client_ca_file to the CA that signed it"
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "its certificate has expired: renew it there"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid yet: compare both hosts' clocks"
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "its certificate is not meant for clients (extended key usage): issue one for clientAuth"
        }
        CertificateError::BadEncoding => "its certificate cannot be understood",
        CertificateError::Revoked => "its certificate has been revoked",
        _ => "its certificate was rejected",
    }
    .to_owned()
}

fn inner<E: std::error::Error + 'static>(error: &io::Error) -> Option<&E> {
    error.get_ref().and_then(|inner| inner.downcast_ref::<E>())
}

fn load(contents: &Contents) -> Result<Loaded<ServerConfig>, Fault> {
    let material = contents.judge(unix_now())?;
    let (ca_not_after, pair_not_after) = (material.ca_not_after, material.pair_not_after);
    let config = Arc::new(build(contents, material)?);
    Ok(Loaded { config, fingerprint: contents.fingerprint(), ca_not_after, pair_not_after })
}

fn build(contents: &Contents, material: Material) -> Result<ServerConfig, Fault> {
    let unusable = |message: String| Fault { file: File::Cert, message: format!("TLS cannot be set up: {message}") };
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| contents.mismatch(&error))?;
    let builder = match material.roots {
        Some(certificates) => {
            let trusted = Arc::new(roots(contents, certificates)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(trusted, provider()).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| unusable(error.to_string()))?)
        }
        None => builder.with_no_client_auth(),
    };
    let (chain, key) = material.pair.ok_or_else(|| unusable("there is no certificate".to_owned()))?;
    let mut config = builder.with_single_cert(chain, key).map_err(|error| contents.mismatch(&error))?;
    config.alpn_protocols = vec![TUNNEL_PROTOCOL.to_vec()];
    // Our order of suites holds, which begins with the fastest.
    config.ignore_client_order = true;
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
    Ok(config)
}

#[cfg(test)]
mod tests;
