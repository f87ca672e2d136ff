//! `GET /prices/{model}` and `GET /stats/costs`: what models cost, and what they have cost.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use chrono::{NaiveDate, Utc};
use holdfast_core::usage::Quote;
use holdfast_prices::Ask;
use holdfast_prices::book::{UNPRICED_MODEL, Unpriced};
use holdfast_projector::queries::{self, CostGroup, CostLine};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::facade::{Facade, store};
use crate::problem::{Document, Problem};

/// Which price list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    /// Who runs the model; who is known for it unless given.
    provider: Option<String>,
    /// Another price list of the model, such as `batch`.
    variant: Option<String>,
}

/// A model without a price is refused, never free.
pub(super) fn unpriced(why: &Unpriced) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, UNPRICED_MODEL, why.to_string())
}

/// The rates of a model, as they are now.
#[utoipa::path(get, path = "/prices/{model}", params(("model" = String, Path), Which), responses(
    (status = 200, description = "the rates, in 10^-12 dollars for one", body = Object),
    (status = 400, description = "a parameter is wrong; the detail names it", body = Document, content_type = "application/problem+json"),
    (status = 403, description = "no valid internal token", body = Document, content_type = "application/problem+json"),
    (status = 404, description = "the model has no price", body = Document, content_type = "application/problem+json"),
))]
pub(super) async fn price(
    State(facade): State<Arc<Facade>>,
    path: Result<Path<String>, PathRejection>,
    query: Result<Query<Which>, QueryRejection>,
) -> Result<Json<Quote>, Problem> {
    let Path(model) = path.map_err(|error| Problem::invalid(error.to_string()))?;
    let Query(Which { provider, variant }) = query.map_err(|error| Problem::invalid(error.to_string()))?;
    let ask = Ask { model, provider, variant };
    facade.book().quote(&ask, Utc::now()).map(Json).map_err(|why| unpriced(&why))
}

/// What costs are grouped by.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum GroupBy {
    Model,
    User,
    Day,
}

/// Which costs.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct Span {
    /// `model`, `user` or `day`.
    group_by: GroupBy,
    /// The first day, in UTC.
    #[param(value_type = Option<String>)]
    from: Option<NaiveDate>,
    /// The last day, in UTC.
    #[param(value_type = Option<String>)]
    to: Option<NaiveDate>,
}

/// The priced charges of a group.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Cost {
    /// `provider/model`, the user, or the day.
    group: String,
    asset: String,
    /// How many charges.
    charges: i64,
    input_tokens: String,
    output_tokens: String,
    /// What users were charged.
    charged: String,
    /// What the house absorbed.
    absorbed: String,
}

impl Cost {
    fn of(line: &CostLine) -> Self {
        let money = |units: i128| {
            i64::try_from(units).map_or_else(|_| format!("{units} units"), |units| line.asset.format(units))
        };
        Cost {
            group: line.group.clone(),
            asset: line.asset.code().to_owned(),
            charges: line.cost.charges,
            input_tokens: line.cost.input_tokens.to_string(),
            output_tokens: line.cost.output_tokens.to_string(),
            charged: money(line.cost.charged),
            absorbed: money(line.cost.absorbed),
        }
    }
}

/// What models have cost.
#[utoipa::path(get, path = "/stats/costs", params(Span), responses(
    (status = 200, description = "the costs, the dearest group first; days in their order", body = Vec<Cost>),
    (status = 400, description = "a parameter is wrong; the detail names it", body = Document, content_type = "application/problem+json"),
    (status = 403, description = "no valid internal token", body = Document, content_type = "application/problem+json"),
    (status = 503, description = "the projections are behind", body = Document, content_type = "application/problem+json"),
))]
pub(super) async fn costs(
    State(facade): State<Arc<Facade>>,
    query: Result<Query<Span>, QueryRejection>,
) -> Result<Json<Vec<Cost>>, Problem> {
    let Query(span) = query.map_err(|error| Problem::invalid(error.to_string()))?;
    let by = match span.group_by {
        GroupBy::Model => CostGroup::Model,
        GroupBy::User => CostGroup::User,
        GroupBy::Day => CostGroup::Day,
    };
    let mut connection = facade.read().await?;
    let lines = queries::costs(&mut connection, facade.partition(), by, span.from, span.to).await;
    let lines = lines.map_err(|error| store(&error))?;
    Ok(Json(lines.iter().map(Cost::of).collect()))
}
