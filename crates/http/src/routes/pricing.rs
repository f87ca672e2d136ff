//! Pricing at the edge: a request that says tokens instead of an amount.

use axum::http::HeaderMap;
use chrono::Utc;
use holdfast_core::usage::{Quote, Tokens, Usage, UsageSource};
use holdfast_core::{AccountId, Asset, HoldId, Verb};
use holdfast_prices::Ask;
use holdfast_projector::queries;
use holdfast_protocol::envelope::Envelope;
use serde::Deserialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::prices::unpriced;
use super::sending::repeatable_id;
use crate::facade::{Facade, store};
use crate::problem::Problem;

/// What an amount is the price of. With `book` and `rates` it was priced by the caller, who gives the
/// amount as well; without, the façade prices it.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    /// The model; of a capture only where its reserve had none.
    model: Option<String>,
    /// Who runs it; who is known for the model unless given.
    provider: Option<String>,
    /// Another price list of the model, such as `batch`.
    variant: Option<String>,
    /// Where the counts are from: `estimated` (of a reserve unless given), `reported` (else unless
    /// given) or `delivered`.
    #[schema(value_type = Option<String>)]
    source: Option<UsageSource>,
    /// Counts by dimension, such as `input` and `output`.
    #[schema(value_type = Object)]
    tokens: Tokens,
    /// The price book that the rates are from.
    #[schema(value_type = Option<String>)]
    book: Option<Box<RawValue>>,
    /// The rates.
    #[schema(value_type = Option<Object>)]
    rates: Option<Box<RawValue>>,
}

/// An amount, and what it is the price of.
pub(super) struct Priced {
    pub(super) amount: Option<Box<RawValue>>,
    pub(super) usage: Option<Usage>,
}

/// A request for money, as far as its price depends on it.
pub(super) struct Charge<'a> {
    pub(super) verb: Verb,
    pub(super) account: &'a str,
    /// The hold that is captured, whose rates hold.
    pub(super) hold: Option<HoldId>,
    /// What makes the request repeatable besides its header.
    pub(super) job_id: Option<&'a str>,
    pub(super) amount: Option<Box<RawValue>>,
    pub(super) asked: Option<Asked>,
    /// Where counts are from unless the request says.
    pub(super) source: UsageSource,
}

/// What a request's amount and usage come to.
pub(super) async fn priced(
    facade: &Facade,
    headers: &HeaderMap,
    charge: Charge<'_>,
) -> Result<Priced, Problem> {
    let Charge { amount, asked, source, .. } = charge;
    let Some(asked) = asked else { return Ok(Priced { amount, usage: None }) };
    let source = asked.source.unwrap_or(source);
    if asked.rates.is_some() || asked.book.is_some() {
        if amount.is_none() {
            return Err(Problem::invalid(
                "amount: give it beside usage.rates, or leave usage.rates and usage.book out",
            ));
        }
        return Ok(Priced { amount, usage: Some(by_caller(asked, source)?) });
    }
    if amount.is_some() {
        return Err(Problem::invalid(
            "amount: leave it out, or give usage.book and usage.rates that it is the price by",
        ));
    }
    let account =
        AccountId::new(charge.account).map_err(|error| Problem::invalid(format!("user_id: {error}")))?;
    let (asset, mut fixed) = known(facade, &account, charge.hold).await?;
    if fixed.is_none() {
        // A repeat asks for what was asked first, by the rates of then.
        fixed = said_before(facade, headers, charge.verb, charge.job_id).await?;
    }
    let usage = match fixed {
        // A price change never reaches into a call that is under way.
        Some(fixed) => {
            must_be_of(facade, &asked, &fixed)?;
            Usage { source, tokens: fixed.rates.fold(&asked.tokens), ..fixed }
        }
        None => quote(facade, &asked, asset)?.usage(source, &asked.tokens),
    };
    let wrong = |error| Problem::invalid(format!("usage: {error}"));
    usage.check().map_err(wrong)?;
    let units = usage.price(asset).map_err(wrong)?;
    let amount = RawValue::from_string(format!("\"{}\"", asset.format(units)));
    let amount = amount.map_err(|error| Problem::invalid(format!("amount: {error}")))?;
    Ok(Priced { amount: Some(amount), usage: Some(usage) })
}

/// Refuses a request that names another model than the one whose rates hold for it.
fn must_be_of(facade: &Facade, asked: &Asked, fixed: &Usage) -> Result<(), Problem> {
    let Some(model) = &asked.model else { return Ok(()) };
    let ask = Ask { model: model.clone(), provider: asked.provider.clone(), variant: asked.variant.clone() };
    let named = facade.book().quote(&ask, Utc::now()).map_err(|why| unpriced(&why))?;
    if (&named.provider, &named.model, &named.variant) == (&fixed.provider, &fixed.model, &fixed.variant) {
        return Ok(());
    }
    Err(Problem::invalid(format!("usage.model: this was reserved for {} of {}", fixed.model, fixed.provider)))
}

/// The usage of the command that this request repeats, if it was decided.
async fn said_before(
    facade: &Facade,
    headers: &HeaderMap,
    verb: Verb,
    job_id: Option<&str>,
) -> Result<Option<Usage>, Problem> {
    #[derive(Deserialize)]
    struct Said {
        usage: Option<Usage>,
    }
    let Some(id) = repeatable_id(facade, headers, verb, job_id)? else { return Ok(None) };
    let Some(row) = facade.decided(id).await? else { return Ok(None) };
    let envelope = Envelope::parse(&row.envelope).ok();
    let said = envelope.and_then(|envelope| serde_json::from_slice::<Said>(envelope.body()).ok());
    Ok(said.and_then(|said| said.usage))
}

fn by_caller(asked: Asked, source: UsageSource) -> Result<Usage, Problem> {
    fn read<T: serde::de::DeserializeOwned>(name: &str, json: Option<Box<RawValue>>) -> Result<T, Problem> {
        let json = json.ok_or_else(|| Problem::invalid(format!("usage.{name}: is missing")))?;
        serde_json::from_str(json.get()).map_err(|error| Problem::invalid(format!("usage.{name}: {error}")))
    }
    fn text<const MAX: usize>(
        name: &str,
        text: Option<String>,
    ) -> Result<holdfast_core::text::Text<MAX>, Problem> {
        let text = text.ok_or_else(|| Problem::invalid(format!("usage.{name}: is missing")))?;
        text.try_into().map_err(|error| Problem::invalid(format!("usage.{name}: {error}")))
    }
    let variant = asked.variant.map(|variant| text("variant", Some(variant))).transpose()?;
    Ok(Usage {
        provider: text("provider", asked.provider)?,
        model: text("model", asked.model)?,
        book: read("book", asked.book)?,
        variant,
        source,
        tokens: asked.tokens,
        rates: read("rates", asked.rates)?,
    })
}

fn quote(facade: &Facade, asked: &Asked, asset: Asset) -> Result<Quote, Problem> {
    let model = asked.model.clone().ok_or_else(|| Problem::invalid("usage.model: is missing"))?;
    let ask = Ask { model, provider: asked.provider.clone(), variant: asked.variant.clone() };
    let quote = facade.book().quote(&ask, Utc::now()).map_err(|why| unpriced(&why))?;
    if quote.asset.as_str() != asset.code() {
        return Err(Problem::invalid(format!(
            "usage: its price is in {}, the account is kept in {}; give the amount with usage.book and usage.rates",
            quote.asset,
            asset.code()
        )));
    }
    Ok(quote)
}

/// The account's asset, and what the hold was reserved for.
async fn known(
    facade: &Facade,
    account: &AccountId,
    hold: Option<HoldId>,
) -> Result<(Asset, Option<Usage>), Problem> {
    // A hold's rates must be found if it has any: it may have been reserved elsewhere a moment ago.
    let mut connection = match hold {
        Some(_) => facade.read_up_to_head().await?,
        None => facade.read().await?,
    };
    let found = queries::account(&mut connection, facade.partition(), account).await;
    // Of an account that is not there the ledger says so itself, whatever the amount.
    let asset = found.map_err(|error| store(&error))?.map_or(Asset::USD, |account| account.asset);
    let Some(hold) = hold else { return Ok((asset, None)) };
    let holds = queries::holds(&mut connection, facade.partition(), hold, Some(account)).await;
    let reserved = holds.map_err(|error| store(&error))?.into_iter().next().and_then(|view| view.usage);
    Ok((asset, reserved))
}
