//! Which names an authority may vouch for (nameConstraints, RFC 5280, 4.2.1.10).
//!
//! DNS names, addresses and directory names are held against them, and, as OpenSSL does, the common
//! name where there is no alternative DNS name. A constraint on anything else that the certificate
//! has can't be evaluated, and refuses it.

use x509_cert::ext::pkix::constraints::name::GeneralSubtree;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::name::Name;

use super::certificate::{Certificate, Flaw};
use super::name::common_name;

/// Holds every certificate's names against the constraints of those above it.
pub(super) fn check(path: &[&Certificate]) -> Result<(), Flaw> {
    for (depth, authority) in path.iter().enumerate().skip(1) {
        let Some(constraints) = authority.constraints() else { continue };
        for (below, certificate) in path.iter().enumerate().take(depth) {
            // What replaces itself, below the top and above the leaf, isn't constrained.
            if below > 0 && certificate.is_self_issued() {
                continue;
            }
            let names = Names::of(certificate);
            let subtrees = |list: &Option<Vec<GeneralSubtree>>| list.clone().unwrap_or_default();
            let (permitted, excluded) = (
                subtrees(&constraints.permitted_subtrees),
                subtrees(&constraints.excluded_subtrees),
            );
            if !names.are_permitted(&permitted) || names.are_excluded(&excluded) {
                return Err(Flaw::NameConstraint);
            }
        }
    }
    Ok(())
}

/// What a certificate calls itself.
struct Names<'a> {
    subject: &'a Name,
    alt: &'a [GeneralName],
    common: Option<String>,
}

/// Whether a name lies in a subtree.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fit {
    Inside,
    Outside,
    /// It is of another kind.
    Other,
    /// It is of this kind, and can't be compared.
    Unknown,
}

impl<'a> Names<'a> {
    fn of(certificate: &'a Certificate) -> Self {
        let alt = certificate.alt_names();
        let has_dns = alt.iter().any(|name| matches!(name, GeneralName::DnsName(_)));
        let common = if has_dns { None } else { common_name(certificate) };
        Self { subject: certificate.subject(), alt, common }
    }

    /// How each name stands to a subtree.
    fn fits<'t>(&'t self, tree: &'t GeneralSubtree) -> impl Iterator<Item = Fit> + 't {
        let subject = match &tree.base {
            GeneralName::DirectoryName(base) if !self.subject.is_empty() => {
                lies_under(self.subject, base)
            }
            _ => Fit::Other,
        };
        let common = match (&tree.base, &self.common) {
            (GeneralName::DnsName(base), Some(name)) if looks_like_dns(name) => {
                dns_fits(name, base.as_str())
            }
            _ => Fit::Other,
        };
        let plain = tree.minimum == 0 && tree.maximum.is_none();
        let all = self.alt.iter().map(|name| fit(name, &tree.base)).chain([subject, common]);
        all.map(move |fit| if plain || fit == Fit::Other { fit } else { Fit::Unknown })
    }

    fn count(&self) -> usize {
        self.alt.len() + 2
    }

    /// Each name of a kind that is constrained lies in one of the subtrees of its kind.
    fn are_permitted(&self, trees: &[GeneralSubtree]) -> bool {
        let mut state = vec![Fit::Other; self.count()];
        for tree in trees {
            for (state, fit) in state.iter_mut().zip(self.fits(tree)) {
                *state = match (*state, fit) {
                    (Fit::Inside, _) | (_, Fit::Inside) => Fit::Inside,
                    (known, Fit::Other) => known,
                    (_, fit) => fit,
                };
            }
        }
        state.iter().all(|fit| matches!(fit, Fit::Inside | Fit::Other))
    }

    fn are_excluded(&self, trees: &[GeneralSubtree]) -> bool {
        trees
            .iter()
            .any(|tree| self.fits(tree).any(|fit| matches!(fit, Fit::Inside | Fit::Unknown)))
    }
}

fn fit(name: &GeneralName, base: &GeneralName) -> Fit {
    match (name, base) {
        (GeneralName::DnsName(name), GeneralName::DnsName(base)) => {
            dns_fits(name.as_str(), base.as_str())
        }
        (GeneralName::IpAddress(name), GeneralName::IpAddress(base)) => {
            address_fits(name.as_bytes(), base.as_bytes())
        }
        (GeneralName::DirectoryName(name), GeneralName::DirectoryName(base)) => {
            lies_under(name, base)
        }
        (name, base) if std::mem::discriminant(name) == std::mem::discriminant(base) => {
            Fit::Unknown
        }
        _ => Fit::Other,
    }
}

fn inside(is: bool) -> Fit {
    if is { Fit::Inside } else { Fit::Outside }
}

/// `example.com` has `example.com` and `a.example.com` in it; nothing at all has everything.
fn dns_fits(name: &str, base: &str) -> Fit {
    let (name, base) = (name.to_ascii_lowercase(), base.to_ascii_lowercase());
    let rest = name.strip_suffix(base.as_str());
    inside(rest.is_some_and(|rest| {
        rest.is_empty() || base.is_empty() || base.starts_with('.') || rest.ends_with('.')
    }))
}

fn address_fits(name: &[u8], base: &[u8]) -> Fit {
    if base.len() != name.len() * 2 {
        return Fit::Outside;
    }
    let (net, mask) = base.split_at(name.len());
    inside(name.iter().zip(net).zip(mask).all(|((name, net), mask)| (name ^ net) & mask == 0))
}

fn lies_under(name: &Name, base: &Name) -> Fit {
    let mut parts = name.iter_rdn();
    inside(base.iter_rdn().all(|part| parts.next() == Some(part)))
}

/// Whether a common name is meant as a host's (`cn2dnsid`, crypto/x509/v3_ncons.c).
fn looks_like_dns(name: &str) -> bool {
    name.contains('.')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'*'))
}
