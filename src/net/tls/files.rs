//! The files TLS needs: reading them, and judging them before anything uses them.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;
use x509_parser::time::ASN1Time;

use crate::config::{ServerTls, Tls};

/// A bundle of all public roots has about 250 KiB; ten times that is no certificate file.
const FILE_MAX: u64 = 4 << 20;
/// A certificate that ends within this many seconds (7 days) is worth a word.
const ENDS_SOON: i64 = 7 * 24 * 60 * 60;

/// Which of an upstream's or the gateway's TLS files; shown as its key in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum File {
    Ca,
    /// Who signs the dialers' certificates; only a gateway has it.
    ClientCa,
    Cert,
    Key,
}

impl fmt::Display for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ca => "ca_file",
            Self::ClientCa => "client_ca_file",
            Self::Cert => "cert_file",
            Self::Key => "key_file",
        })
    }
}

/// A file that cannot be used. The message names it, says why, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct Fault {
    pub file: File,
    pub message: String,
}

/// Something about a file that works today and may not tomorrow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    pub file: File,
    pub message: String,
}

/// The files of one side of TLS.
pub(super) struct Named<'a> {
    ca: Option<(File, &'a Path)>,
    /// Our own certificate and its key.
    pair: Option<(&'a Path, &'a Path)>,
}

impl<'a> From<&'a Tls> for Named<'a> {
    fn from(tls: &'a Tls) -> Self {
        let pair = tls.client.as_ref().map(|client| (&*client.cert_file, &*client.key_file));
        Self { ca: tls.ca_file.as_deref().map(|path| (File::Ca, path)), pair }
    }
}

impl<'a> From<&'a ServerTls> for Named<'a> {
    fn from(tls: &'a ServerTls) -> Self {
        let ca = tls.client_ca_file.as_deref().map(|path| (File::ClientCa, path));
        Self { ca, pair: Some((&tls.cert_file, &tls.key_file)) }
    }
}

/// What the files held at one moment.
pub(super) struct Contents {
    ca: Option<Content>,
    pair: Option<(Content, Content)>,
}

struct Content {
    file: File,
    path: PathBuf,
    bytes: Vec<u8>,
    mode: u32,
}

/// Files found fit for use.
#[derive(Debug)]
pub(super) struct Material {
    /// `None`: no file is named.
    pub roots: Option<Vec<CertificateDer<'static>>>,
    /// Our own chain and key.
    pub pair: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    pub notices: Vec<Notice>,
    /// Seconds of Unix time: the next end among the CA's certificates, and among our own chain.
    pub ca_not_after: Option<i64>,
    pub pair_not_after: Option<i64>,
}

impl Contents {
    /// Reads the files until two readings agree, so that a pair swapped in between is not taken half old, half new.
    pub(super) fn read<'a>(files: impl Into<Named<'a>>) -> Result<Self, Fault> {
        let files = files.into();
        let mut contents = Self::read_once(&files)?;
        for _ in 0..3 {
            let again = Self::read_once(&files)?;
            if again.fingerprint() == contents.fingerprint() {
                break;
            }
            contents = again;
        }
        Ok(contents)
    }

    fn read_once(files: &Named<'_>) -> Result<Self, Fault> {
        let ca = files.ca.map(|(file, path)| Content::read(file, path)).transpose()?;
        let pair = match files.pair {
            Some((cert, key)) => Some((Content::read(File::Cert, cert)?, Content::read(File::Key, key)?)),
            None => None,
        };
        Ok(Self { ca, pair })
    }

    /// Equal when the contents are.
    pub(super) fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        let files = self.ca.iter().chain(self.pair.iter().flat_map(|(cert, key)| [cert, key]));
        for content in files {
            content.bytes.hash(&mut hasher);
        }
        hasher.finish()
    }

    /// Whether the files can be used at `now`, in seconds of Unix time. That key and certificate belong together is
    /// found when the configuration is built from them.
    pub(super) fn judge(&self, now: i64) -> Result<Material, Fault> {
        let mut notices = Vec::new();
        let mut material =
            Material { roots: None, pair: None, notices: Vec::new(), ca_not_after: None, pair_not_after: None };
        if let Some(ca) = &self.ca {
            ca.writable_only_by_its_owner()?;
            let roots = ca.certificates()?;
            let ends = ca.validities(&roots)?;
            // Roots are trusted whatever their dates, so an end is worth a word, not a refusal.
            for (_, end) in &ends {
                notices.extend(ca.ends_soon(end, now));
            }
            let ends = ends.iter().map(|(_, end)| end.timestamp());
            // The next one to come; a bundle may still hold what ended long ago.
            material.ca_not_after = ends.clone().filter(|end| *end > now).min().or(ends.max());
            material.roots = Some(roots);
        }
        if let Some((cert, key)) = &self.pair {
            cert.writable_only_by_its_owner()?;
            key.writable_only_by_its_owner()?;
            let chain = cert.certificates()?;
            let validities = cert.validities(&chain)?;
            for (start, end) in &validities {
                if start.timestamp() > now {
                    return Err(cert.fault(format!("is not valid before {start}: check this host's clock, or wait")));
                }
                if end.timestamp() < now {
                    return Err(cert.fault(format!("expired on {end}: put a renewed certificate there")));
                }
                notices.extend(cert.ends_soon(end, now));
            }
            material.pair_not_after = validities.iter().map(|(_, end)| end.timestamp()).min();
            material.pair = Some((chain, key.private_key()?));
        }
        material.notices = notices;
        Ok(material)
    }

    /// A fault of the key that only shows beside its certificate.
    pub(super) fn mismatch(&self, error: &rustls::Error) -> Fault {
        let (file, message) = match (&self.pair, error) {
            (Some((cert, key)), rustls::Error::InconsistentKeys(_)) => (
                File::Key,
                format!(
                    "{} is the key of another certificate than {}: put both of one pair in place",
                    key.path.display(),
                    cert.path.display()
                ),
            ),
            (Some((_, key)), error) => {
                (File::Key, format!("{} cannot be used as a private key: {error}", key.path.display()))
            }
            (None, error) => (File::Ca, format!("TLS cannot be set up: {error}")),
        };
        Fault { file, message }
    }

    /// A certificate of the CA file that cannot be trusted.
    pub(super) fn unusable_root(&self, error: &rustls::Error) -> Fault {
        let message = format!("holds a certificate that cannot be a root: {error}");
        match &self.ca {
            Some(ca) => ca.fault(message),
            None => Fault { file: File::Ca, message },
        }
    }
}

impl Content {
    fn read(file: File, path: &Path) -> Result<Self, Fault> {
        let told = |message: String| Fault { file, message: format!("{} {message}", path.display()) };
        let unreadable = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => told(format!("does not exist: put it there or correct tls.{file}")),
            io::ErrorKind::PermissionDenied => {
                told("may not be read by the user everlink runs as: check its owner and mode".to_owned())
            }
            _ => told(format!("cannot be read: {error}")),
        };
        // Without O_NONBLOCK a FIFO would hold us until someone writes to it.
        let mut options = std::fs::OpenOptions::new();
        let opened = options.read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(unreadable)?;
        let metadata = opened.metadata().map_err(unreadable)?;
        if !metadata.is_file() {
            return Err(told(format!("is not a regular file: correct tls.{file}")));
        }
        let mut bytes = Vec::new();
        opened.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        if bytes.len() as u64 > FILE_MAX {
            return Err(told(format!("is larger than {} MiB, no such file is: correct tls.{file}", FILE_MAX >> 20)));
        }
        Ok(Self { file, path: path.to_owned(), bytes, mode: metadata.mode() })
    }

    fn fault(&self, message: impl fmt::Display) -> Fault {
        Fault { file: self.file, message: format!("{} {message}", self.path.display()) }
    }

    fn writable_only_by_its_owner(&self) -> Result<(), Fault> {
        match self.mode & 0o002 {
            0 => Ok(()),
            _ => Err(self.fault("can be written by every user: chmod o-w it")),
        }
    }

    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, Fault> {
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(&self.bytes)
            .collect::<Result<_, _>>()
            .map_err(|error| self.fault(format!("is damaged ({error}): is it whole, and PEM?")))?;
        if !certificates.is_empty() {
            return Ok(certificates);
        }
        Err(self.fault(if contains(&self.bytes, "PRIVATE KEY-----") {
            "holds a private key and no certificate: are cert_file and key_file swapped?"
        } else {
            "holds no certificate: it must be PEM, with -----BEGIN CERTIFICATE-----"
        }))
    }

    fn private_key(&self) -> Result<PrivateKeyDer<'static>, Fault> {
        if contains(&self.bytes, "ENCRYPTED") {
            return Err(self.fault(
                "is encrypted, and nobody is there to type its password: decrypt it with `openssl pkey -in … -out …`",
            ));
        }
        PrivateKeyDer::from_pem_slice(&self.bytes).map_err(|_| {
            self.fault(if contains(&self.bytes, "BEGIN CERTIFICATE") {
                "holds a certificate and no private key: are cert_file and key_file swapped?"
            } else {
                "holds no private key: it must be PEM, with -----BEGIN PRIVATE KEY-----, RSA or EC"
            })
        })
    }

    fn validities(&self, certificates: &[CertificateDer<'_>]) -> Result<Vec<(ASN1Time, ASN1Time)>, Fault> {
        let one =
            |(index, certificate): (usize, &CertificateDer<'_>)| match x509_parser::parse_x509_certificate(certificate)
            {
                Ok((_, parsed)) => Ok((parsed.validity().not_before, parsed.validity().not_after)),
                Err(error) => {
                    Err(self.fault(format!("is damaged: certificate {} cannot be understood ({error})", index + 1)))
                }
            };
        certificates.iter().enumerate().map(one).collect()
    }

    fn ends_soon(&self, end: &ASN1Time, now: i64) -> Option<Notice> {
        let left = end.timestamp() - now;
        if left >= ENDS_SOON {
            return None;
        }
        let verb = if left < 0 { "expired" } else { "expires" };
        let message = format!("{} {verb} on {end}: renew it", self.path.display());
        Some(Notice { file: self.file, message })
    }
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}
