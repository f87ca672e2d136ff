//! What a run found.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::processes::CpuSeconds;
use crate::settings::Measure;

/// The figures of one measure.
#[derive(Debug, Clone, Default)]
pub struct Figures(Map<String, Value>);

impl Figures {
    pub(crate) fn new() -> Self {
        Figures::default()
    }

    /// Adds a figure, to a thousandth.
    pub(crate) fn with(mut self, name: &str, figure: f64) -> Self {
        self.0.insert(name.to_owned(), json!((figure * 1_000.0).round() / 1_000.0));
        self
    }

    pub(crate) fn count(mut self, name: &str, count: usize) -> Self {
        self.0.insert(name.to_owned(), count.into());
        self
    }

    pub(crate) fn cpu(mut self, per_thousand: &CpuSeconds) -> Self {
        let rounded: Map<String, Value> = per_thousand
            .iter()
            .map(|(name, seconds)| (name.clone(), json!((seconds * 10_000.0).round() / 10_000.0)))
            .collect();
        self.0.insert("cpu_seconds_per_1000".to_owned(), rounded.into());
        self
    }

    /// More about it, in a form of its own.
    pub(crate) fn detail(mut self, name: &str, value: Value) -> Self {
        self.0.insert(name.to_owned(), value);
        self
    }

    /// A figure.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<f64> {
        self.0.get(name)?.as_f64()
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> &Map<String, Value> {
        &self.0
    }
}

/// Everything that a run found.
#[derive(Debug, Default)]
pub struct Report {
    /// What it ran on.
    pub machine: Value,
    /// How the servers were set up, and how much was done.
    pub settings: Value,
    /// The figures of the measures that ran.
    pub figures: BTreeMap<Measure, Figures>,
    /// What is wrong with the ledger; empty when nothing is.
    pub problems: Vec<String>,
}

impl Report {
    /// Ratios of the measures that ran, by name.
    #[must_use]
    pub fn ratios(&self) -> BTreeMap<&'static str, f64> {
        use Measure::{Bulk, Bus, Floor, Hot, Http, Naive, Projector, Relay, Replay, Store, Uniform};
        let rate = |measure| {
            let figures = self.figures.get(&measure)?;
            ["commands_per_second", "rows_per_second", "events_per_second"]
                .into_iter()
                .find_map(|name| figures.number(name))
        };
        let over = |above, below| Some(rate(above)? / rate(below)?);
        let message_each = || {
            let each = self.figures.get(&Bus)?.all().get("message_each")?;
            Some(each["commands_per_second"].as_f64()? / rate(Naive)?)
        };
        let replay = || {
            let figures = self.figures.get(&Replay)?;
            Some(figures.number("events_per_second")? / figures.number("copy_out_rows_per_second")?)
        };
        let ratios = [
            ("store_over_floor", over(Store, Floor)),
            ("bus_over_naive", over(Bus, Naive)),
            ("bus_message_each_over_naive", message_each()),
            ("bulk_over_naive", over(Bulk, Naive)),
            ("hot_over_uniform", over(Hot, Uniform)),
            ("http_over_bus", over(Http, Bus)),
            ("projector_over_bus", over(Projector, Bus)),
            ("relay_over_bus", over(Relay, Bus)),
            ("replay_over_copy_out", replay()),
        ];
        ratios
            .into_iter()
            .filter_map(|(name, ratio)| Some((name, (ratio? * 1_000.0).round() / 1_000.0)))
            .collect()
    }

    /// `ok`, or what is wrong.
    #[must_use]
    pub fn verdict(&self) -> String {
        if self.problems.is_empty() { "ok".to_owned() } else { self.problems.join("; ") }
    }

    /// The whole as one JSON object.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut all = Map::new();
        all.insert("machine".to_owned(), self.machine.clone());
        all.insert("settings".to_owned(), self.settings.clone());
        for (measure, figures) in &self.figures {
            all.insert(measure.to_string(), Value::Object(figures.0.clone()));
        }
        all.insert("ratios".to_owned(), json!(self.ratios()));
        all.insert("verify".to_owned(), self.verdict().into());
        Value::Object(all)
    }
}
