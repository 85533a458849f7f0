//! An X.509 certificate, read once, with what its extensions say of it.
//!
//! What it says is asked as OpenSSL asks it (`check_ca`, `check_purpose_ssl_server`,
//! crypto/x509/v3_purp.c), which is what libpq's users have tried their certificates with: version
//! 1 is a certificate, too, and a key usage that isn't there forbids nothing.

use std::ops::Range;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::crypto::WebPkiSupportedAlgorithms;
use x509_cert::certificate::{CertificateInner, Raw, TbsCertificateInner, Version};
use x509_cert::der::asn1::{BitString, ObjectIdentifier};
use x509_cert::der::{Decode, Encode, Reader, SliceReader};
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::name::{GeneralName, GeneralNames};
use x509_cert::ext::pkix::{
    AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, NameConstraints,
    SubjectKeyIdentifier,
};
use x509_cert::name::Name;
use x509_cert::spki::AlgorithmIdentifierOwned;

/// Longest certificate that is read, bytes: real ones have one to five thousand.
const MAX_LEN: usize = 64 << 10;

/// Why a certificate won't do; in OpenSSL's words where it has some.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Flaw {
    /// It isn't DER as X.509 has it.
    #[error("the certificate can't be read: {0}")]
    Malformed(String),
    /// Nobody vouches for it but itself.
    #[error("self-signed certificate")]
    SelfSigned,
    /// Whoever signed it isn't known.
    #[error("unable to get local issuer certificate")]
    UnknownIssuer,
    /// The signature isn't the issuer's, or made by an algorithm that isn't accepted.
    #[error("certificate signature failure, or its algorithm is not accepted ({0})")]
    Signature(String),
    /// Not yet.
    #[error("certificate is not yet valid")]
    NotYetValid,
    /// Not any more.
    #[error("certificate has expired")]
    Expired,
    /// Whoever signed it may not sign.
    #[error("invalid CA certificate")]
    NotAnAuthority,
    /// More authorities between than allowed.
    #[error("path length constraint exceeded")]
    PathTooLong,
    /// It is for something else than this side of TLS.
    #[error("unsuitable certificate purpose")]
    Purpose,
    /// It has a critical extension that isn't known.
    #[error("unhandled critical extension")]
    CriticalExtension,
    /// An authority may not vouch for such a name.
    #[error("permitted subtree violation, or a name constraint that can't be evaluated")]
    NameConstraint,
    /// The authority took it back.
    #[error("certificate revoked")]
    Revoked,
    /// Revocation lists are in use, and there is none of this issuer.
    #[error("unable to get certificate CRL")]
    NoCrl,
    /// The list isn't up to date.
    #[error("CRL has expired, or is not yet valid")]
    CrlExpired,
    /// The list isn't the issuer's, or can't be evaluated.
    #[error("CRL signature failure, or a CRL of a kind that can't be evaluated")]
    CrlInvalid,
    /// It is another server's.
    #[error("server certificate for {names} does not match host name \"{host}\"")]
    WrongHost {
        /// Whose it is.
        names: String,
        /// Which was wanted.
        host: String,
    },
}

impl Flaw {
    pub(super) fn malformed(error: impl std::fmt::Display) -> Self {
        Self::Malformed(error.to_string())
    }
}

/// Object identifiers that no type of x509-cert has.
mod oid {
    use x509_cert::der::asn1::ObjectIdentifier as Oid;

    pub(super) const SERVER_AUTH: Oid = Oid::new_unwrap("1.3.6.1.5.5.7.3.1");
    pub(super) const CLIENT_AUTH: Oid = Oid::new_unwrap("1.3.6.1.5.5.7.3.2");
    pub(super) const NETSCAPE_SGC: Oid = Oid::new_unwrap("2.16.840.1.113730.4.1");
    pub(super) const MICROSOFT_SGC: Oid = Oid::new_unwrap("1.3.6.1.4.1.311.10.3.3");
    pub(super) const NETSCAPE_CERT_TYPE: Oid = Oid::new_unwrap("2.16.840.1.113730.1.1");
    pub(super) const SUBJECT_KEY_ID: Oid = Oid::new_unwrap("2.5.29.14");
    pub(super) const KEY_USAGE: Oid = Oid::new_unwrap("2.5.29.15");
    pub(super) const SUBJECT_ALT_NAME: Oid = Oid::new_unwrap("2.5.29.17");
    pub(super) const BASIC_CONSTRAINTS: Oid = Oid::new_unwrap("2.5.29.19");
    pub(super) const NAME_CONSTRAINTS: Oid = Oid::new_unwrap("2.5.29.30");
    pub(super) const AUTHORITY_KEY_ID: Oid = Oid::new_unwrap("2.5.29.35");
    pub(super) const EXTENDED_KEY_USAGE: Oid = Oid::new_unwrap("2.5.29.37");
    pub(super) const RSA_ENCRYPTION_ARC: Oid = Oid::new_unwrap("1.2.840.113549.1.1");

    /// What may be critical without a part in it here: where CRLs are, and the policies, which
    /// OpenSSL looks at only when told to.
    pub(super) const PASSED_OVER: [Oid; 5] = [
        Oid::new_unwrap("2.5.29.31"),
        Oid::new_unwrap("2.5.29.32"),
        Oid::new_unwrap("2.5.29.33"),
        Oid::new_unwrap("2.5.29.36"),
        Oid::new_unwrap("2.5.29.54"),
    ];
}

/// What a certificate is shown as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A TLS server's.
    Server,
    /// A TLS client's.
    Client,
}

/// `NS_SSL_CLIENT` and `NS_SSL_SERVER`, x509v3.h
const NS_SSL_CLIENT: u8 = 0x80;
const NS_SSL_SERVER: u8 = 0x40;

/// What the extensions say.
#[derive(Debug, Default)]
struct Extensions {
    basic: Option<BasicConstraints>,
    key_usage: Option<KeyUsage>,
    extended: Option<Vec<ObjectIdentifier>>,
    netscape_type: Option<u8>,
    alt_names: GeneralNames,
    constraints: Option<NameConstraints>,
    own_key_id: Option<Vec<u8>>,
    issuers_key_id: Option<Vec<u8>>,
    unknown_critical: bool,
}

/// A certificate.
#[derive(Debug)]
pub(super) struct Certificate {
    der: Vec<u8>,
    signed: Range<usize>,
    inner: CertificateInner<Raw>,
    extensions: Extensions,
}

/// In which way a certificate may sign others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Authority {
    /// It says so.
    Stated,
    /// It doesn't say: a self-signed one of version 1, or one that may sign certificates.
    Tolerated,
    /// It may not.
    None,
}

impl Certificate {
    /// Reads one.
    pub(super) fn parse(der: &[u8]) -> Result<Self, Flaw> {
        if der.len() > MAX_LEN {
            return Err(Flaw::Malformed(format!("it has {} bytes", der.len())));
        }
        let inner = CertificateInner::<Raw>::from_der(der).map_err(Flaw::malformed)?;
        let extensions = Extensions::of(inner.tbs_certificate())?;
        let signed = first_element(der)?;
        Ok(Self { der: der.to_vec(), signed, inner, extensions })
    }

    pub(super) fn der(&self) -> &[u8] {
        &self.der
    }

    fn tbs(&self) -> &TbsCertificateInner<Raw> {
        self.inner.tbs_certificate()
    }

    pub(super) fn subject(&self) -> &Name {
        self.tbs().subject()
    }

    pub(super) fn issuer(&self) -> &Name {
        self.tbs().issuer()
    }

    pub(super) fn serial(&self) -> &[u8] {
        self.tbs().serial_number().as_bytes()
    }

    pub(super) fn alt_names(&self) -> &[GeneralName] {
        &self.extensions.alt_names
    }

    pub(super) fn constraints(&self) -> Option<&NameConstraints> {
        self.extensions.constraints.as_ref()
    }

    pub(super) fn is_self_issued(&self) -> bool {
        self.subject() == self.issuer()
    }

    /// Whether it names itself as its issuer, and its key where it names one.
    pub(super) fn is_self_signed(&self) -> bool {
        self.is_self_issued() && self.may_be_issued_by(self)
    }

    /// Whether names and key identifiers allow that `issuer` signed it.
    pub(super) fn may_be_issued_by(&self, issuer: &Self) -> bool {
        let ids = (&self.extensions.issuers_key_id, &issuer.extensions.own_key_id);
        let ids_agree = match ids {
            (Some(wanted), Some(has)) => wanted == has,
            _ => true,
        };
        ids_agree && self.issuer() == issuer.subject()
    }

    /// Verifies this certificate's signature by the issuer's key.
    pub(super) fn is_signed_by(
        &self,
        issuer: &Self,
        algorithms: &WebPkiSupportedAlgorithms,
    ) -> Result<(), Flaw> {
        let algorithm = self.inner.signature_algorithm();
        if algorithm != self.tbs().signature() {
            return Err(Flaw::Malformed("it names two signature algorithms".to_owned()));
        }
        let signed = self.der.get(self.signed.clone()).unwrap_or_default();
        issuer.verify(algorithm, signed, self.inner.signature(), algorithms)
    }

    /// Verifies a signature by this certificate's key.
    pub(super) fn verify(
        &self,
        algorithm: &AlgorithmIdentifierOwned,
        signed: &[u8],
        signature: &BitString,
        algorithms: &WebPkiSupportedAlgorithms,
    ) -> Result<(), Flaw> {
        let wanted = contents(algorithm)?;
        let failed = || Flaw::Signature(algorithm.oid.to_string());
        let signature = signature.as_bytes().ok_or_else(failed)?;
        let suitable =
            algorithms.all.iter().filter(|known| known.signature_alg_id().as_ref() == wanted);
        self.verify_by(suitable.copied(), signed, signature).ok_or_else(failed)
    }

    /// Verifies a signature by this certificate's key and whichever of the algorithms is for such
    /// a key.
    pub(super) fn verify_by(
        &self,
        algorithms: impl Iterator<Item = &'static dyn rustls::pki_types::SignatureVerificationAlgorithm>,
        signed: &[u8],
        signature: &[u8],
    ) -> Option<()> {
        let key = self.tbs().subject_public_key_info();
        let kind = contents(&key.algorithm).ok()?;
        let key = key.subject_public_key.as_bytes()?;
        algorithms
            .filter(|algorithm| algorithm.public_key_alg_id().as_ref() == kind)
            .find_map(|algorithm| algorithm.verify_signature(key, signed, signature).ok())
    }

    /// The key, as X.509 writes it.
    pub(super) fn public_key(&self) -> Option<Vec<u8>> {
        self.tbs().subject_public_key_info().to_der().ok()
    }

    pub(super) fn signature_algorithm(&self) -> &AlgorithmIdentifierOwned {
        self.inner.signature_algorithm()
    }

    /// Whether it is valid now.
    pub(super) fn check_time(&self, now: SystemTime) -> Result<(), Flaw> {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let validity = self.tbs().validity();
        if now < validity.not_before.to_unix_duration() {
            return Err(Flaw::NotYetValid);
        }
        if now >= validity.not_after.to_unix_duration() {
            return Err(Flaw::Expired);
        }
        Ok(())
    }

    /// Whether it has nothing critical that isn't understood.
    pub(super) fn check_critical(&self) -> Result<(), Flaw> {
        if self.extensions.unknown_critical { Err(Flaw::CriticalExtension) } else { Ok(()) }
    }

    /// Whether it may sign certificates.
    pub(super) fn authority(&self) -> Authority {
        let extensions = &self.extensions;
        let may_sign = extensions.key_usage.as_ref().map(KeyUsage::key_cert_sign);
        match (&extensions.basic, may_sign) {
            (Some(basic), None | Some(true)) if basic.ca => Authority::Stated,
            (None, Some(true)) => Authority::Tolerated,
            (None, None) if self.tbs().version() == Version::V1 && self.is_self_signed() => {
                Authority::Tolerated
            }
            _ => Authority::None,
        }
    }

    /// Whether it may sign revocation lists.
    pub(super) fn may_sign_crls(&self) -> bool {
        self.extensions.key_usage.as_ref().is_none_or(KeyUsage::crl_sign)
    }

    pub(super) fn path_len(&self) -> Option<usize> {
        self.extensions.basic.as_ref().and_then(|basic| basic.path_len_constraint).map(usize::from)
    }

    /// Whether it may be such a side's of TLS, or vouch for one (`check_purpose_ssl_server`,
    /// `check_purpose_ssl_client`, crypto/x509/v3_purp.c).
    pub(super) fn serves(&self, purpose: Purpose, is_leaf: bool) -> bool {
        let extensions = &self.extensions;
        let (purposes, netscape): (&[_], _) = match purpose {
            Purpose::Server => {
                (&[oid::SERVER_AUTH, oid::NETSCAPE_SGC, oid::MICROSOFT_SGC], NS_SSL_SERVER)
            }
            Purpose::Client => (&[oid::CLIENT_AUTH], NS_SSL_CLIENT),
        };
        let extended = extensions
            .extended
            .as_ref()
            .is_none_or(|usages| usages.iter().any(|usage| purposes.contains(usage)));
        if !is_leaf {
            return extended;
        }
        let usage = extensions.key_usage.as_ref().is_none_or(|usage| {
            let enciphers = purpose == Purpose::Server && usage.key_encipherment();
            usage.digital_signature() || usage.key_agreement() || enciphers
        });
        extended && usage && extensions.netscape_type.is_none_or(|kind| kind & netscape != 0)
    }
}

impl Extensions {
    fn of(tbs: &TbsCertificateInner<Raw>) -> Result<Self, Flaw> {
        let mut all = Self::default();
        for extension in tbs.extensions().into_iter().flatten() {
            all.read(extension).map_err(Flaw::malformed)?;
        }
        Ok(all)
    }

    fn read(&mut self, extension: &Extension) -> Result<(), x509_cert::der::Error> {
        let value = extension.extn_value.as_bytes();
        match extension.extn_id {
            oid::BASIC_CONSTRAINTS => self.basic = Some(BasicConstraints::from_der(value)?),
            oid::KEY_USAGE => self.key_usage = Some(KeyUsage::from_der(value)?),
            oid::EXTENDED_KEY_USAGE => {
                self.extended = Some(ExtendedKeyUsage::from_der(value)?.0);
            }
            oid::SUBJECT_ALT_NAME => self.alt_names = GeneralNames::from_der(value)?,
            oid::NAME_CONSTRAINTS => self.constraints = Some(NameConstraints::from_der(value)?),
            oid::SUBJECT_KEY_ID => {
                let id = SubjectKeyIdentifier::from_der(value)?;
                self.own_key_id = Some(id.0.as_bytes().to_vec());
            }
            oid::AUTHORITY_KEY_ID => {
                let id = AuthorityKeyIdentifier::from_der(value)?;
                self.issuers_key_id = id.key_identifier.map(|id| id.as_bytes().to_vec());
            }
            oid::NETSCAPE_CERT_TYPE => {
                let bits = BitString::from_der(value)?;
                self.netscape_type = Some(bits.raw_bytes().first().copied().unwrap_or(0));
            }
            other if oid::PASSED_OVER.contains(&other) => {}
            _ => self.unknown_critical |= extension.critical,
        }
        Ok(())
    }
}

/// Where the first element of a DER sequence lies: what is signed.
pub(super) fn first_element(der: &[u8]) -> Result<Range<usize>, Flaw> {
    let mut reader = SliceReader::new(der).map_err(Flaw::malformed)?;
    let header = x509_cert::der::Header::decode(&mut reader).map_err(Flaw::malformed)?;
    let start = der.len().checked_sub(u32::from(header.length()) as usize);
    let element = reader.tlv_bytes().map_err(Flaw::malformed)?;
    let start = start.ok_or_else(|| Flaw::Malformed("it ends early".to_owned()))?;
    Ok(start..start + element.len())
}

/// What is inside an AlgorithmIdentifier, as rustls' tables have it. RSA's parameters are NULL, also
/// where somebody left them out.
fn contents(algorithm: &AlgorithmIdentifierOwned) -> Result<Vec<u8>, Flaw> {
    let mut contents = algorithm.oid.to_der().map_err(Flaw::malformed)?;
    match &algorithm.parameters {
        Some(parameters) => contents.extend(parameters.to_der().map_err(Flaw::malformed)?),
        None if algorithm.oid.parent() == Some(oid::RSA_ENCRYPTION_ARC) => {
            contents.extend([0x05, 0x00]);
        }
        None => {}
    }
    Ok(contents)
}
