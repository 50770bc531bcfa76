//! Compiles our protos with protox, so that a bare clone builds without protoc.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(
        [
            "meshfed/federation/v1/federation.proto",
            "meshfed/workload/v1/workload.proto",
            "envoy/service/discovery/v3/ads.proto",
            "envoy/service/secret/v3/sds.proto",
            "spiffe/workloadapi.proto",
        ],
        ["proto"],
    )?;
    tonic_prost_build::configure()
        .bytes(".envoy.service.discovery.v3.Any.value")
        .bytes(".meshfed.federation.v1.EndpointsAnswer.body")
        .btree_map(".")
        .compile_fds(files)?;
    Ok(())
}
