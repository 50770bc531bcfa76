use super::*;

/// Mutation seen to fail: `clientOnly` left out.
#[test]
fn a_stock_envoy_is_a_client_only() {
    let workload = "shop/a".parse().unwrap();
    let made = envoy_bootstrap("/e/run/xds.sock", &workload, &EnvoyFlags::default());
    assert_eq!(made["node"]["id"], "sidecar~0.0.0.0~a.shop~shop.svc.cluster.local");
    assert_eq!(made["node"]["metadata"]["meshfed"]["workload"], "shop/a");
    assert_eq!(made["node"]["metadata"]["meshfed"]["clientOnly"], true);
    assert_eq!(made["dynamic_resources"]["ads_config"]["api_type"], "DELTA_GRPC");
}
