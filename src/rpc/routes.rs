//! What a port serves: a service of ours, with the standard health and reflection services.

use super::admission::Admission;
use super::agent_server::AgentService;
use super::call::Gate;
use super::controller_server::ControllerService;
use super::generated::DESCRIPTORS;
use super::generated::agent_server::AgentServer;
use super::generated::controller_server::ControllerServer;
use super::rest::Rest;
use super::security::Security;
use crate::api::{AgentApi, ControllerApi};
use crate::domain::access::calls::Service;
use crate::domain::command::Error;
use crate::domain::quantity::MAX_MESSAGE_BYTES;
use crate::web::Web;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};

/// A question of the reflection service: the name of a symbol or file.
const MAX_REFLECTION_BYTES: usize = 16 * 1024;
const AGENT: &str = "wharf.v1.Agent";
const CONTROLLER: &str = "wharf.v1.Controller";
const STANDARD: [&str; 3] =
    ["grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"];

/// Services of one port. Give it to [`super::serve()`]; a copy shares the shutdown of the original.
#[derive(Debug, Clone)]
pub struct Routes {
    pub(super) services: tonic::service::Routes,
    /// What answers HTTP, if anything does.
    pub(super) web: Option<Web>,
    pub(super) admission: Arc<Admission>,
    pub(super) closing: CancellationToken,
    health: HealthReporter,
    names: Vec<&'static str>,
}

/// The Agent service, health and reflection.
pub async fn agent_routes(api: Arc<dyn AgentApi>, security: Security) -> Result<Routes, Error> {
    routes(Some(api), None, security).await
}

/// The Controller service, health and reflection.
pub async fn controller_routes(api: Arc<dyn ControllerApi>, security: Security) -> Result<Routes, Error> {
    let security = security.kept_by(api.clone());
    routes(None, Some(api), security).await
}

/// Both services on one port, or one of them.
pub async fn routes(
    agent: Option<Arc<dyn AgentApi>>,
    controller: Option<Arc<dyn ControllerApi>>,
    security: Security,
) -> Result<Routes, Error> {
    let (closing, admission) = (CancellationToken::new(), Arc::new(Admission::new(security)));
    let gate = |service| Gate::new(service, admission.clone(), closing.clone());
    let mut services = tonic::service::Routes::builder();
    let mut names = Vec::new();
    if let Some(api) = agent {
        let service = AgentServer::new(AgentService::new(api, gate(Service::Agent)));
        services.add_service(
            service.max_decoding_message_size(MAX_MESSAGE_BYTES).max_encoding_message_size(MAX_MESSAGE_BYTES),
        );
        names.push(AGENT);
    }
    if let Some(api) = controller {
        let service = ControllerServer::new(ControllerService::new(api, gate(Service::Controller)));
        services.add_service(
            service.max_decoding_message_size(MAX_MESSAGE_BYTES).max_encoding_message_size(MAX_MESSAGE_BYTES),
        );
        names.push(CONTROLLER);
    }
    let health = HealthReporter::new();
    services.add_service(HealthServer::new(HealthService::from_health_reporter(health.clone())));
    let broken = |error| Error::internal(format!("building the reflection service: {error}"));
    let service = reflection(&names).build_v1().map_err(broken)?;
    services.add_service(service.max_decoding_message_size(MAX_REFLECTION_BYTES));
    let service = reflection(&names).build_v1alpha().map_err(broken)?;
    services.add_service(service.max_decoding_message_size(MAX_REFLECTION_BYTES));
    let routes = Routes { services: services.routes(), web: None, admission, closing, health, names };
    routes.report(ServingStatus::Serving).await;
    Ok(routes)
}

/// Lists what this port serves, not everything that is compiled in.
fn reflection(names: &[&'static str]) -> tonic_reflection::server::Builder<'static> {
    let builder = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
    names.iter().chain(&STANDARD).fold(builder, |builder, name| builder.with_service_name(*name))
}

impl Routes {
    /// The same, and `web` answers what comes as HTTP/1, and what is asked below `/api/`.
    pub fn with_web(self, web: Web) -> Self {
        let rest = Rest { web: web.clone(), admission: self.admission.clone() };
        Self { services: self.services.add_service(rest), web: Some(web), ..self }
    }

    async fn report(&self, status: ServingStatus) {
        for name in self.names.iter().chain(&[""]) {
            self.health.set_service_status(name, status).await;
        }
    }

    /// Says that this server is going, and ends its streams.
    pub(super) async fn close(&self) {
        self.report(ServingStatus::NotServing).await;
        self.closing.cancel();
    }
}
