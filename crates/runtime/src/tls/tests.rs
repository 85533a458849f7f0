//! Whatever bytes a server sends instead of a certificate: an answer, and no panic; and no change
//! of a single byte makes one that is accepted.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proptest::prelude::*;
use rustls::pki_types::pem::{PemObject, SectionKind};

use super::certificate::{Certificate, Flaw, Purpose};
use super::chain::{self, Trust};
use super::crl::Crls;
use super::{end_point, name};

/// An authority for `example.test` and 192.0.2.0/24, from 2026 for a hundred years.
const AUTHORITY: &str = "
-----BEGIN CERTIFICATE-----
MIIBjDCCATOgAwIBAgIUTCu6gwMR7WGlMOYE3o4j4xNmSKowCgYIKoZIzj0EAwIw
DzENMAsGA1UEAwwEYSBDQTAgFw0yNjExMjQyMTE1NDlaGA8yMTI2MTAzMTIxMTU0
OVowDzENMAsGA1UEAwwEYSBDQTBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABJL7
Y69woUvGeUtonNmsKPMoVzGJWV2bTPNkZ5KfpU4wHtdgJvZpd0t1QOpCgdhS6yEe
cOQnFSHnffc3VoBcJ++jazBpMBIGA1UdEwEB/wQIMAYBAf8CAQEwHQYDVR0OBBYE
FC0kBW82F41Tgi91Ju+IEYZDaHc2MAsGA1UdDwQEAwIBBjAnBgNVHR4EIDAeoBww
DoIMZXhhbXBsZS50ZXN0MAqHCMAAAgD///8AMAoGCCqGSM49BAMCA0cAMEQCIEOb
fCW8+x+0SyOW8+fLp1QNuZsdXhlblDx1u6HU/KaKAiAM5hSp+FfiyaKW/b7aHreD
RCfSaXSpr3GnxCfnbC067A==
-----END CERTIFICATE-----";

/// Its certificate for `*.example.test` and 192.0.2.1.
const LEAF: &str = "
-----BEGIN CERTIFICATE-----
MIIBoDCCAUegAwIBAgIBBzAKBggqhkjOPQQDAjAPMQ0wCwYDVQQDDARhIENBMCAX
DTI2MTEyNDIxMTU0OVoYDzIxMjYxMDMxMjExNTQ5WjAaMRgwFgYDVQQDDA9kYi5l
eGFtcGxlLnRlc3QwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAARSpYx9+gIR1x/f
K9Y/S9AeZ4LhzZ71Cib1vMfzswp7M3kTWrkj6qRBMSyxeMerj/mE9q4bDFOLgMGz
nj7RdEjCo4GGMIGDMB8GA1UdEQQYMBaCDiouZXhhbXBsZS50ZXN0hwTAAAIBMBMG
A1UdJQQMMAoGCCsGAQUFBwMBMB8GA1UdIwQYMBaAFC0kBW82F41Tgi91Ju+IEYZD
aHc2MAsGA1UdDwQEAwIHgDAdBgNVHQ4EFgQU0pozEGGOVk8i0PKPzT9Ytct++YYw
CgYIKoZIzj0EAwIDRwAwRAIgVWExy1D6WhwT4y53hO+qELEXz6GrYVqjsWewBdrS
A5ACIG/+m4UUg297MG5djnnr7Ll2E86ed+D8ELepODVlsbVE
-----END CERTIFICATE-----";

/// Its revocation list, which is empty.
const LIST: &str = "
-----BEGIN X509 CRL-----
MIGpMFACAQEwCgYIKoZIzj0EAwIwDzENMAsGA1UEAwwEYSBDQRcNMjYxMTI0MjEx
NTQ5WhgPMjEyNjEwMzEyMTE1NDlaoA4wDDAKBgNVHRQEAwIBATAKBggqhkjOPQQD
AgNJADBGAiEA3rV4k2zh6AtXcpwSpB9fU3g3Hsqrp6AF3Evtv97EGKICIQDNtYcO
fAYD4W7LcDl/ZwmigiyHKL05XMi66V0APg7m5g==
-----END X509 CRL-----";

fn der(pem: &str) -> Vec<u8> {
    <(SectionKind, Vec<u8>)>::from_pem_slice(pem.as_bytes()).unwrap().1
}

/// What becomes of a leaf under this authority, with this list.
fn verify(authority: &[u8], leaf: &[u8], list: &[u8], now: SystemTime) -> Result<(), Flaw> {
    let roots = [Certificate::parse(authority)?];
    let mut crls = Crls::default();
    crls.add(list)?;
    let algorithms = rustls_graviola::default_provider().signature_verification_algorithms;
    let trust = Trust {
        roots: &roots,
        crls: Some(&crls),
        algorithms: &algorithms,
        now,
        purpose: Purpose::Server,
    };
    let leaf = Certificate::parse(leaf)?;
    chain::verify(&trust, &leaf, &[])?;
    name::check(&leaf, "db.example.test")
}

fn in_years(years: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(years * 365 * 86_400)
}

#[test]
fn good_ones_are_good_in_their_time() {
    let (authority, leaf, list) = (der(AUTHORITY), der(LEAF), der(LIST));
    let at = |now| verify(&authority, &leaf, &list, now);
    assert_eq!(at(in_years(80)), Ok(()));
    assert!(at(in_years(40)).is_err(), "not yet valid");
    assert!(at(in_years(200)).is_err(), "long over");
    assert_eq!(verify(&leaf, &leaf, &list, in_years(80)), Err(Flaw::UnknownIssuer));
    let only = Certificate::parse(&authority).unwrap();
    assert!(only.is_self_signed() && !Certificate::parse(&leaf).unwrap().is_self_signed());
    assert_eq!(end_point::hash(&leaf).map(|hash| hash.len()), Some(32));
    for host in ["a.b.example.test", "example.test", "192.0.2.2", "elsewhere"] {
        let checked = name::check(&Certificate::parse(&leaf).unwrap(), host);
        assert!(matches!(checked, Err(Flaw::WrongHost { .. })), "{host}: {checked:?}");
    }
    assert_eq!(name::check(&Certificate::parse(&leaf).unwrap(), "192.0.2.1"), Ok(()));
}

#[test]
fn no_changed_byte_is_accepted() {
    let (authority, leaf, list) = (der(AUTHORITY), der(LEAF), der(LIST));
    for at in 0..leaf.len() {
        let mut changed = leaf.clone();
        changed[at] ^= 1 << (at % 8);
        assert!(verify(&authority, &changed, &list, in_years(80)).is_err(), "byte {at}");
    }
    for at in 0..list.len() {
        let mut changed = list.clone();
        changed[at] ^= 1 << (at % 8);
        assert!(
            verify(&authority, &leaf, &changed, in_years(80)).is_err(),
            "byte {at} of the list"
        );
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
        cut in any::<prop::sample::Index>(),
    ) {
        let _ = Certificate::parse(&bytes);
        let _ = end_point::hash(&bytes);
        for good in [der(AUTHORITY), der(LEAF), der(LIST)] {
            let mut changed = good.clone();
            for (at, byte) in &changes {
                let at = at.index(changed.len());
                changed[at] = *byte;
            }
            for bytes in [&changed[..], &good[..cut.index(good.len())]] {
                let _ = verify(bytes, bytes, &der(LIST), in_years(80));
                let _ = verify(&der(AUTHORITY), &der(LEAF), bytes, in_years(80));
                let _ = end_point::hash(bytes);
            }
        }
    }
}
