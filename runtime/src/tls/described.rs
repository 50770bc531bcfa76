//! Pure. What an issuer says of a workload beside its identity: one attribute `description` (X.520, 6.5.1) in extension
//! `subjectDirectoryAttributes` (RFC 5280, 4.2.1.8), which is never critical. Whoever does not know it passes over it,
//! and nobody is let in or kept out by it.

use meshfed_model::metadata::WorkloadMetadata;
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use yasna::models::ObjectIdentifier;
use yasna::{ASN1Error, ASN1ErrorKind};

/// `subjectDirectoryAttributes`.
pub const EXTENSION: &[u64] = &[2, 5, 29, 9];
/// `description`.
const DESCRIPTION: &[u64] = &[2, 5, 4, 13];
/// Longest content of the extension that is read: five names and what is around them.
const CONTENT_MAX: usize = 1024;

/// The content of the extension, DER.
#[must_use]
pub fn description(of: &WorkloadMetadata) -> Vec<u8> {
    yasna::construct_der(|writer| {
        writer.write_sequence_of(|attributes| {
            attributes.next().write_sequence(|attribute| {
                attribute.next().write_oid(&ObjectIdentifier::from_slice(DESCRIPTION));
                attribute.next().write_set_of(|values| values.next().write_utf8_string(&of.to_string()));
            });
        });
    })
}

/// What the issuer of a leaf says of its workload; `None` where it says nothing, or nothing of this form.
#[must_use]
pub fn described(leaf: &CertificateDer<'_>) -> Option<WorkloadMetadata> {
    let (_rest, parsed) = X509Certificate::from_der(leaf).ok()?;
    let mut found =
        parsed.extensions().iter().filter(|e| e.oid.iter().is_some_and(|id| id.eq(EXTENSION.iter().copied())));
    let (Some(extension), None) = (found.next(), found.next()) else { return None };
    if extension.value.len() > CONTENT_MAX {
        return None;
    }
    read(extension.value).ok()?.parse().ok()
}

fn read(content: &[u8]) -> Result<String, ASN1Error> {
    yasna::parse_der(content, |reader| {
        reader.read_sequence(|attributes| {
            attributes.next().read_sequence(|attribute| {
                if attribute.next().read_oid()? != ObjectIdentifier::from_slice(DESCRIPTION) {
                    return Err(ASN1Error::new(ASN1ErrorKind::Invalid));
                }
                let values = attribute.next().collect_set_of(|value| value.read_utf8string())?;
                values.into_iter().next().ok_or_else(|| ASN1Error::new(ASN1ErrorKind::Invalid))
            })
        })
    })
}
