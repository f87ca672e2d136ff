//! Reads: balances, holds, statements, subscriptions.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use holdfast_core::{Account, AccountId, HoldId, Position};
use holdfast_projector::queries::{self, HoldView};
use holdfast_store::Row;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::facade::{Facade, store};
use crate::problem::{Document, Problem};

/// An account's balance.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Balance {
    user_id: String,
    tier: String,
    asset: String,
    /// What is there.
    posted: String,
    /// What is promised to holds.
    held: String,
    /// `posted` less `held`.
    available: String,
    /// The account's last event.
    position: i64,
}

/// How fresh a read must be.
#[derive(Debug, Deserialize, IntoParams)]
pub(super) struct Freshness {
    /// Wait until the projections have this position.
    min_position: Option<i64>,
}

fn account_id(path: Result<Path<String>, PathRejection>) -> Result<AccountId, Problem> {
    let Path(id) = path.map_err(|error| Problem::invalid(error.to_string()))?;
    AccountId::new(&id).map_err(|error| Problem::invalid(format!("user_id: {error}")))
}

/// The account of this id, as the projections have it.
async fn existing(
    facade: &Facade,
    connection: &mut PgConnection,
    id: &AccountId,
) -> Result<Account, Problem> {
    let found = queries::account(connection, facade.partition(), id).await.map_err(|error| store(&error))?;
    found.ok_or_else(|| Problem::not_found("account"))
}

/// The balance of an account.
#[utoipa::path(get, path = "/balance/{user_id}", params(("user_id" = String, Path), Freshness), responses(
    (status = 200, description = "the balance", body = Balance),
    (status = 400, description = "not a user id", body = Document, content_type = "application/problem+json"),
    (status = 403, description = "no valid internal token", body = Document, content_type = "application/problem+json"),
    (status = 404, description = "no such account", body = Document, content_type = "application/problem+json"),
    (status = 503, description = "the projections are behind", body = Document, content_type = "application/problem+json"),
))]
pub(super) async fn balance(
    State(facade): State<Arc<Facade>>,
    path: Result<Path<String>, PathRejection>,
    query: Result<Query<Freshness>, QueryRejection>,
) -> Result<Json<Balance>, Problem> {
    let id = account_id(path)?;
    let Query(freshness) = query.map_err(|error| Problem::invalid(error.to_string()))?;
    if let Some(position) = freshness.min_position {
        facade.wait_for(Position(position)).await?;
    }
    let mut connection = facade.read().await?;
    let account = existing(&facade, &mut connection, &id).await?;
    let money = |units| account.asset.format(units);
    Ok(Json(Balance {
        user_id: id.to_string(),
        tier: account.tier.to_string(),
        asset: account.asset.code().to_owned(),
        posted: money(account.posted),
        held: money(account.held),
        available: money(account.available()),
        position: account.last_position.0,
    }))
}

/// A hold.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct HoldAnswer {
    hold_id: Uuid,
    user_id: String,
    /// `open`, `settled`, `released`, `expired` or `tombstone`.
    status: &'static str,
    /// What is still held; after the end, what was left then.
    amount: String,
    /// What was charged through it.
    captured: String,
    /// What the house absorbed.
    absorbed: String,
    /// When its time comes, in Unix milliseconds.
    expires_at: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    job_id: Option<String>,
    /// The kind and position of the event that ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_position: Option<i64>,
}

impl HoldAnswer {
    fn of(view: HoldView) -> Self {
        let money = |units| view.asset.format(units);
        HoldAnswer {
            hold_id: view.id,
            user_id: view.account.to_string(),
            status: view.hold.status.as_str(),
            amount: money(view.hold.amount),
            captured: money(view.hold.captured),
            absorbed: money(view.hold.absorbed),
            expires_at: view.hold.expires_at.millis(),
            job_id: view.job_id,
            ended_by: view.hold.ended.map(|end| end.kind.to_string()),
            ended_position: view.hold.ended.map(|end| end.position.0),
        }
    }
}

/// Whose hold is meant.
#[derive(Debug, Deserialize, IntoParams)]
pub(super) struct Owner {
    /// The user, needed only when the same id is in two accounts.
    user_id: Option<String>,
}

/// A hold by its id.
#[utoipa::path(get, path = "/holds/{id}", params(("id" = Uuid, Path), Owner), responses(
    (status = 200, description = "the hold", body = HoldAnswer),
    (status = 400, description = "not a hold id", body = Document, content_type = "application/problem+json"),
    (status = 403, description = "no valid internal token", body = Document, content_type = "application/problem+json"),
    (status = 404, description = "no such hold", body = Document, content_type = "application/problem+json"),
    (status = 409, description = "the hold is in two accounts", body = Document, content_type = "application/problem+json"),
    (status = 503, description = "the projections are behind", body = Document, content_type = "application/problem+json"),
))]
pub(super) async fn hold(
    State(facade): State<Arc<Facade>>,
    path: Result<Path<HoldId>, PathRejection>,
    query: Result<Query<Owner>, QueryRejection>,
) -> Result<Json<HoldAnswer>, Problem> {
    let Path(id) = path.map_err(|error| Problem::invalid(error.to_string()))?;
    let Query(owner) = query.map_err(|error| Problem::invalid(error.to_string()))?;
    let owner = owner.user_id.as_deref().map(AccountId::new).transpose();
    let owner = owner.map_err(|error| Problem::invalid(format!("user_id: {error}")))?;
    let mut connection = facade.read().await?;
    let found = queries::holds(&mut connection, facade.partition(), id, owner.as_ref()).await;
    let mut found = found.map_err(|error| store(&error))?.into_iter();
    match (found.next(), found.next()) {
        (Some(only), None) => Ok(Json(HoldAnswer::of(only))),
        (Some(_), Some(_)) => {
            let detail = "this hold id is in more than one account; give user_id";
            Err(Problem::new(axum::http::StatusCode::CONFLICT, "hold_ambiguous", detail))
        }
        (None, _) => Err(Problem::not_found("hold")),
    }
}

/// Which part of a statement.
#[derive(Debug, Deserialize, IntoParams)]
pub(super) struct Page {
    /// Only events before this position.
    before: Option<i64>,
    /// How many; 100 unless given, at most 1000.
    limit: Option<i64>,
}

/// A line of a statement.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Line {
    position: i64,
    /// Unix milliseconds.
    time: i64,
    kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    amount: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hold_id: Option<Uuid>,
    posted: String,
    held: String,
    available: String,
}

/// The newest events of an account first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Statement {
    user_id: String,
    events: Vec<Line>,
    /// What to pass as `before` for the next page.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_before: Option<i64>,
}

const LINES_DEFAULT: i64 = 100;
const LINES_MAX: i64 = 1000;

/// What happened on an account.
#[utoipa::path(get, path = "/accounts/{user_id}/statement", params(("user_id" = String, Path), Page), responses(
    (status = 200, description = "the statement", body = Statement),
    (status = 400, description = "not a user id or page", body = Document, content_type = "application/problem+json"),
    (status = 403, description = "no valid internal token", body = Document, content_type = "application/problem+json"),
    (status = 404, description = "no such account", body = Document, content_type = "application/problem+json"),
    (status = 503, description = "the projections are behind", body = Document, content_type = "application/problem+json"),
))]
pub(super) async fn statement(
    State(facade): State<Arc<Facade>>,
    path: Result<Path<String>, PathRejection>,
    query: Result<Query<Page>, QueryRejection>,
) -> Result<Json<Statement>, Problem> {
    let id = account_id(path)?;
    let Query(page) = query.map_err(|error| Problem::invalid(error.to_string()))?;
    let limit = page.limit.unwrap_or(LINES_DEFAULT);
    if !(1..=LINES_MAX).contains(&limit) {
        return Err(Problem::invalid(format!("limit: 1 to {LINES_MAX}")));
    }
    let mut connection = facade.read().await?;
    let partition = facade.partition();
    let account = existing(&facade, &mut connection, &id).await?;
    let before = page.before.map(Position);
    let rows = queries::statement(&mut connection, partition, &id, before, limit).await;
    let rows = rows.map_err(|error| store(&error))?;
    let full = i64::try_from(rows.len()) == Ok(limit);
    let next_before = rows.last().filter(|_| full).map(|row| row.event.position.0);
    let events = rows.iter().map(|row| line(account.asset, row)).collect();
    Ok(Json(Statement { user_id: id.to_string(), events, next_before }))
}

fn line(asset: holdfast_core::Asset, row: &Row) -> Line {
    let event = &row.event;
    Line {
        position: event.position.0,
        time: event.time.millis(),
        kind: event.fact.kind().to_string(),
        amount: event.fact.amount().map(|units| asset.format(units)),
        hold_id: event.fact.hold(),
        posted: asset.format(event.posted),
        held: asset.format(event.held),
        available: asset.format(event.available()),
    }
}

/// How many accounts are not closed.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SubscriptionCount {
    total: i64,
    by_tier: BTreeMap<String, i64>,
}

/// How many accounts there are, by tier.
#[utoipa::path(get, path = "/stats/subscription_count", responses(
    (status = 200, description = "the counts", body = SubscriptionCount),
    (status = 403, description = "no valid internal token", body = Document, content_type = "application/problem+json"),
    (status = 503, description = "the projections are behind", body = Document, content_type = "application/problem+json"),
))]
pub(super) async fn subscription_count(
    State(facade): State<Arc<Facade>>,
) -> Result<Json<SubscriptionCount>, Problem> {
    let mut connection = facade.read().await?;
    let tiers = queries::accounts_by_tier(&mut connection, facade.partition())
        .await
        .map_err(|error| store(&error))?;
    let by_tier: BTreeMap<String, i64> =
        tiers.into_iter().map(|(tier, count)| (tier.to_string(), count)).collect();
    Ok(Json(SubscriptionCount { total: by_tier.values().sum(), by_tier }))
}
