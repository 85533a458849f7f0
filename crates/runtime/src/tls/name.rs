//! Whether a certificate is for the host that was asked for
//! (`pgtls_verify_peer_name_matches_certificate_guts`, fe-secure-openssl.c, from 15 on).
//!
//! Its alternative names count; the common name only where none of them is of the host's kind, an
//! address or a name. `*` stands for the first label, whole.

use std::net::{Ipv4Addr, Ipv6Addr};

use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::ext::pkix::name::GeneralName;

use super::certificate::{Certificate, Flaw};

const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");
/// Most names that an error shows.
const SHOWN_NAMES: usize = 4;
/// Most characters of each.
const SHOWN_CHARS: usize = 80;

/// Whether the certificate is for `host`.
pub(super) fn check(certificate: &Certificate, host: &str) -> Result<(), Flaw> {
    let (v4, v6) = (inet_aton(host), host.parse::<Ipv6Addr>().ok());
    let host_is_address = v4.is_some() || v6.is_some();
    let mut use_common_name = true;
    let mut seen = Vec::new();
    for name in certificate.alt_names() {
        let (is_address, fits) = match name {
            GeneralName::DnsName(name) => {
                seen.push(format!("\"{}\"", name.as_str()));
                (false, name_fits(name.as_str(), host))
            }
            GeneralName::IpAddress(bytes) => {
                let bytes = bytes.as_bytes();
                seen.push(format!("\"{}\"", shown_address(bytes)));
                let fits = v4.is_some_and(|address| address.octets() == bytes)
                    || v6.is_some_and(|address| address.octets() == bytes);
                (true, fits)
            }
            _ => continue,
        };
        if fits {
            return Ok(());
        }
        use_common_name &= is_address != host_is_address;
    }
    if use_common_name && let Some(name) = common_name(certificate) {
        if name_fits(&name, host) {
            return Ok(());
        }
        seen.push(format!("\"{name}\""));
    }
    Err(Flaw::WrongHost { names: shown(&seen), host: host.to_owned() })
}

fn shown(names: &[String]) -> String {
    let clean = |name: &String| -> String {
        name.chars().filter(|c| !c.is_control()).take(SHOWN_CHARS).collect()
    };
    let some: Vec<String> = names.iter().take(SHOWN_NAMES).map(clean).collect();
    match names.len().saturating_sub(SHOWN_NAMES) {
        _ if names.is_empty() => "no name".to_owned(),
        0 => some.join(", "),
        more => format!("{} (and {more} other names)", some.join(", ")),
    }
}

fn shown_address(bytes: &[u8]) -> String {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Ipv4Addr::from(v4).to_string();
    }
    match <[u8; 16]>::try_from(bytes) {
        Ok(v6) => Ipv6Addr::from(v6).to_string(),
        Err(_) => "an address of impossible length".to_owned(),
    }
}

/// The subject's first common name.
pub(super) fn common_name(certificate: &Certificate) -> Option<String> {
    let mut attributes = certificate.subject().iter();
    let attribute = attributes.find(|attribute| attribute.oid == COMMON_NAME)?;
    String::from_utf8(attribute.value.value().to_vec()).ok()
}

/// Whether a certificate's name is the host's, or a wildcard for it.
fn name_fits(name: &str, host: &str) -> bool {
    // A NUL would end the name for some, and not for others (CVE-2009-4034).
    if name.contains('\0') {
        return false;
    }
    if name.eq_ignore_ascii_case(host) {
        return true;
    }
    let Some(domain) = name.strip_prefix("*.").filter(|domain| !domain.is_empty()) else {
        return false;
    };
    let rest = host.split_once('.').filter(|(label, _)| !label.is_empty());
    rest.is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(domain))
}

/// An IPv4 address in any form that C's inet_aton() takes: one to four numbers, decimal, octal or
/// hexadecimal, the last of which fills what is left.
fn inet_aton(text: &str) -> Option<Ipv4Addr> {
    let parts: Vec<&str> = text.split('.').collect();
    if parts.len() > 4 {
        return None;
    }
    let mut address: u32 = 0;
    for (at, part) in parts.iter().enumerate() {
        let lower = part.to_ascii_lowercase();
        let (digits, radix) = match (lower.strip_prefix("0x"), lower.strip_prefix('0')) {
            (Some(hex), _) => (hex, 16),
            (None, Some(octal)) if !octal.is_empty() => (octal, 8),
            _ => (lower.as_str(), 10),
        };
        let number = Some(digits).filter(|digits| !digits.starts_with(['+', '-']))?;
        let number = u32::from_str_radix(number, radix).ok()?;
        let is_last = at + 1 == parts.len();
        let bits = if is_last { 32 - 8 * u32::try_from(at).ok()? } else { 8 };
        if bits < 32 && number >> bits != 0 {
            return None;
        }
        address = address.checked_shl(bits).unwrap_or(0) | number;
    }
    Some(Ipv4Addr::from(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_stand_for_one_whole_label() {
        let check = |name, host, expect| assert_eq!(name_fits(name, host), expect, "{name} {host}");
        check("db.example.com", "DB.example.COM", true);
        check("*.example.com", "db.example.com", true);
        check("*.example.com", "a.db.example.com", false);
        check("*.example.com", "example.com", false);
        check("*.example.com", ".example.com", false);
        check("d*.example.com", "db.example.com", false);
        check("*", "db", false);
        check("*.", "db.", false);
        check("*.com", "example.com", true);
        check("db\0.evil.com", "db", false);
    }

    #[test]
    fn addresses_as_inet_aton_takes_them() {
        let check = |text, expect: Option<[u8; 4]>| {
            assert_eq!(inet_aton(text), expect.map(Ipv4Addr::from), "{text}");
        };
        check("192.0.2.1", Some([192, 0, 2, 1]));
        check("127.1", Some([127, 0, 0, 1]));
        check("0x7f.0.0.01", Some([127, 0, 0, 1]));
        check("2130706433", Some([127, 0, 0, 1]));
        check("0", Some([0, 0, 0, 0]));
        check("256.0.0.1", None);
        check("1.2.3.4.5", None);
        check("1..2", None);
        check("db", None);
        check("08", None);
        check("+1", None);
        check("", None);
    }
}
