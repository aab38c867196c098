//! Who a peer is: one name out of its certificate, the same for permissions, sessions and limits.

#![forbid(unsafe_code)]

use std::fmt;
use std::sync::Arc;

use x509_parser::der_parser::asn1_rs::Tag;
use x509_parser::extensions::GeneralName;

/// The name a peer goes by: its certificate's first URI among the subject alternative names, else the first DNS name.
/// Never the common name, which anybody may be given. Compared byte by byte, so `allow` spells it as the certificate
/// does. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity(Arc<str>);

impl Identity {
    /// The longest, in bytes: SPIFFE allows URIs of 2048, those in use have below 100, and a DNS name has at most 253.
    pub const LENGTH_MAX: usize = 255;

    /// Of a leaf certificate (DER) whose chain has been verified. `None`: it has no such name, or the name that counts
    /// is empty, too long, or holds anything but printable ASCII. A bad URI does not make room for a DNS name.
    pub fn of_certificate(der: &[u8]) -> Option<Self> {
        let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
        let names = &certificate.subject_alternative_name().ok()??.value.general_names;
        let uri = names.iter().find(|name| matches!(name, GeneralName::URI(_) | GeneralName::Invalid(URI_TAG, _)));
        let name = uri.or_else(|| {
            names.iter().find(|name| matches!(name, GeneralName::DNSName(_) | GeneralName::Invalid(DNS_TAG, _)))
        });
        match name? {
            GeneralName::URI(name) | GeneralName::DNSName(name) => Self::fit(name),
            _ => None,
        }
    }

    fn fit(name: &str) -> Option<Self> {
        let printable = name.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        (printable && (1..=Self::LENGTH_MAX).contains(&name.len())).then(|| Self(Arc::from(name)))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// How a name that is no text shows up (RFC 5280, section 4.2.1.6).
const URI_TAG: Tag = Tag(6);
const DNS_TAG: Tag = Tag(2);

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, CustomExtension, DnType, KeyPair, SanType};

    use super::*;

    fn certificate(change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "common");
        change(&mut params);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    fn dns(name: &str) -> SanType {
        SanType::DnsName(name.try_into().unwrap())
    }

    fn uri(name: &str) -> SanType {
        SanType::URI(name.try_into().unwrap())
    }

    fn of(names: Vec<SanType>) -> Option<String> {
        Identity::of_certificate(&certificate(|params| params.subject_alt_names = names)).map(|name| name.to_string())
    }

    /// Subject alternative names as bytes: tag and content of each.
    fn of_raw(names: &[(u8, &[u8])]) -> Option<Identity> {
        let mut content = Vec::new();
        for (tag, name) in names {
            content.extend([0x80 | tag, u8::try_from(name.len()).unwrap()]);
            content.extend(*name);
        }
        let mut der = vec![0x30, u8::try_from(content.len()).unwrap()];
        der.extend(content);
        let extension = CustomExtension::from_oid_content(&[2, 5, 29, 17], der);
        Identity::of_certificate(&certificate(|params| params.custom_extensions = vec![extension]))
    }

    #[test]
    fn the_first_uri_counts_then_the_first_dns_name_and_never_the_common_name() {
        let name = |name: &str| Some(name.to_owned());
        assert_eq!(of(vec![dns("a"), uri("spiffe://x/1"), uri("spiffe://x/2")]), name("spiffe://x/1"));
        assert_eq!(of(vec![dns("Sidecar-A"), dns("b")]), name("Sidecar-A"));
        assert_eq!(of(vec![SanType::IpAddress([10, 0, 0, 1].into()), dns("b")]), name("b"));
        assert_eq!(of(vec![SanType::Rfc822Name("a@b".try_into().unwrap())]), None);
        assert_eq!(of(vec![]), None);
    }

    #[test]
    fn a_name_that_is_empty_long_or_not_printable_is_none_and_hides_behind_no_other() {
        assert_eq!(of_raw(&[(6, b"spiffe://x"), (2, b"a")]).unwrap().as_str(), "spiffe://x");
        for bad in [&b"spiffe://x\n"[..], b"a\0b", b"", b"\xff\xfe", "caf\u{e9}".as_bytes()] {
            assert_eq!(of_raw(&[(6, bad), (2, b"a")]), None, "{bad:?}");
            assert_eq!(of_raw(&[(2, bad), (2, b"a")]), None, "{bad:?}");
        }
        assert_eq!(of(vec![uri(&"u".repeat(255))]).map(|name| name.len()), Some(255));
        assert_eq!(of(vec![uri(&"u".repeat(256))]), None);
    }

    #[test]
    fn what_is_no_certificate_has_no_name() {
        let whole = certificate(|params| params.subject_alt_names = vec![dns("a")]);
        for length in 0..whole.len() {
            assert_eq!(Identity::of_certificate(&whole[..length]), None);
        }
    }
}
