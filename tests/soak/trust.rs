//! The certificates of a run: a CA, a pair for the gateways and one for the sidecar, renewed while it goes on.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};

pub struct Trust {
    directory: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Trust {
    pub fn new(directory: &Path) -> io::Result<Self> {
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let pem = params.self_signed(&key).map_err(io::Error::other)?.pem();
        let trust = Self { directory: directory.to_owned(), issuer: Issuer::new(params, key) };
        trust.put("ca.pem", &pem)?;
        trust.renew("gateway", &["127.0.0.1", "localhost"])?;
        trust.renew("sidecar", &["sidecar-a"])?;
        Ok(trust)
    }

    /// A new certificate in `name`.pem, with its key.
    pub fn renew(&self, name: &str, names: &[&str]) -> io::Result<()> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).map_err(io::Error::other)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let cert = params.signed_by(&key, &self.issuer).map_err(io::Error::other)?;
        self.put(&format!("{name}.key"), &key.serialize_pem())?;
        self.put(&format!("{name}.pem"), &cert.pem())
    }

    pub fn path(&self, file: &str) -> String {
        self.directory.join(file).display().to_string()
    }

    fn put(&self, file: &str, content: &str) -> io::Result<()> {
        let (path, beside) = (self.directory.join(file), self.directory.join(".beside"));
        fs::write(&beside, content)?;
        fs::set_permissions(&beside, fs::Permissions::from_mode(0o600))?;
        fs::rename(beside, path)
    }
}
