//! What SCRAM is bound to: the hash of the server's certificate (`tls-server-end-point`, RFC 5929).
//!
//! It is the hash that the certificate's signature names, SHA-256 for those that are weaker. Ed25519
//! names none, and the RFC leaves open what to do; libpq gives up, and so do servers.

use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};
use x509_cert::der::Decode;
use x509_cert::der::asn1::ObjectIdentifier;

use super::certificate::Certificate;

/// The hash for this certificate, if its signature names one.
pub(super) fn hash(der: &[u8]) -> Option<Vec<u8>> {
    let certificate = Certificate::parse(der).ok()?;
    let algorithm = certificate.signature_algorithm();
    let name = match algorithm.oid.to_string().as_str() {
        // RSASSA-PSS says it in its parameters; SHA-1 is the default.
        "1.2.840.113549.1.1.10" => match &algorithm.parameters {
            Some(parameters) => pss_hash(parameters.value()),
            None => None,
        }
        .unwrap_or_else(|| "1.3.14.3.2.26".to_owned()),
        signature => hash_of(signature)?.to_owned(),
    };
    Some(match name.as_str() {
        // MD5 and SHA-1
        "1.2.840.113549.2.5" | "1.3.14.3.2.26" | "2.16.840.1.101.3.4.2.1" => {
            Sha256::digest(der).to_vec()
        }
        "2.16.840.1.101.3.4.2.2" => Sha384::digest(der).to_vec(),
        "2.16.840.1.101.3.4.2.3" => Sha512::digest(der).to_vec(),
        "2.16.840.1.101.3.4.2.4" => Sha224::digest(der).to_vec(),
        _ => return None,
    })
}

/// The hash of a signature algorithm: RSA (PKCS #1) and ECDSA.
fn hash_of(signature: &str) -> Option<&'static str> {
    Some(match signature {
        "1.2.840.113549.1.1.4" => "1.2.840.113549.2.5",
        "1.2.840.113549.1.1.5" | "1.2.840.10045.4.1" => "1.3.14.3.2.26",
        "1.2.840.113549.1.1.11" | "1.2.840.10045.4.3.2" => "2.16.840.1.101.3.4.2.1",
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => "2.16.840.1.101.3.4.2.2",
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => "2.16.840.1.101.3.4.2.3",
        "1.2.840.113549.1.1.14" | "1.2.840.10045.4.3.1" => "2.16.840.1.101.3.4.2.4",
        _ => return None,
    })
}

/// `hashAlgorithm [0]`, the first of RSASSA-PSS-params (RFC 4055).
fn pss_hash(parameters: &[u8]) -> Option<String> {
    let first = x509_cert::der::AnyRef::from_der(prefix(parameters)?).ok()?;
    if first.header().tag().number().value() != 0 {
        return None;
    }
    let algorithm = x509_cert::der::AnyRef::from_der(first.value()).ok()?;
    let oid = prefix(algorithm.value())?;
    <ObjectIdentifier as Decode>::from_der(oid).ok().map(|oid| oid.to_string())
}

/// The first element in these bytes.
fn prefix(bytes: &[u8]) -> Option<&[u8]> {
    use x509_cert::der::{Reader, SliceReader};
    SliceReader::new(bytes).ok()?.tlv_bytes().ok()
}
