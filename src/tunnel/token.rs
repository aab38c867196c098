//! The token that both ends of a tunnel share, ready for use.

use std::path::Path;

use crate::net::token::{self, TokenError};
use crate::session::hello::Token;

/// Reads it from its file. Errors: why it cannot be used, with the file's name.
pub fn read(path: &Path) -> Result<Token, String> {
    let fault = |error: TokenError| format!("token_file {} {error}", path.display());
    let bytes = token::read(path).map_err(fault)?;
    Token::new(&bytes).map_err(|_| fault(TokenError::Short(bytes.len())))
}
