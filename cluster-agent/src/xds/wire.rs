//! Pure. Between the wire's messages and those of the state machine.

use meshfed_api::proto::envoy::service::discovery::v3 as pb;

use super::stream::{Request, Response};
use crate::core::command::End;
use crate::translate::{Node, NodeError};

pub(super) fn sotw_request(message: pb::DiscoveryRequest) -> Request {
    Request {
        subscribe: message.resource_names,
        nonce: message.response_nonce,
        error: message.error_detail.map(|s| s.message),
        resumes: !message.version_info.is_empty(),
        ..Request::default()
    }
}

pub(super) fn delta_request(message: pb::DeltaDiscoveryRequest) -> Request {
    Request {
        subscribe: message.resource_names_subscribe,
        unsubscribe: message.resource_names_unsubscribe,
        held: message.initial_resource_versions.into_iter().collect(),
        nonce: message.response_nonce,
        error: message.error_detail.map(|s| s.message),
        resumes: false,
    }
}

pub(super) fn node(node: Option<&pb::Node>) -> Result<Node, NodeError> {
    let node = node.ok_or(NodeError::NoWorkload)?;
    Node::parse(&node.id, &node.user_agent_name, node.metadata.as_ref())
}

fn any(type_url: &str, body: &bytes::Bytes) -> pb::Any {
    pb::Any { type_url: type_url.to_owned(), value: body.clone() }
}

pub(super) fn sotw_response(response: Response) -> pb::DiscoveryResponse {
    let type_url = response.kind.type_url();
    pb::DiscoveryResponse {
        version_info: response.version,
        resources: response.resources.iter().map(|r| any(type_url, &r.body)).collect(),
        type_url: type_url.to_owned(),
        nonce: response.nonce,
    }
}

pub(super) fn delta_response(response: Response) -> pb::DeltaDiscoveryResponse {
    let type_url = response.kind.type_url();
    let resource = |r: &std::sync::Arc<crate::translate::Resource>| pb::Resource {
        version: r.version.to_string(),
        resource: Some(any(type_url, &r.body)),
        name: r.name.to_string(),
        aliases: Vec::new(),
    };
    pb::DeltaDiscoveryResponse {
        system_version_info: response.version,
        resources: response.resources.iter().map(resource).collect(),
        type_url: type_url.to_owned(),
        nonce: response.nonce,
        removed_resources: response.removed.iter().map(ToString::to_string).collect(),
    }
}

pub(super) fn status(end: End) -> tonic::Status {
    match end {
        End::Denied(m) => tonic::Status::permission_denied(m),
        End::Unresolvable(m) => tonic::Status::failed_precondition(m),
        End::Gone(m) => tonic::Status::unavailable(m),
        End::Limit(m) => tonic::Status::resource_exhausted(m),
        End::Internal(m) => tonic::Status::internal(m),
    }
}
