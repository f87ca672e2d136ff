//! The work of one command on the single-threaded way from its bytes to its record, so that it can be
//! counted: verify, decide, and chain.

use std::collections::HashMap;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use holdfast_core::books::balances_after;
use holdfast_core::chain::GENESIS;
use holdfast_core::decide::References;
use holdfast_core::{
    Account, AccountId, Assets, Context, Decision, Event, Position, Timestamp, Verb, decide, evolve,
};
use holdfast_protocol::verify::{Received, Rules, verify};
use holdfast_protocol::{ClientKeys, Draft, Issuers, Keyring, RootToken};
use holdfast_store::Record;
use holdfast_store::record::Link;
use secrecy::SecretString;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::{AUDIENCE, TOKEN, keys};

/// Signed commands on one account, and what they are decided by.
pub struct Work {
    keys: ClientKeys,
    rules: Rules,
    assets: Assets,
    accounts: HashMap<AccountId, Option<Account>>,
    messages: Vec<(String, Vec<u8>)>,
    head: (Position, [u8; 32]),
}

const NOW: Timestamp = Timestamp::from_micros(1_760_000_000_000_000);

impl Work {
    /// `holds` holds, each reserved and captured, after an account with enough in it.
    pub fn new(holds: usize) -> Result<Self> {
        let issuers = Issuers::parse(
            "[issuer.backend]\nverbs = [\"open_account\", \"top_up\", \"reserve\", \"capture\"]",
        )?;
        let root = RootToken::new(&SecretString::from(TOKEN))?;
        let rules =
            Rules { keyring: Keyring::new(&[&root], &issuers), issuers, audience: AUDIENCE.to_owned() };
        let assets = Assets::with([])?;
        let mut work = Work {
            keys: keys("backend")?,
            rules,
            assets,
            accounts: HashMap::new(),
            messages: Vec::new(),
            head: (Position(0), GENESIS),
        };
        work.sign(0, Verb::OpenAccount, "{}")?;
        work.sign(1, Verb::TopUp, r#"{"amount":"1000000"}"#)?;
        for n in 0..holds {
            let reserve = work.sign(2 * n + 2, Verb::Reserve, r#"{"amount":"0.015"}"#)?;
            work.sign(2 * n + 3, Verb::Capture, &format!(r#"{{"hold":"{reserve}","amount":"0.0123"}}"#))?;
        }
        Ok(work)
    }

    fn sign(&mut self, n: usize, verb: Verb, body: &str) -> Result<Uuid> {
        let id = Uuid::from_u128(0x0199_0000_0000_7000_8000_0000_0000_0000 + n as u128);
        let (body, keys) = (RawValue::from_string(body.to_owned())?, &self.keys);
        let draft = Draft {
            id,
            audience: AUDIENCE,
            verb: verb.as_str(),
            account: "user-1",
            reply: "i1",
            issued_at: NOW,
            expires_at: NOW.plus_millis(60_000),
            body: &body,
        };
        self.messages.push((draft.subject(&keys.issuer), draft.sign(keys)));
        Ok(id)
    }

    /// Verifies, decides and chains every message; answers how many there were.
    pub fn run(&mut self) -> Result<usize> {
        for (subject, payload) in &self.messages {
            let received = Received { subject, stored_at: NOW, payload };
            let authentic = verify(&self.rules, received).map_err(|silent| anyhow::anyhow!("{silent:?}"))?;
            let fingerprint = authentic.fingerprint();
            let command = authentic.command().map_err(|refusal| anyhow::anyhow!("{}", refusal.detail()))?;
            let account = self.accounts.entry(command.account.clone()).or_default();
            let context = Context { now: NOW, assets: &self.assets, references: &References::default() };
            let Ok(Decision::Record(fact)) = decide(account.as_ref(), &command, &context) else {
                bail!("a command was not carried out");
            };
            let (posted, held) = balances_after(account.as_ref(), &fact);
            let asset = account.as_ref().map(|account| account.asset).or_else(|| self.assets.find("USD"));
            let event = Event {
                position: self.head.0.next(),
                time: NOW,
                issuer: command.issuer,
                command: command.id,
                account: command.account,
                asset,
                posted,
                held,
                fact,
            };
            evolve(account, &event)?;
            let link = Link { partition: 0, epoch: 1, previous: &self.head.1 };
            let envelope = Bytes::copy_from_slice(payload);
            let record = Record::chained(link, event, fingerprint, NOW, envelope);
            self.head = (record.event.position, record.hash);
        }
        self.messages.last().map(|_| self.messages.len()).context("nothing to do")
    }
}
