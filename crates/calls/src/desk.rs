//! What every hold of a process shares: the journal, the way to the driver, the list of live holds.
//!
//! **Correctness.** The order in which a hold ends is always: it leaves the live holds, its
//! settlement is written, and only then it goes to the driver. When the disk refuses the write, the
//! settlement goes to the driver all the same: not sending it would surely lose what the call cost,
//! and after a crash the row, in its earlier state, is recovered to a settlement that finds the
//! hold ended.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use holdfast_core::{AccountId, Asset, CommandId, HoldId};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::driver::{self, Order, Unsent};
use crate::heartbeat::Live;
use crate::journal::{Ending, Journal};
use crate::plan::Plan;
use crate::sizing::Samples;

/// How long holds wait for things.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Waits {
    /// For the outcome of a settlement.
    pub(crate) settle: Duration,
    /// For the usage of a stream that was abandoned.
    pub(crate) drain: Duration,
}

/// What every hold of a process shares.
pub(crate) struct Desk {
    pub(crate) journal: Journal,
    pub(crate) asset: Asset,
    pub(crate) waits: Waits,
    pub(crate) live: Arc<Live>,
    pub(crate) samples: Samples,
    orders: mpsc::UnboundedSender<Order>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Desk {
    /// A desk, and where its orders come out.
    pub(crate) fn new(
        journal: Journal,
        asset: Asset,
        waits: Waits,
        samples: Samples,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<Order>) {
        let (orders, out) = mpsc::unbounded_channel();
        let (live, tasks) = (Arc::default(), Mutex::default());
        (Arc::new(Desk { journal, asset, waits, live, samples, orders, tasks }), out)
    }

    /// Ends a hold with a capture or a release: written, then sent. `reply` is told the outcome.
    /// `is_ours` says that the reserve was written: when it was not, a hold of this id may belong to
    /// somebody else, and without the journal nothing is done.
    pub(crate) fn settle(
        &self,
        hold: HoldId,
        account: &AccountId,
        reserve_id: CommandId,
        ending: Ending,
        is_ours: bool,
        reply: Option<oneshot::Sender<driver::Result>>,
    ) {
        if is_ours {
            self.live.remove(hold);
        }
        let orders = self.orders.clone();
        let Ending { verb, id, body } = ending.clone();
        let order = Order { hold, account: account.clone(), verb, id, body, part: None, reply };
        self.journal.settling(hold, reserve_id, &ending, move |written| {
            let send = match written {
                Ok(written) => written,
                Err(error) => {
                    tracing::error!(%hold, %error, "a settlement was not written to the journal");
                    is_ours
                }
            };
            // The driver is gone only when the process ends; then the journal has it.
            if send {
                let _ = orders.send(order);
            }
        });
    }

    /// Charges a part: written, then sent. `observed` is what it leaves to be charged. What is not
    /// written is not sent, since the call goes on, and can be charged at its end.
    pub(crate) fn part(&self, order: Order, reserve_id: CommandId, observed: Option<(String, &'static str)>) {
        let (orders, journal, hold) = (self.orders.clone(), self.journal.clone(), order.hold);
        let part = Ending { verb: order.verb, id: order.id, body: order.body.clone() };
        self.live.forget_delivered(hold);
        self.journal.parting(hold, reserve_id, &part, observed, move |written| match written {
            Ok(()) => {
                let _ = orders.send(order);
            }
            Err(error) => driver::finish(&journal, order, Err(Unsent::Unwritten(error))),
        });
    }

    /// Hands an order to the driver: what the journal says is about to be sent.
    pub(crate) fn order(&self, order: Order) {
        let _ = self.orders.send(order);
    }

    /// Leaves the hold to expire.
    pub(crate) fn keep(&self, hold: HoldId) {
        self.live.remove(hold);
        self.journal.kept(hold);
        metrics::counter!("holdfast_calls_settled_total", "how" => "kept").increment(1);
        tracing::warn!(%hold, "whether the provider worked is unknown; the hold is left to expire");
    }

    /// Learns how much output a model's call had.
    pub(crate) fn learn(&self, plan: &Plan, output: u64) {
        let model = plan.usage.model.as_str();
        self.samples.add(model, output);
        self.journal.sample(plan.hold, model.to_owned(), output);
    }

    /// Remembers a task that [`Desk::stop`] ends.
    pub(crate) fn runs(&self, task: JoinHandle<()>) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).push(task);
    }

    /// Ends the tasks and closes the journal. What has no outcome yet is found in it.
    pub(crate) async fn stop(&self) {
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        for task in tasks {
            task.abort();
            let _ = task.await;
        }
        self.journal.close().await;
    }
}
