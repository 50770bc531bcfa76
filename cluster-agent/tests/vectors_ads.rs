//! The split-horizon vectors over a real ADS stream, in both protocols: a hand-written client on a Unix socket reads
//! Envoy's messages from the wire and knows nothing of `model`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, dead_code, reason = "tests")]

mod ads_client;
mod topology;

mod vectors {
    use super::ads_client::{Client, Handed, Variant};
    use super::topology::{Case, cases, serve};

    /// What the case wants, in the client's terms.
    fn wanted(case: &Case) -> Vec<Handed> {
        let mut all: Vec<Handed> = case.items.clone();
        all.sort_by(|a, b| a.address.cmp(&b.address));
        all
    }

    fn judge(case: &Case, handed: &[Handed]) -> Result<(), String> {
        let want = wanted(case);
        let plain = |h: &Handed| (h.address.clone(), h.via.clone(), h.tier);
        let (left, right): (Vec<_>, Vec<_>) = (handed.iter().map(plain).collect(), want.iter().map(plain).collect());
        if left != right {
            return Err(format!("{}: handed {left:?}, wanted {right:?}", case.id));
        }
        for (h, w) in handed.iter().zip(&want) {
            if (h.share - w.share).abs() > 1e-6 {
                return Err(format!("{}: {} has share {}, wanted {}", case.id, h.address, h.share, w.share));
            }
        }
        Ok(())
    }

    async fn run(variant: Variant) {
        let directory = tempfile::tempdir().unwrap();
        let (mut passed, mut failures) = (0, Vec::new());
        for (number, case) in cases().into_iter().enumerate() {
            // A workload without sidecar is always ready: an agent cannot come to know such a case.
            if !case.is_possible() {
                continue;
            }
            let socket = directory.path().join(format!("{number}.sock"));
            let served = serve(&case, &socket).await;
            let mut client = Client::connect(&socket, "shop/client", variant).await;
            let clusters = client.clusters().await;
            let name = "outbound|8080||b.shop.svc.clusterset.local";
            if clusters.contains(name) {
                match judge(&case, &client.endpoints(name).await) {
                    Ok(()) => passed += 1,
                    Err(failure) => failures.push(failure),
                }
            } else if case.items.is_empty() {
                passed += 1;
            } else {
                failures.push(format!("{}: no cluster", case.id));
            }
            served.end().await;
        }
        assert!(
            failures.is_empty(),
            "{} of {} failed:\n{}",
            failures.len(),
            passed + failures.len(),
            failures.join("\n")
        );
        assert!(passed >= 100, "only {passed} cases were run");
    }

    /// Mutation seen to fail: `LbEndpoint.load_balancing_weight` is always 1; the priority is left out.
    #[tokio::test]
    async fn state_of_the_world() {
        run(Variant::Sotw).await;
    }

    /// Mutation seen to fail: `keep_identified` drops groups; own endpoints are left out of the clusterset host.
    #[tokio::test]
    async fn incremental() {
        run(Variant::Delta).await;
    }
}
