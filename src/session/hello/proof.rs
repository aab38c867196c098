//! What the ends of a tunnel know and never send, and how they show that they know it.

use std::fmt;

use ring::{hkdf, hmac};

use super::SessionId;

/// HMAC-SHA256.
pub const PROOF_LENGTH: usize = 32;

/// Sets a session's secret apart from whatever else may ever be derived from a token.
const SALT: &[u8] = b"everlink session";

/// What every dialer of a gateway knows. At least 16 bytes.
#[derive(Clone)]
pub struct Token(Box<[u8]>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a token has at least {shortest} bytes, this one has {0}", shortest = Token::SHORTEST)]
pub struct TokenTooShort(usize);

impl Token {
    pub const SHORTEST: usize = 16;

    /// Every byte counts: a file's last newline is dropped by whoever reads the file.
    pub fn new(bytes: &[u8]) -> Result<Self, TokenTooShort> {
        if bytes.len() < Self::SHORTEST { Err(TokenTooShort(bytes.len())) } else { Ok(Self(bytes.into())) }
    }

    /// Whether a file that was read again holds the same. Not for what a peer says: that is proven, never compared.
    pub fn is_same(&self, other: &Self) -> bool {
        self.0 == other.0
    }

    pub(super) fn proof(&self, label: &str, binding: &[u8; 32], messages: &[&[u8]]) -> [u8; PROOF_LENGTH] {
        proof(&self.0, label, binding, messages)
    }

    pub(super) fn verify(&self, label: &str, binding: &[u8; 32], messages: &[&[u8]], proof: &[u8]) -> bool {
        verify(&self.0, label, binding, messages, proof)
    }
}

/// What the two ends of one session know.
#[derive(Clone)]
pub struct Secret([u8; 32]);

impl Secret {
    /// Under TLS: exporter bytes of the connection that made the session.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Without TLS, where whoever knows the token and saw the hellos knows the secret too.
    pub fn from_token(token: &Token, session: &SessionId, dialer: &[u8; 32], gateway: &[u8; 32]) -> Self {
        Self(derive(&token.0, session, dialer, gateway))
    }

    /// Without TLS and without a token: whoever saw the hellos knows it. It keeps sessions of mistaken dialers apart,
    /// nothing more.
    pub fn without_token(session: &SessionId, dialer: &[u8; 32], gateway: &[u8; 32]) -> Self {
        Self(derive(&[], session, dialer, gateway))
    }

    pub(super) fn proof(&self, label: &str, binding: &[u8; 32], messages: &[&[u8]]) -> [u8; PROOF_LENGTH] {
        proof(&self.0, label, binding, messages)
    }

    pub(super) fn verify(&self, label: &str, binding: &[u8; 32], messages: &[&[u8]], proof: &[u8]) -> bool {
        verify(&self.0, label, binding, messages, proof)
    }

    #[cfg(test)]
    pub(super) fn revealed(&self) -> [u8; 32] {
        self.0
    }
}

fn derive(material: &[u8], session: &SessionId, dialer: &[u8; 32], gateway: &[u8; 32]) -> [u8; 32] {
    let key = hkdf::Salt::new(hkdf::HKDF_SHA256, SALT).extract(material);
    let mut secret = [0; 32];
    // 32 bytes out of 32 × 255 possible, into an array of that very length: neither step has a way to fail.
    key.expand(&[&session.0, dialer, gateway], hkdf::HKDF_SHA256)
        .and_then(|material| material.fill(&mut secret))
        .expect("HKDF-SHA256 yields 32 bytes");
    secret
}

fn proof(key: &[u8], label: &str, binding: &[u8; 32], messages: &[&[u8]]) -> [u8; PROOF_LENGTH] {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    context.update(label.as_bytes());
    context.update(binding);
    for message in messages {
        context.update(message);
    }
    let mut proof = [0; PROOF_LENGTH];
    proof.copy_from_slice(context.sign().as_ref());
    proof
}

/// In a time that does not depend on where the two differ. `ring` compares so only over one piece, hence the copy: two
/// messages of 4 KiB at most.
fn verify(key: &[u8], label: &str, binding: &[u8; 32], messages: &[&[u8]], proof: &[u8]) -> bool {
    let mut covered = [label.as_bytes(), binding].concat();
    messages.iter().for_each(|message| covered.extend_from_slice(message));
    hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, key), &covered, proof).is_ok()
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_token_is_refused_and_none_is_ever_shown() {
        assert_eq!(Token::new(b"fifteen bytes..").unwrap_err(), TokenTooShort(15));
        let token = Token::new(b"sixteen bytes...").expect("long enough");
        let secret = Secret::new(*b"a secret of thirty-two bytes....");
        assert_eq!(format!("{token:?} {secret:?}"), "*** ***");
    }

    #[test]
    fn the_secret_is_hkdf_of_token_session_and_both_nonces() {
        let token = Token::new(b"a token that is longer than sixteen").expect("long enough");
        let secret = Secret::from_token(&token, &SessionId([1; 16]), &[2; 32], &[3; 32]);
        // RFC 5869 by hand: extract, then the one block of 32 bytes that expand needs.
        let sign = |key: &[u8], message: &[u8]| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message);
        let extracted = sign(b"everlink session", b"a token that is longer than sixteen");
        let info = [&[1u8; 16][..], &[2; 32], &[3; 32], &[1]].concat();
        assert_eq!(secret.revealed(), sign(extracted.as_ref(), &info).as_ref());
    }

    #[test]
    fn every_input_changes_the_secret() {
        let token = |text: &[u8]| Token::new(text).expect("long enough");
        let (one, other) = (token(b"0123456789abcdef"), token(b"0123456789abcdefg"));
        let id = SessionId([1; 16]);
        let secrets = [
            Secret::from_token(&one, &id, &[2; 32], &[3; 32]),
            Secret::from_token(&other, &id, &[2; 32], &[3; 32]),
            Secret::from_token(&one, &SessionId([9; 16]), &[2; 32], &[3; 32]),
            Secret::from_token(&one, &id, &[3; 32], &[2; 32]),
            Secret::from_token(&one, &id, &[2; 32], &[2; 32]),
            Secret::without_token(&id, &[2; 32], &[3; 32]),
        ];
        let different: std::collections::HashSet<_> = secrets.iter().map(Secret::revealed).collect();
        assert_eq!(different.len(), secrets.len());
    }
}
