//! What the TLS files of an upstream hold.

use std::path::Path;

use crate::config;

/// Which of the files is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum File {
    Ca,
    Cert,
    Key,
}

/// A file that cannot be used, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    pub file: File,
    pub message: String,
}

/// Something worth knowing about a file that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    pub file: File,
    pub message: String,
}

/// Looks at every file named. Errors: the first that cannot be read.
pub fn inspect(tls: &config::Tls) -> Result<Vec<Notice>, Fault> {
    let client = tls.client.as_ref();
    let named = [
        (File::Ca, tls.ca_file.as_deref()),
        (File::Cert, client.map(|client| client.cert_file.as_path())),
        (File::Key, client.map(|client| client.key_file.as_path())),
    ];
    for (file, path) in named {
        if let Some(path) = path {
            readable(path).map_err(|error| Fault { file, message: format!("cannot be read: {error}") })?;
        }
    }
    Ok(Vec::new())
}

fn readable(path: &Path) -> std::io::Result<()> {
    std::fs::File::open(path).map(drop)
}
