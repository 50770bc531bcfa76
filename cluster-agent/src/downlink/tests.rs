use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use meshfed_ca::keys::SigningKey;
use meshfed_ca::{anchor, lineage, root};
use meshfed_model::bundle::Bundle;
use meshfed_model::identity::TrustDomain;
use meshfed_runtime::clock;
use meshfed_runtime::tls::TrustStore;

use super::bundles::{BundleRefused, Bundles};

const DAY: Duration = Duration::from_secs(86_400);

struct Root {
    key: SigningKey,
    der: Vec<u8>,
    now: SystemTime,
}

fn domain(name: &str) -> TrustDomain {
    TrustDomain::new(name).unwrap()
}

impl Root {
    fn new() -> Self {
        let (key, now) = (SigningKey::generate().unwrap(), clock::wall());
        let der = root::create(&key, &domain("f"), now, 60 * DAY).unwrap();
        Self { key, der, now }
    }
    fn bundle(&self, name: &str, serial: u64) -> Bundle {
        let key = SigningKey::generate().unwrap();
        let anchor = anchor::self_signed(&key, &domain(name), self.now, 30 * DAY).unwrap();
        let lineage = lineage::issue(&self.key, &self.der, &anchor, self.now).unwrap();
        Bundle { trust_domain: domain(name), serial, anchors: vec![anchor], lineages: vec![lineage] }
    }
    fn open(&self, dir: &Path, trust: &Arc<TrustStore>) -> Bundles {
        Bundles::open(dir, self.der.clone(), domain("f"), domain("west.f"), Arc::clone(trust)).unwrap()
    }
}

/// Mutations seen to fail: `accept` replaced by `offered.clone()`; `save` left out of `take`; `withdraw` without its
/// check of the own domain.
#[test]
fn a_bundle_is_taken_with_proof_only_and_the_last_good_one_stays() {
    let root = Root::new();
    let dir = tempfile::tempdir().unwrap();
    let trust = Arc::new(TrustStore::new());
    let mut bundles = root.open(dir.path(), &trust);
    let east = root.bundle("east.f", 4);
    assert!(bundles.take(&east, root.now).unwrap());
    assert!(!bundles.take(&east, root.now).unwrap(), "the same again is no change");
    assert!(bundles.take(&root.bundle("f", 1), root.now).unwrap(), "the fleet's own");
    let anchors = trust.get(&domain("east.f")).unwrap();
    assert_eq!(anchors.iter().map(|a| a.to_vec()).collect::<Vec<_>>(), east.anchors);

    let forged = Bundle { serial: 9, ..Root::new().bundle("south.f", 9) };
    assert!(matches!(bundles.take(&forged, root.now).unwrap_err(), BundleRefused::Unproved { .. }));
    assert_eq!(trust.get(&domain("south.f")), None);
    let changed = root.bundle("east.f", 5);
    assert!(matches!(bundles.take(&changed, root.now).unwrap_err(), BundleRefused::Unproved { .. }), "another anchor");
    let foreign = root.bundle("east.g", 1);
    assert!(matches!(bundles.take(&foreign, root.now).unwrap_err(), BundleRefused::Foreign(_)));
    assert!(matches!(bundles.withdraw(&domain("f")).unwrap_err(), BundleRefused::Own(_)));
    assert_eq!(trust.get(&domain("east.f")), Some(anchors.clone()), "the last good one stays");

    drop(bundles);
    let again = Arc::new(TrustStore::new());
    let mut bundles = root.open(dir.path(), &again);
    assert_eq!(bundles.held().get(&domain("east.f")), Some(&east));
    assert_eq!(again.get(&domain("east.f")), Some(anchors));
    assert!(matches!(bundles.take(&root.bundle("east.f", 3), root.now).unwrap_err(), BundleRefused::Unproved { .. }));
    assert!(bundles.withdraw(&domain("east.f")).unwrap());
    assert_eq!(again.get(&domain("east.f")), None);
    assert_eq!(root.open(dir.path(), &Arc::new(TrustStore::new())).held().len(), 1);
}
