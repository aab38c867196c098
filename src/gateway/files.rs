//! What a gateway reads from files: its certificate and the dialers' CA, and the token.

use std::sync::Arc;

use crate::config;
use crate::net::tls::server::ServerTls;
use crate::net::token;
use crate::session::hello::Token;

/// Files as they were last found fit. What they hold is used from the next handshake on.
#[derive(Clone, Default)]
pub struct Files {
    /// `None`: plain TCP.
    pub tls: Option<Arc<ServerTls>>,
    /// What dialers must prove to know; `None`: nothing.
    pub token: Option<Arc<KnownToken>>,
}

/// A token, and what its file holds that could not be used.
pub struct KnownToken {
    pub token: Token,
    pub(super) bytes: Vec<u8>,
}

impl Files {
    /// Reads and judges them. Errors: what is wrong with which file, in one line.
    pub fn read(settings: &config::Gateway) -> Result<Self, String> {
        let tls = settings.tls.as_ref().map(ServerTls::new).transpose().map_err(|fault| fault.to_string())?;
        Ok(Self { tls: tls.map(Arc::new), token: read_token(settings)?.map(Arc::new) })
    }

    /// Whether two settings name the same files, to be used in the same way.
    pub fn are_the_same(one: &config::Gateway, other: &config::Gateway) -> bool {
        one.tls == other.tls && one.token_file == other.token_file
    }

    /// Whether a dialer must show a certificate.
    pub fn asks_for_certificate(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.asks_for_certificate())
    }

    /// Reads the token again. `Some`: it is another one.
    pub fn reread_token(&self, settings: &config::Gateway) -> Result<Option<Arc<KnownToken>>, String> {
        let known = self.token.as_ref().map(|known| &known.bytes);
        Ok(read_token(settings)?.filter(|new| Some(&new.bytes) != known).map(Arc::new))
    }
}

fn read_token(settings: &config::Gateway) -> Result<Option<KnownToken>, String> {
    let Some(path) = &settings.token_file else { return Ok(None) };
    let unfit = |why: &dyn std::fmt::Display| format!("token_file {} {why}", path.display());
    let bytes = token::read(path).map_err(|error| unfit(&error))?;
    let token = Token::new(&bytes).map_err(|error| unfit(&error))?;
    Ok(Some(KnownToken { token, bytes }))
}
