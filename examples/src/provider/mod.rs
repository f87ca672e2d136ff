//! A scripted model provider: OpenAI's chat completions over real HTTP.
//!
//! **Shape.** `POST /v1/chat/completions` answers as the API does, with and without `stream`. What
//! it does with a call is said by the header `X-Script` (the name of an act, or a [`Script`] as
//! JSON), else by the model's queue, which `POST /script` fills, else it answers. `GET /served`
//! tells what was really produced, for comparison with what was billed.
//!
//! It needs no token: it stands for a provider outside.

mod answer;
mod chat;
mod script;
mod served;
mod stream;
mod text;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use chat::{ChatRequest, Content, Message, Part, StreamOptions, prompt_tokens};
pub use script::{Act, SCRIPT_HEADER, Script};
pub use served::{Counts, Served};

use crate::extract::Json;
use crate::serving;

/// What the provider remembers while it runs.
#[derive(Debug, Default)]
pub struct Provider {
    queues: Mutex<BTreeMap<String, VecDeque<Script>>>,
    served: Mutex<Served>,
}

impl Provider {
    /// What `model` does with its next calls, in place of what was queued before.
    pub fn queue(&self, model: &str, scripts: impl IntoIterator<Item = Script>) {
        lock(&self.queues).insert(model.to_owned(), scripts.into_iter().collect());
    }

    /// What was produced so far.
    #[must_use]
    pub fn served(&self) -> Served {
        lock(&self.served).clone()
    }

    fn next_of_queue(&self, model: &str) -> Option<Script> {
        lock(&self.queues).get_mut(model)?.pop_front()
    }

    fn count(&self, model: &str, act: Act, change: impl FnOnce(&mut Counts)) {
        let mut served = lock(&self.served);
        change(served.models.entry(model.to_owned()).or_default().entry(act).or_default());
    }
}

/// No code panics while it holds one of these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The provider's routes.
pub fn router(provider: Arc<Provider>) -> Router {
    let routes = Router::new()
        .route("/v1/chat/completions", post(answer::completions))
        .route("/script", post(script_model))
        .route("/served", get(served))
        .with_state(provider);
    serving::open(routes)
}

/// Serves until told to stop.
///
/// # Errors
/// When the listener cannot accept.
pub async fn serve(
    listener: TcpListener,
    provider: Arc<Provider>,
    stop: CancellationToken,
) -> io::Result<()> {
    serving::serve(listener, router(provider), stop).await
}

/// A model's queue.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Queue {
    model: String,
    queue: Vec<Script>,
}

async fn script_model(State(provider): State<Arc<Provider>>, Json(body): Json<Queue>) -> StatusCode {
    provider.queue(&body.model, body.queue);
    StatusCode::NO_CONTENT
}

async fn served(State(provider): State<Arc<Provider>>) -> axum::Json<Served> {
    axum::Json(provider.served())
}
