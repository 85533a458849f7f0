//! The files that settings name: authorities, revocation lists, the client's certificate and key.
//!
//! A default file that isn't there is as if it weren't asked for, and every file that is there must
//! be usable. One that was named must be there where TLS is a must; where it isn't, it is better
//! had without the file than not at all. Keys are for their owner's eyes alone.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use pg_wire::Secret;
use pg_wire::settings::{ConfigFile, RootCerts, SslMode, TlsSettings};
use pkcs8::EncryptedPrivateKeyInfoRef;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;

use super::TlsError;
use super::certificate::Certificate;
use super::crl::Crls;

/// Longest file, bytes: the memory that a receiver may use has a bound, and a system's bundle of
/// all authorities has 200 KB.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// Most revocation lists in a directory.
const MAX_CRL_FILES: usize = 256;

const ROOT: &str = "root certificate";
const CRL: &str = "certificate revocation list";
const CERT: &str = "certificate";
const KEY: &str = "private key";

/// The authorities to trust; `None` if certificates aren't verified, since no file says by whom.
pub(super) fn roots(settings: &TlsSettings) -> Result<Option<Vec<Certificate>>, TlsError> {
    let file = match &settings.root_certs {
        RootCerts::System => return system_roots().map(Some),
        RootCerts::File(file) => file,
    };
    let Some(path) = file.path() else {
        return match settings.mode.verifies() {
            true => Err(TlsError::NoRootFile { path: "~/.postgresql/root.crt".into() }),
            false => Ok(None),
        };
    };
    match fs::metadata(path) {
        Ok(_) => {}
        Err(_) if !settings.mode.verifies() && !must_exist(file, settings) => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(TlsError::NoRootFile { path: path.to_owned() });
        }
        Err(error) => return Err(unusable(ROOT, path, error)),
    }
    authorities(path).map(Some)
}

/// Whether a file was named, and TLS is a must. libpq goes on without such a file.
fn must_exist(file: &ConfigFile, settings: &TlsSettings) -> bool {
    matches!(file, ConfigFile::Named(_)) && settings.mode >= SslMode::Require
}

fn system_roots() -> Result<Vec<Certificate>, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    // A bundle may have what can't be read here; nobody is trusted because of it.
    let roots: Vec<Certificate> =
        found.certs.iter().filter_map(|der| Certificate::parse(der).ok()).collect();
    if roots.is_empty() {
        let why = found.errors.first().map(ToString::to_string);
        let why = why.unwrap_or_else(|| "there are none".to_owned());
        return Err(TlsError::SystemRoots(why));
    }
    Ok(roots)
}

/// The revocation lists; `None` if there are none to be heeded.
pub(super) fn crls(settings: &TlsSettings) -> Result<Option<Crls>, TlsError> {
    let mut crls = Crls::default();
    let mut any = false;
    match &settings.crl {
        ConfigFile::Named(path) => {
            add_crls(&mut crls, path)?;
            any = true;
        }
        ConfigFile::Default(Some(path)) if path.exists() => {
            add_crls(&mut crls, path)?;
            any = true;
        }
        ConfigFile::Default(_) => {}
    }
    if let Some(dir) = &settings.crl_dir {
        any = true;
        let entries = fs::read_dir(dir).map_err(|error| unusable(CRL, dir, error))?;
        let names = entries.flatten().map(|entry| entry.path()).filter(|path| is_hash_name(path));
        for path in names.take(MAX_CRL_FILES) {
            add_crls(&mut crls, &path)?;
        }
    }
    Ok(any.then_some(crls))
}

/// `0123abcd.r0`, as `openssl rehash` names a list.
fn is_hash_name(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let Some((hash, number)) = name.split_once(".r") else { return false };
    hash.len() == 8
        && hash.bytes().all(|b| b.is_ascii_hexdigit())
        && !number.is_empty()
        && number.bytes().all(|b| b.is_ascii_digit())
}

/// The revocation lists of a file.
pub(super) fn crls_of(path: &Path) -> Result<Crls, TlsError> {
    let mut crls = Crls::default();
    add_crls(&mut crls, path)?;
    Ok(crls)
}

fn add_crls(crls: &mut Crls, path: &Path) -> Result<(), TlsError> {
    let found = sections(CRL, path, |kind| kind == SectionKind::Crl)?;
    if found.is_empty() {
        return Err(unusable(CRL, path, "there is no CRL in it"));
    }
    for der in found {
        crls.add(&der).map_err(|flaw| unusable(CRL, path, flaw))?;
    }
    Ok(())
}

/// The client's certificate with its key, if there is one.
pub(super) fn client_certificate(
    settings: &TlsSettings,
    provider: &CryptoProvider,
) -> Result<Option<CertifiedKey>, TlsError> {
    let Some(path) = settings.cert.path() else { return Ok(None) };
    match fs::metadata(path) {
        Ok(_) => {}
        Err(error) if is_absent(&error) && !must_exist(&settings.cert, settings) => {
            return Ok(None);
        }
        Err(error) => return Err(unusable(CERT, path, error)),
    }
    let Some(key_path) = settings.key.path() else {
        return Err(TlsError::NoKey { path: "~/.postgresql/postgresql.key".into() });
    };
    certified(path, key_path, settings.key_password.as_ref(), provider).map(Some)
}

/// A certificate, those behind it, and its key.
pub(super) fn certified(
    path: &Path,
    key_path: &Path,
    password: Option<&Secret>,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, TlsError> {
    let chain: Vec<_> = certificates(CERT, path)?.into_iter().map(CertificateDer::from).collect();
    let key = private_key(key_path, password)?;
    let key = provider
        .key_provider
        .load_private_key(key)
        .map_err(|_| unusable(KEY, key_path, "RSA, P-256, P-384 and Ed25519 keys can be used"))?;
    let certified = CertifiedKey::new(chain, Arc::clone(&key));
    if let (Some(own), Some(leaf)) = (key.public_key(), certified.cert.first()) {
        let leaf = Certificate::parse(leaf).map_err(|flaw| unusable(CERT, path, flaw))?;
        if leaf.public_key().is_none_or(|of_leaf| of_leaf != own.as_ref()) {
            let what = format!("the certificate does not match private key file {key_path:?}");
            return Err(unusable(CERT, path, what));
        }
    }
    Ok(certified)
}

/// The authorities of a file.
pub(super) fn authorities(path: &Path) -> Result<Vec<Certificate>, TlsError> {
    let parse = |der: Vec<u8>| Certificate::parse(&der).map_err(|flaw| unusable(ROOT, path, flaw));
    certificates(ROOT, path)?.into_iter().map(parse).collect()
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Write, execute and everything of others, where root owns the key; all of the group's otherwise.
const FORBIDDEN_IF_ROOTS: u32 = 0o037;
const FORBIDDEN: u32 = 0o077;

fn private_key(path: &Path, password: Option<&Secret>) -> Result<PrivateKeyDer<'static>, TlsError> {
    let metadata = fs::metadata(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => TlsError::NoKey { path: path.to_owned() },
        _ => unusable(KEY, path, error),
    })?;
    if !metadata.is_file() {
        return Err(unusable(KEY, path, "it is not a regular file"));
    }
    let forbidden = if metadata.uid() == 0 { FORBIDDEN_IF_ROOTS } else { FORBIDDEN };
    if metadata.mode() & forbidden != 0 {
        let mode = metadata.mode() & 0o7777;
        return Err(TlsError::KeyAccess { path: path.to_owned(), mode });
    }
    let content = read(KEY, path)?;
    if let Ok(text) = std::str::from_utf8(&content)
        && let Some(start) = text.find("-----BEGIN ENCRYPTED PRIVATE KEY-----")
    {
        return decrypted(path, text.get(start..).unwrap_or_default(), password);
    }
    if content.windows(10).any(|window| window == b"Proc-Type:") {
        let why =
            "it is encrypted in OpenSSL's old form: write it anew with `openssl pkcs8 -topk8`";
        return Err(unusable(KEY, path, why));
    }
    match PrivateKeyDer::from_pem_slice(&content) {
        Ok(key) => Ok(key),
        // libpq reads DER, too.
        Err(_) => PrivateKeyDer::try_from(content)
            .map_err(|_| unusable(KEY, path, "there is no private key in it")),
    }
}

fn decrypted(
    path: &Path,
    pem: &str,
    password: Option<&Secret>,
) -> Result<PrivateKeyDer<'static>, TlsError> {
    let end = "-----END ENCRYPTED PRIVATE KEY-----";
    let pem = pem.find(end).and_then(|at| pem.get(..at + end.len())).unwrap_or_default();
    let (_, der) = pkcs8::Document::from_pem(pem).map_err(|error| unusable(KEY, path, error))?;
    let key = EncryptedPrivateKeyInfoRef::try_from(der.as_bytes())
        .map_err(|error| unusable(KEY, path, error))?;
    let Some(password) = password else {
        return Err(unusable(KEY, path, "it is encrypted: give sslpassword"));
    };
    // Whether the password or the file is wrong can't be told.
    let key = key.decrypt(password.expose()).map_err(|_| {
        unusable(
            KEY,
            path,
            "it can't be decrypted: sslpassword is wrong, or the encryption unknown",
        )
    })?;
    Ok(PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.as_bytes().to_vec())))
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<Vec<u8>>, TlsError> {
    let found = sections(what, path, |kind| kind == SectionKind::Certificate)?;
    if found.is_empty() {
        Err(unusable(what, path, "there is no certificate in it"))
    } else {
        Ok(found)
    }
}

/// The PEM sections of a kind.
fn sections(
    what: &'static str,
    path: &Path,
    wanted: impl Fn(SectionKind) -> bool,
) -> Result<Vec<Vec<u8>>, TlsError> {
    let content = read(what, path)?;
    let mut found = Vec::new();
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(&content) {
        let (kind, der) = section.map_err(|error| unusable(what, path, format!("{error:?}")))?;
        if wanted(kind) {
            found.push(der);
        }
    }
    Ok(found)
}

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    let mut content = Vec::new();
    let file = File::open(path).map_err(|error| unusable(what, path, error))?;
    file.take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut content)
        .map_err(|error| unusable(what, path, error))?;
    if content.len() as u64 > MAX_FILE_BYTES {
        return Err(unusable(what, path, format!("it is longer than {MAX_FILE_BYTES} bytes")));
    }
    Ok(content)
}

fn unusable(what: &'static str, path: &Path, why: impl std::fmt::Display) -> TlsError {
    TlsError::File { what, path: path.to_owned(), why: why.to_string() }
}
