//! TLS: who is trusted, who we are, and taking renewed files without a restart. Towards the endpoints here, towards a
//! gateway's dialers in [`server`].

#![forbid(unsafe_code)]

#[cfg(test)]
pub(crate) mod authority;
mod files;
mod kept;
pub mod server;

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::{self, cipher_suite};
use rustls::{AlertDescription, CertificateError, ClientConfig, RootCertStore, SupportedProtocolVersion};
use rustls_pki_types::{CertificateDer, ServerName};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use files::{Contents, Material};
pub use files::{Fault, File, Notice};
use kept::{Kept, Loaded};

#[cfg(test)]
use crate::config;
use crate::config::{Address, Tls};
use crate::net::renewal::Renewed;

/// What a tunnel's link says it speaks (ALPN), and what both ends insist on: one name a major version of the protocol.
pub const TUNNEL_PROTOCOL: &[u8] = b"everlink/1";

/// TLS towards one upstream's endpoints, by its files as they were last found fit: 1.2 and 1.3 in direct mode, 1.3 with
/// [`TUNNEL_PROTOCOL`] towards a gateway.
///
/// Sessions are never resumed. Warm connections are opened ahead of their clients, so a shorter handshake would save
/// nobody time, and a resumed session skips what a rotation is for: the peer's certificate would not be looked at
/// again, and a renewed client certificate not be shown.
pub struct ClientTls {
    settings: Tls,
    speaks: Speaks,
    kept: Kept<ClientConfig>,
}

/// What is spoken inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Speaks {
    /// What the endpoint speaks; `tls.alpn` may name it.
    Anything,
    Tunnel,
}

/// A host that TLS cannot check a certificate against.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{name:?} is no name or address a certificate can carry: set tls.server_name")]
pub struct BadServerName {
    pub name: String,
}

/// The peer did not take up [`TUNNEL_PROTOCOL`].
#[derive(Debug, Error)]
#[error(
    "it does not speak everlink/1 (ALPN): is an everlink gateway listening there, and nothing that ends TLS before it?"
)]
struct NotATunnel;

impl ClientTls {
    /// Reads and judges the files.
    pub fn new(settings: &Tls) -> Result<Self, Fault> {
        Self::speaking(settings, Speaks::Anything)
    }

    /// The same for links to a gateway. `settings.alpn` is not looked at.
    pub fn for_tunnel(settings: &Tls) -> Result<Self, Fault> {
        Self::speaking(settings, Speaks::Tunnel)
    }

    fn speaking(settings: &Tls, speaks: Speaks) -> Result<Self, Fault> {
        let loaded = load(settings, speaks, &Contents::read(settings)?)?;
        Ok(Self { settings: settings.clone(), speaks, kept: Kept::new(loaded) })
    }

    /// Looks at the files again. `Others`: they had changed, and new handshakes use them. What cannot be used (half
    /// written, of two pairs, expired) changes nothing, and is an error once: the same fault of the same contents is
    /// `Same` from then on. Connections that stand are never touched. Blocks on the file system.
    ///
    /// The system's roots are read once in a process's life, and not here.
    pub fn reload(&self) -> Result<Renewed, Fault> {
        let contents = Contents::read(&self.settings);
        self.kept.renew(contents, |contents| load(&self.settings, self.speaks, contents))
    }

    /// Whether the files, when they were last read, held what cannot be used: older content is in force then.
    pub fn is_behind(&self) -> bool {
        self.kept.is_behind()
    }

    /// What the endpoint's certificate is checked against: `tls.server_name`, else the endpoint's host. An address is
    /// looked for among the certificate's IP SANs.
    pub fn server_name(&self, address: &Address) -> Result<ServerName<'static>, BadServerName> {
        let name = self.settings.server_name.clone().unwrap_or_else(|| address.host());
        ServerName::try_from(name.clone()).map_err(|_| BadServerName { name })
    }

    /// Shakes hands over a connection that stands. The caller sets the limit of time; dropping the future closes the
    /// connection. [`explain`] says what an error means. A gateway that does not like the client's certificate says so
    /// only after the handshake: the first read is then the error, and [`explain`] knows it too.
    pub async fn handshake<S>(&self, name: ServerName<'static>, stream: S) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let config = self.kept.get().config.clone();
        let stream = TlsConnector::from(config).connect(name, stream).await?;
        if self.speaks == Speaks::Tunnel && stream.get_ref().1.alpn_protocol() != Some(TUNNEL_PROTOCOL) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, NotATunnel));
        }
        Ok(stream)
    }

    /// When the next certificate of `ca_file` ends, in seconds of Unix time; `None` with the system's roots.
    pub fn ca_not_after(&self) -> Option<i64> {
        self.kept.get().ca_not_after
    }

    /// When the client's certificate, or one of its chain, ends, in seconds of Unix time.
    pub fn client_not_after(&self) -> Option<i64> {
        self.kept.get().pair_not_after
    }
}

/// Whether the files a configuration names can be used now: what [`ClientTls::new`] would say, and what it would not
/// refuse but a person should know.
pub fn inspect(tls: &Tls) -> Result<Vec<Notice>, Fault> {
    let contents = Contents::read(tls)?;
    let material = contents.judge(unix_now())?;
    let notices = material.notices.clone();
    build(tls, Speaks::Anything, &contents, material)?;
    Ok(notices)
}

/// What a failed handshake means, and what to do about it.
pub fn explain(error: &io::Error) -> String {
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        return match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                "it closed the connection in the middle of the handshake: does it speak TLS there?".to_owned()
            }
            _ => error.to_string(),
        };
    };
    match tls {
        rustls::Error::InvalidCertificate(certificate) => explain_certificate(certificate),
        rustls::Error::InvalidMessage(_) => "its answer is not TLS: servers that begin in plain text (PostgreSQL \
             before 17, MySQL, STARTTLS) cannot be used with `tls`"
            .to_owned(),
        rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol) => {
            "it speaks none of the protocols offered (ALPN): is the right server listening there?".to_owned()
        }
        rustls::Error::AlertReceived(AlertDescription::ProtocolVersion) => {
            "it speaks no version of TLS that is offered here: 1.2 and 1.3, to a gateway 1.3 alone".to_owned()
        }
        rustls::Error::AlertReceived(alert) => {
            format!("it refused the handshake ({alert:?}): see its log; does it want a client certificate?")
        }
        other => other.to_string(),
    }
}

fn explain_certificate(error: &CertificateError) -> String {
    /// Names are the peer's to choose; a line of log is ours.
    const NAMES_SHOWN: usize = 5;
    match error {
        CertificateError::UnknownIssuer => {
            "its certificate is signed by nobody trusted here: set tls.ca_file to the CA that signed it".to_owned()
        }
        CertificateError::NotValidForNameContext { expected, presented } => {
            let mut names: Vec<String> = presented.iter().take(NAMES_SHOWN).map(|name| shown(name)).collect();
            if presented.len() > NAMES_SHOWN {
                names.push(format!("{} more", presented.len() - NAMES_SHOWN));
            }
            format!(
                "its certificate is not for {} but for {}: set tls.server_name to one of its names",
                expected.to_str(),
                if names.is_empty() { "nobody".to_owned() } else { names.join(", ") }
            )
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "its certificate has expired: renew it there".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid yet: compare both hosts' clocks".to_owned()
        }
        other => format!("its certificate was rejected: {other}"),
    }
}

/// A string of the peer's, harmless in a line of log.
fn shown(text: &str) -> String {
    text.escape_debug().take(100).collect()
}

fn unix_now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn load(tls: &Tls, speaks: Speaks, contents: &Contents) -> Result<Loaded<ClientConfig>, Fault> {
    let material = contents.judge(unix_now())?;
    let (ca_not_after, pair_not_after) = (material.ca_not_after, material.pair_not_after);
    let config = Arc::new(build(tls, speaks, contents, material)?);
    Ok(Loaded { config, fingerprint: contents.fingerprint(), ca_not_after, pair_not_after })
}

fn build(tls: &Tls, speaks: Speaks, contents: &Contents, material: Material) -> Result<ClientConfig, Fault> {
    let roots = match material.roots {
        Some(certificates) => Arc::new(roots(contents, certificates)?),
        None => system_roots()?,
    };
    let versions: &[&SupportedProtocolVersion] = match speaks {
        Speaks::Anything => rustls::DEFAULT_VERSIONS,
        Speaks::Tunnel => &[&rustls::version::TLS13],
    };
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .map_err(|error| contents.mismatch(&error))?
        .with_root_certificates(roots);
    let mut config = match material.pair {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(|error| contents.mismatch(&error))?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = match speaks {
        Speaks::Anything => tls.alpn.iter().map(|protocol| protocol.clone().into_bytes()).collect(),
        Speaks::Tunnel => vec![TUNNEL_PROTOCOL.to_vec()],
    };
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// The certificates of the CA file as what is trusted.
fn roots(contents: &Contents, certificates: Vec<CertificateDer<'static>>) -> Result<RootCertStore, Fault> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate).map_err(|error| contents.unusable_root(&error))?;
    }
    Ok(roots)
}

/// *ring*, told here and nowhere else: no process-wide default is relied on. AES-128 before AES-256: as safe for any
/// traffic of today and a quarter cheaper; the server still decides.
fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    let build = || {
        let mut provider = ring::default_provider();
        let first = [
            cipher_suite::TLS13_AES_128_GCM_SHA256.suite(),
            cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256.suite(),
            cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256.suite(),
        ];
        provider.cipher_suites.sort_by_key(|suite| !first.contains(&suite.suite()));
        Arc::new(provider)
    };
    PROVIDER.get_or_init(build).clone()
}

/// The roots this system trusts, read once and shared by all upstreams: a set takes about 100 KiB.
fn system_roots() -> Result<Arc<RootCertStore>, Fault> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    if let Some(roots) = ROOTS.get() {
        return Ok(roots.clone());
    }
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(found.certs);
    if usable == 0 {
        let why = found.errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
        let message = format!("this system has no trusted roots{why}: set tls.ca_file, or install ca-certificates");
        return Err(Fault { file: File::Ca, message });
    }
    Ok(ROOTS.get_or_init(|| Arc::new(roots)).clone())
}

#[cfg(test)]
mod tests;
