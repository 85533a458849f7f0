//! Certificates of every kind, made by openssl's command line: once for all tests, in a directory
//! of their own.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use testkit::process::run;
use testkit::scratch::Scratch;
use testkit::servers::system_program;

use crate::common::{LIMIT, Must, scratch};

/// How a certificate comes about.
#[derive(Clone, Copy)]
struct Recipe {
    name: &'static str,
    subject: &'static str,
    /// Who signs it; itself if it has no other.
    issuer: &'static str,
    key: &'static str,
    /// Lines of the extensions' section; none makes it version 1.
    extensions: &'static str,
    /// More arguments for `openssl x509`.
    how: &'static str,
}

const CA: &str = "basicConstraints=critical,CA:TRUE\nsubjectKeyIdentifier=hash\n";
const LOCAL: &str = "subjectAltName=DNS:localhost,IP:127.0.0.1\n";
const P256: &str = "EC -pkeyopt ec_paramgen_curve:P-256";
const P384: &str = "EC -pkeyopt ec_paramgen_curve:P-384";
const P521: &str = "EC -pkeyopt ec_paramgen_curve:P-521";
const RSA: &str = "RSA -pkeyopt rsa_keygen_bits:2048";

const fn recipe(name: &'static str, issuer: &'static str, extensions: &'static str) -> Recipe {
    let subject = "/CN=localhost";
    Recipe { name, subject, issuer, key: P256, extensions, how: "-days 30 -sha256" }
}

const fn authority(name: &'static str, subject: &'static str) -> Recipe {
    Recipe { subject, how: "-days 60 -sha256", ..recipe(name, name, CA) }
}

const RECIPES: &[Recipe] = &[
    Recipe { key: RSA, ..authority("ca", "/CN=seawall test CA") },
    authority("other-ca", "/CN=another CA"),
    // The same name as the right one, with another key.
    authority("impostor-ca", "/CN=seawall test CA"),
    Recipe { extensions: "", ..authority("v1-ca", "/CN=a CA of version 1") },
    Recipe { issuer: "ca", ..authority("middle", "/CN=an intermediate CA") },
    Recipe {
        extensions: "basicConstraints=critical,CA:TRUE,pathlen:0\n",
        ..authority("short-ca", "/CN=a CA for leaves alone")
    },
    Recipe { issuer: "short-ca", ..authority("too-deep", "/CN=an intermediate too many") },
    Recipe {
        extensions: "basicConstraints=critical,CA:TRUE\n\
                     nameConstraints=critical,permitted;DNS:example.test\n",
        ..authority("narrow-ca", "/CN=a CA for example.test")
    },
    Recipe {
        extensions: "basicConstraints=critical,CA:TRUE\n\
                     nameConstraints=critical,excluded;DNS:localhost,excluded;IP:127.0.0.0/255.0.0.0\n",
        ..authority("excluding-ca", "/CN=a CA for others")
    },
    Recipe { key: RSA, ..recipe("good", "ca", LOCAL) },
    recipe("cn-only", "ca", "basicConstraints=CA:FALSE\n"),
    recipe("version-1", "ca", ""),
    recipe("self-signed-ca", "self-signed-ca", "basicConstraints=critical,CA:TRUE\n"),
    recipe("self-signed", "self-signed", "basicConstraints=critical,CA:FALSE\n"),
    Recipe { subject: "/CN=no", ..recipe("wildcard", "ca", "subjectAltName=DNS:*.example.test\n") },
    Recipe { subject: "/CN=no", ..recipe("address", "ca", "subjectAltName=IP:127.0.0.1\n") },
    Recipe { subject: "/CN=no", ..recipe("dns-address", "ca", "subjectAltName=DNS:127.0.0.1\n") },
    // The common name doesn't count beside an alternative name of the host's kind, and does beside
    // one of another kind.
    recipe("other-name", "ca", "subjectAltName=DNS:other.example.test\n"),
    recipe("only-mail", "ca", "subjectAltName=email:dba@example.test\n"),
    recipe("unknown-authority", "other-ca", LOCAL),
    recipe("impostor", "impostor-ca", LOCAL),
    recipe("under-v1", "v1-ca", LOCAL),
    recipe("under-middle", "middle", LOCAL),
    recipe("under-leaf", "cn-only", LOCAL),
    recipe("under-too-deep", "too-deep", LOCAL),
    recipe("under-narrow", "narrow-ca", LOCAL),
    recipe("in-narrow", "narrow-ca", "subjectAltName=DNS:db.example.test\n"),
    recipe("under-excluding", "excluding-ca", "subjectAltName=DNS:localhost\n"),
    recipe("beside-excluding", "excluding-ca", "subjectAltName=DNS:db.example.test\n"),
    recipe("for-clients", "ca", "extendedKeyUsage=clientAuth\nsubjectAltName=DNS:localhost\n"),
    recipe("for-servers", "ca", "extendedKeyUsage=serverAuth\nsubjectAltName=DNS:localhost\n"),
    recipe(
        "any-purpose",
        "ca",
        "extendedKeyUsage=anyExtendedKeyUsage\nsubjectAltName=DNS:localhost\n",
    ),
    recipe("signs-only", "ca", "keyUsage=critical,keyCertSign\nsubjectAltName=DNS:localhost\n"),
    recipe(
        "strange-critical",
        "ca",
        "1.3.6.1.4.1.99999.1=critical,ASN1:UTF8String:x\nsubjectAltName=DNS:localhost\n",
    ),
    Recipe { how: "-days 0 -sha256", ..recipe("expired", "ca", LOCAL) },
    Recipe { key: P384, how: "-days 30 -sha384", ..recipe("sha384", "middle", LOCAL) },
    Recipe { how: "-days 30 -sha512", ..recipe("sha512", "ca", LOCAL) },
    Recipe {
        how: "-days 30 -sha256 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:32",
        ..recipe("pss", "ca", LOCAL)
    },
    Recipe { key: "ED25519", how: "-days 30", ..recipe("ed25519", "ed25519", LOCAL) },
    Recipe { key: P521, ..recipe("p521", "p521", LOCAL) },
    recipe("revoked", "ca", LOCAL),
    Recipe { subject: "/CN=t_cert", ..recipe("client", "ca", "basicConstraints=CA:FALSE\n") },
    Recipe {
        subject: "/CN=somebody",
        ..recipe("client-other", "ca", "basicConstraints=CA:FALSE\n")
    },
];

/// The directory with `NAME.crt` and `NAME.key` for each of the recipes, the lists `ca.crl`,
/// `stale.crl` and `other.crl`, the first of them in `lists/` too, `encrypted.key`, and `both.crt`, which has two authorities.
pub(crate) fn certificates() -> &'static Path {
    static MADE: OnceLock<Scratch> = OnceLock::new();
    MADE.get_or_init(|| {
        let scratch = scratch();
        let maker = Maker { dir: scratch.path().to_owned() };
        RECIPES.iter().for_each(|recipe| maker.make(recipe));
        maker.finish();
        scratch
    })
    .path()
}

/// The names of all that are made, and their common names.
pub(crate) fn names() -> impl Iterator<Item = (&'static str, &'static str)> {
    RECIPES.iter().map(|recipe| (recipe.name, recipe.subject.trim_start_matches("/CN=")))
}

struct Maker {
    dir: PathBuf,
}

impl Maker {
    fn openssl(&self, line: &str, more: &[&str]) -> String {
        let mut openssl = Command::new(system_program("openssl", "openssl").must());
        openssl.current_dir(&self.dir).env_clear().env("OPENSSL_CONF", self.dir.join("conf"));
        openssl.args(line.split_whitespace()).args(more);
        let output = run(&mut openssl, LIMIT, &format!("openssl {line} {more:?}")).must();
        String::from_utf8(output.stdout).must()
    }

    fn make(&self, recipe: &Recipe) {
        let Recipe { name, subject, issuer, key, extensions, how } = recipe;
        fs::write(self.dir.join("conf"), "[req]\ndistinguished_name=dn\n[dn]\n").must();
        fs::write(self.dir.join("ext"), extensions).must();
        self.openssl(&format!("genpkey -algorithm {key} -out {name}.key"), &[]);
        self.openssl(&format!("req -new -key {name}.key -out {name}.csr -subj"), &[subject]);
        let signer = match name == issuer {
            true => format!("-signkey {name}.key"),
            false => format!("-CA {issuer}.crt -CAkey {issuer}.key -CAcreateserial"),
        };
        let extfile = if extensions.is_empty() { "" } else { "-extfile ext" };
        self.openssl(
            &format!("x509 -req -in {name}.csr {signer} {how} {extfile} -out {name}.crt"),
            &[],
        );
    }

    fn finish(&self) {
        let conf = format!(
            "[ca]\ndefault_ca=us\n[us]\ndatabase={0}/index\ncrlnumber={0}/number\ndefault_md=sha256\n",
            self.dir.display()
        );
        fs::write(self.dir.join("conf"), conf).must();
        fs::write(self.dir.join("number"), "01").must();
        fs::write(self.dir.join("index"), "").must();
        let ca = "ca -keyfile ca.key -cert ca.crt";
        self.openssl(&format!("{ca} -revoke revoked.crt"), &[]);
        self.openssl(&format!("{ca} -gencrl -crldays 30 -out ca.crl"), &[]);
        self.openssl(&format!("{ca} -gencrl -crlsec 1 -out stale.crl"), &[]);
        // As `openssl rehash` would name it.
        let hash = self.openssl("crl -in ca.crl -noout -hash", &[]);
        fs::create_dir(self.dir.join("lists")).must();
        let list = self.dir.join("lists").join(format!("{}.r0", hash.trim()));
        fs::copy(self.dir.join("ca.crl"), list).must();
        self.openssl(
            "ca -keyfile other-ca.key -cert other-ca.crt -gencrl -crldays 30 -out other.crl",
            &[],
        );
        self.openssl(
            "pkcs8 -topk8 -in client.key -v2 aes-256-cbc -out encrypted.key -passout",
            &["pass:c4n4ry key"],
        );
        let old_form = "ec -in client.key -aes256 -out old-form.key -passout";
        self.openssl(old_form, &["pass:c4n4ry key"]);
        self.openssl("pkcs8 -topk8 -in client.key -nocrypt -outform DER -out der.key", &[]);
        for key in ["client.key", "client-other.key", "encrypted.key", "old-form.key", "der.key"] {
            fs::set_permissions(self.dir.join(key), Permissions::from_mode(0o600)).must();
        }
        let read = |name: &str| fs::read_to_string(self.dir.join(name)).must();
        fs::write(self.dir.join("both.crt"), read("other-ca.crt") + &read("ca.crt")).must();
        fs::write(self.dir.join("nonsense.crt"), "nothing of the kind\n").must();
    }
}
