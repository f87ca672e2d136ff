//! The routes, one file a noun.

mod accounts;
mod holds;
mod money;
mod monitoring;
mod prices;
mod pricing;
mod reads;
mod sending;

use std::sync::Arc;

use axum::http::StatusCode;
use axum::{Router, middleware};
use tower::Layer;
use utoipa::OpenApi;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, SecurityScheme};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use utoipa_swagger_ui::SwaggerUi;

use crate::auth::authorize;
use crate::facade::Facade;
use crate::problem::Problem;

#[derive(OpenApi)]
#[openapi(
    info(title = "Holdfast", description = "A pre-authorized billing ledger for applications that sell LLM calls."),
    security(("internal_token" = [])),
    modifiers(&InternalToken)
)]
struct Api;

struct InternalToken;

impl utoipa::Modify for InternalToken {
    fn modify(&self, api: &mut utoipa::openapi::OpenApi) {
        let key =
            ApiKeyValue::with_description("X-INTERNAL-TOKEN", "The internal token, shared by all services.");
        let components = api.components.get_or_insert_default();
        components.add_security_scheme("internal_token", SecurityScheme::ApiKey(ApiKey::Header(key)));
    }
}

fn described() -> OpenApiRouter<Arc<Facade>> {
    OpenApiRouter::with_openapi(Api::openapi())
        .routes(routes!(accounts::open))
        .routes(routes!(money::top_up))
        .routes(routes!(money::deduct))
        .routes(routes!(holds::reserve))
        .routes(routes!(holds::capture))
        .routes(routes!(holds::release))
        .routes(routes!(reads::balance))
        .routes(routes!(reads::hold))
        .routes(routes!(reads::statement))
        .routes(routes!(reads::subscription_count))
        .routes(routes!(prices::price))
        .routes(routes!(prices::costs))
        .routes(routes!(monitoring::health))
        .routes(routes!(monitoring::queue_stats))
        .routes(routes!(monitoring::metrics))
        .routes(routes!(monitoring::healthz))
}

/// The description of every route.
#[must_use]
pub fn openapi() -> utoipa::openapi::OpenApi {
    described().split_for_parts().1
}

/// The whole façade, behind its token.
pub fn router(facade: Arc<Facade>) -> Router {
    let (routes, api) = described().split_for_parts();
    let inner: Router = routes
        .merge(SwaggerUi::new("/docs").url("/openapi.json", api))
        .fallback(async || Problem::not_found("route"))
        .method_not_allowed_fallback(async || {
            Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "this route takes another method",
            )
        })
        .with_state(Arc::clone(&facade));
    // Around the router, not in it: a router would tell by `Allow` headers which routes there are.
    let guarded = middleware::from_fn_with_state(facade, authorize).layer(inner);
    Router::new().fallback_service(guarded)
}
