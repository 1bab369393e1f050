//! The little of DER that is needed to find two fields of a certificate. rustls has checked the certificates it accepts;
//! this only must not stumble over any others.
//!
//! <https://www.rfc-editor.org/rfc/rfc5280#section-4.1>

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OBJECT_IDENTIFIER: u8 = 0x06;
/// `[0] EXPLICIT`, a certificate's version.
const VERSION: u8 = 0xa0;
/// 2.5.4.3
const COMMON_NAME: &[u8] = &[0x55, 4, 3];

/// One element and what follows it.
#[derive(Debug, Clone, Copy)]
struct Element<'a> {
    tag: u8,
    content: &'a [u8],
    rest: &'a [u8],
}

/// The signature algorithm of a certificate: its identifier's content, and its parameters.
pub(super) fn signature_algorithm(certificate: &[u8]) -> Option<(&[u8], &[u8])> {
    let whole = inside(certificate, SEQUENCE)?;
    let signed = read(whole.content)?;
    let algorithm = inside(signed.rest, SEQUENCE)?;
    let identifier = inside(algorithm.content, OBJECT_IDENTIFIER)?;
    Some((identifier.content, identifier.rest))
}

/// The first object identifier in the first element of `parameters`' fields, for RSASSA-PSS: the hash algorithm.
pub(super) fn pss_hash(parameters: &[u8]) -> Option<&[u8]> {
    let fields = inside(parameters, SEQUENCE)?;
    // [0] EXPLICIT AlgorithmIdentifier; absent, it is SHA-1.
    let hash = inside(fields.content, 0xa0)?;
    let algorithm = inside(hash.content, SEQUENCE)?;
    Some(inside(algorithm.content, OBJECT_IDENTIFIER)?.content)
}

/// The last common name of a certificate's subject, as OpenSSL and so the server takes it.
pub(super) fn common_name(certificate: &[u8]) -> Option<String> {
    let whole = inside(certificate, SEQUENCE)?;
    let signed = inside(whole.content, SEQUENCE)?;
    let mut rest = signed.content;
    if rest.first() == Some(&VERSION) {
        rest = read(rest)?.rest;
    }
    // serial number, signature, issuer, validity
    for _ in 0..4 {
        rest = read(rest)?.rest;
    }
    let mut names = inside(rest, SEQUENCE)?.content;
    let mut found = None;
    while !names.is_empty() {
        let set = inside(names, SET)?;
        names = set.rest;
        let mut parts = set.content;
        while !parts.is_empty() {
            let part = inside(parts, SEQUENCE)?;
            parts = part.rest;
            let kind = inside(part.content, OBJECT_IDENTIFIER)?;
            if kind.content == COMMON_NAME {
                found = Some(text(read(kind.rest)?)?);
            }
        }
    }
    found
}

/// A text without a zero byte: with one, it could be another name to whoever reads it as C does.
fn text(element: Element<'_>) -> Option<String> {
    let text = match element.tag {
        // UTF8String, PrintableString, IA5String
        0x0c | 0x13 | 0x16 => std::str::from_utf8(element.content).ok()?.to_owned(),
        _ => return None,
    };
    (!text.contains('\0')).then_some(text)
}

fn inside(bytes: &[u8], tag: u8) -> Option<Element<'_>> {
    read(bytes).filter(|element| element.tag == tag)
}

fn read(bytes: &[u8]) -> Option<Element<'_>> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (length, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some(Element { tag, content, rest })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn certificate(name: &str) -> Vec<u8> {
        let mut params = rcgen::CertificateParams::new(vec!["host.example".to_owned()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "an organization");
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let key = rcgen::KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn the_common_name_is_found() {
        assert_eq!(common_name(&certificate("ann")).as_deref(), Some("ann"));
        assert_eq!(common_name(&certificate("j\u{e9}r\u{f4}me")).as_deref(), Some("j\u{e9}r\u{f4}me"));
        assert_eq!(common_name(&certificate("ann\0.example")), None);
    }

    #[test]
    fn any_truncation_and_any_changed_byte_is_survived() {
        let whole = certificate("ann");
        for n in 0..whole.len() {
            let _ = (common_name(&whole[..n]), signature_algorithm(&whole[..n]));
            let mut changed = whole.clone();
            changed[n] = !changed[n];
            let _ = (common_name(&changed), signature_algorithm(&changed));
        }
        assert!(signature_algorithm(&whole[..20]).is_none());
    }
}
