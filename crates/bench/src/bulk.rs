//! Commands in `batch` envelopes: what an import or a backend that gathers its commands can do.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use holdfast_core::{CommandId, Verb};
use holdfast_protocol::bundle::Outgoing;
use holdfast_store::Map;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::commands::{Bus, Member};
use crate::load::Done;
use crate::workload::{Books, FUNDS, Life, Pick, decimal, name, new_id};

/// Commands in one envelope, some 100 kB.
pub(crate) const MEMBERS: usize = 500;
/// Envelopes on their way at once: as many as the lane commits together, and as many again three times, which
/// are being decided, committed and answered meanwhile.
const AT_ONCE: usize = 64;
/// Without any outcome for this long, everything that waits is published again.
const STALLED: Duration = Duration::from_secs(10);
const STALLED_MAX: u32 = 6;

/// One step of what a batch does.
struct Step {
    id: CommandId,
    member: Member,
    expects: &'static str,
}

/// How many commands, and how many of them in an envelope; a life that has begun ends in it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Batch {
    pub(crate) members: usize,
    pub(crate) commands: usize,
}

impl Batch {
    /// So many, in envelopes of the usual size.
    pub(crate) fn of(commands: usize) -> Self {
        Batch { members: MEMBERS, commands }
    }
}

/// Sends commands in batches, each life whole within one: the reserve, and what settles it.
pub(crate) async fn lives(
    bus: &mut Bus,
    books: &mut Books,
    random: &mut fastrand::Rng,
    Batch { members, commands }: Batch,
    pick: &Pick,
) -> Result<Done> {
    let mut made = 0;
    run(bus, || {
        let mut steps = Vec::with_capacity(members + 3);
        while steps.len() < members && made + steps.len() < commands {
            let mut life = Life::new(pick, random);
            loop {
                let (asked, expects) = (life.asks(), life.expects());
                let id = if asked.verb == Verb::Reserve { life.hold } else { new_id(random) };
                let account = name(life.account);
                let member =
                    Member { id, verb: asked.verb, account, body: RawValue::from_string(asked.body)? };
                steps.push(Step { id, member, expects });
                if !life.advance(books) {
                    break;
                }
            }
        }
        made += steps.len();
        Ok(steps)
    })
    .await
}

/// Opens `accounts` and gives each its funds.
pub(crate) async fn open_accounts(
    bus: &mut Bus,
    books: &mut Books,
    accounts: std::ops::Range<usize>,
) -> Result<Done> {
    let mut left = accounts.flat_map(|account| [(account, Verb::OpenAccount), (account, Verb::TopUp)]);
    run(bus, || {
        let mut steps = Vec::with_capacity(MEMBERS);
        for (account, verb) in left.by_ref().take(MEMBERS) {
            let (body, expects) = if verb == Verb::TopUp {
                books.balance(account).posted += FUNDS;
                (format!(r#"{{"amount":"{}"}}"#, decimal(FUNDS)), "topped_up")
            } else {
                ("{}".to_owned(), "account_opened")
            };
            let (id, body) = (Uuid::now_v7(), RawValue::from_string(body)?);
            steps.push(Step { id, member: Member { id, verb, account: name(account), body }, expects });
        }
        Ok(steps)
    })
    .await
}

/// Sends what `next` makes until it makes nothing, and checks each outcome.
async fn run(bus: &mut Bus, mut next: impl FnMut() -> Result<Vec<Step>>) -> Result<Done> {
    let (mut done, begun, mut ended) = (Done::default(), Instant::now(), false);
    let mut expected: Map<CommandId, &'static str> = Map::default();
    let mut sent: Vec<(CommandId, Outgoing)> = Vec::new();
    let mut stalled = 0;
    while !ended || !expected.is_empty() {
        while !ended && expected.len() < AT_ONCE * MEMBERS {
            let (steps, members): (Vec<_>, Vec<_>) =
                next()?.into_iter().map(|step| ((step.id, step.expects), step.member)).unzip();
            ended = members.is_empty();
            if let Some((last, _)) = steps.last() {
                let batch = bus.sign_batch(&members)?;
                bus.publish(batch.clone()).await?;
                sent.push((*last, batch));
                expected.extend(steps);
            }
        }
        let Some(outcomes) = bus.outcomes(STALLED).await? else {
            stalled += 1;
            ensure!(stalled < STALLED_MAX, "no outcomes of batches; the ledger is gone");
            for (_, batch) in &sent {
                bus.publish(batch.clone()).await?;
            }
            continue;
        };
        for told in outcomes {
            let Some(kind) = expected.remove(&told.id) else { continue };
            ensure!(told.kind == kind, "{} was {} ({:?}), not {kind}", told.id, told.kind, told.code);
            done.commands += 1;
            done.rejected += usize::from(kind == "rejected");
        }
        sent.retain(|(last, _)| expected.contains_key(last));
    }
    done.elapsed = begun.elapsed();
    Ok(done)
}
