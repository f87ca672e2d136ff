//! Plots of a report, as SVG: bars, each with its figure written beside it.

use std::fmt::Write as _;

use crate::report::{Figures, Report};
use crate::settings::Measure;

/// The processes whose time is shown, with a colour each.
const PROCESSES: [(&str, &str); 4] =
    [("generator", "#9aa5b1"), ("ledger", "#2f6f9f"), ("nats", "#5aa469"), ("postgres", "#d08c3f")];
const LEFT: f64 = 110.0;
const WIDTH: f64 = 760.0;
const ROW: f64 = 26.0;
/// Where bars end at most; what is right of it is for the figures.
const RIGHT: f64 = WIDTH - 90.0;

/// The plots that can be made of `report`, by file name.
#[must_use]
pub fn plots(report: &Report) -> Vec<(String, String)> {
    let mut plots = vec![("pace.svg".to_owned(), pace(report)), ("cpu.svg".to_owned(), cpu(report))];
    if let Some(scale) = report.figures.get(&Measure::Scale) {
        let rate = "Commands a second, ";
        plots.push((
            "log-length.svg".to_owned(),
            curve(scale, "by_log_events", &format!("{rate}by the events in the log"), 1),
        ));
        plots
            .push(("accounts.svg".to_owned(), curve(scale, "by_accounts", &format!("{rate}by accounts"), 1)));
        plots.push((
            "batch.svg".to_owned(),
            curve(scale, "by_batch", &format!("{rate}by commands in an envelope"), 1),
        ));
        let load = "The 99th percentile in milliseconds, by commands offered a second";
        plots.push(("load.svg".to_owned(), curve(scale, "by_load", load, 2)));
    }
    plots
}

/// How much of each a second.
fn pace(report: &Report) -> String {
    let rate = |figures: &Figures| {
        let names = ["commands_per_second", "rows_per_second", "events_per_second"];
        names.into_iter().find_map(|name| figures.number(name))
    };
    let bars = report.figures.iter().filter_map(|(measure, figures)| {
        let rate = rate(figures)?;
        Some(Bar { label: measure.to_string(), parts: vec![(rate, "#2f6f9f")], figure: format!("{rate:.0}") })
    });
    draw("Commands, rows or events a second", &[], &bars.collect::<Vec<_>>())
}

/// The CPU time of each process for a command.
fn cpu(report: &Report) -> String {
    let bars = report.figures.iter().filter_map(|(measure, figures)| {
        let used = figures.all().get("cpu_seconds_per_1000")?;
        // Seconds per thousand are milliseconds each.
        let micros = |name: &str| used[name].as_f64().unwrap_or(0.0) * 1_000.0;
        let parts: Vec<(f64, &str)> =
            PROCESSES.iter().map(|(name, colour)| (micros(name), *colour)).collect();
        let sum: f64 = parts.iter().map(|(micros, _)| micros).sum();
        Some(Bar { label: measure.to_string(), parts, figure: format!("{sum:.1}") })
    });
    draw("CPU time of each, in microseconds", &PROCESSES, &bars.collect::<Vec<_>>())
}

/// A curve of `scale`: a bar for each point, labelled by its first number, as long as number `value`.
fn curve(scale: &Figures, name: &str, title: &str, value: usize) -> String {
    let points = scale.all().get(name).and_then(|points| points.as_array().cloned());
    let bars = points.unwrap_or_default().into_iter().filter_map(|point| {
        let (varied, value) = (point[0].as_f64()?, point[value].as_f64()?);
        let figure = if value < 1_000.0 { format!("{value:.1}") } else { format!("{value:.0}") };
        Some(Bar { label: format!("{varied:.0}"), parts: vec![(value, "#2f6f9f")], figure })
    });
    draw(title, &[], &bars.collect::<Vec<_>>())
}

/// A bar of one or more parts.
struct Bar<'a> {
    label: String,
    parts: Vec<(f64, &'a str)>,
    figure: String,
}

fn draw(title: &str, legend: &[(&str, &str)], bars: &[Bar<'_>]) -> String {
    let length = |bar: &Bar<'_>| bar.parts.iter().map(|(part, _)| part).sum::<f64>();
    let longest = bars.iter().map(length).fold(f64::MIN_POSITIVE, f64::max);
    let head = if legend.is_empty() { 44.0 } else { 66.0 };
    let height = head + ROW * crate::processes::approximate(bars.len()) + 10.0;
    let mut svg = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="13"><rect width="{WIDTH}" height="{height}" fill="white"/><text x="12" y="26" font-size="16">{title}</text>"#
    );
    let mut x = LEFT;
    for (name, colour) in legend {
        put(&mut svg, &format!(r#"<rect x="{x}" y="38" width="12" height="12" fill="{colour}"/>"#));
        put(&mut svg, &format!(r#"<text x="{}" y="49">{name}</text>"#, x + 18.0));
        x += 110.0;
    }
    let mut y = head;
    for bar in bars {
        put(
            &mut svg,
            &format!(r#"<text x="{}" y="{}" text-anchor="end">{}</text>"#, LEFT - 8.0, y + 15.0, bar.label),
        );
        let mut x = LEFT;
        for (part, colour) in &bar.parts {
            let width = part / longest * (RIGHT - LEFT);
            put(
                &mut svg,
                &format!(r#"<rect x="{x:.1}" y="{y}" width="{width:.1}" height="18" fill="{colour}"/>"#),
            );
            x += width;
        }
        put(&mut svg, &format!(r#"<text x="{:.1}" y="{}">{}</text>"#, x + 6.0, y + 15.0, bar.figure));
        y += ROW;
    }
    svg.push_str("</svg>\n");
    svg
}

fn put(svg: &mut String, element: &str) {
    write!(svg, "{element}").expect("a string takes everything");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_measure_with_a_pace_has_a_bar_with_its_figure() {
        let mut report = Report::default();
        report.figures.insert(Measure::Naive, Figures::new().with("commands_per_second", 4_000.0));
        report.figures.insert(Measure::Bus, Figures::new().with("commands_per_second", 30_000.0));
        let pace = plots(&report).into_iter().find(|(name, _)| name == "pace.svg").expect("made").1;
        assert!(pace.contains(">naive<") && pace.contains(">4000<") && pace.contains(">30000<"));
        report.figures.insert(
            Measure::Scale,
            Figures::new().detail("by_load", serde_json::json!([[1000.0, 1.5, 3.25], [2000.0, 1.5, 40.0]])),
        );
        let load = plots(&report).into_iter().find(|(name, _)| name == "load.svg").expect("made").1;
        assert!(load.contains(">2000<") && load.contains(">40.0<") && load.contains(">3.2<"), "{load}");
        assert!(pace.contains(r#"width="560.0""#), "the longest bar fills the width: {pace}");
    }
}
