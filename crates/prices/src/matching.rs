//! Which names mean a model.
//!
//! The rules are those of the `genai-prices` package: names are compared in lower case, and a
//! regular expression is searched for in the lower-case name.

use serde::{Deserialize, Serialize};

/// A condition on a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Clause {
    /// It is this.
    Equals(String),
    /// It begins with this.
    StartsWith(String),
    /// It ends with this.
    EndsWith(String),
    /// This is somewhere in it.
    Contains(String),
    /// This expression matches somewhere in it.
    Regex(String),
    /// One of these holds.
    Or(Vec<Clause>),
    /// All of these hold.
    And(Vec<Clause>),
    /// This does not hold.
    Not(Box<Clause>),
}

impl Clause {
    /// Whether the condition holds for `name`, which is in lower case.
    #[must_use]
    pub fn holds(&self, name: &str) -> bool {
        match self {
            Clause::Equals(text) => name == text.to_lowercase(),
            Clause::StartsWith(text) => name.starts_with(&text.to_lowercase()),
            Clause::EndsWith(text) => name.ends_with(&text.to_lowercase()),
            Clause::Contains(text) => name.contains(&text.to_lowercase()),
            // Checked when the book was read; compiled here, since few are asked.
            Clause::Regex(pattern) => regex_lite::Regex::new(pattern).is_ok_and(|regex| regex.is_match(name)),
            Clause::Or(clauses) => clauses.iter().any(|clause| clause.holds(name)),
            Clause::And(clauses) => clauses.iter().all(|clause| clause.holds(name)),
            Clause::Not(clause) => !clause.holds(name),
        }
    }

    /// Whether every expression in it can be used.
    ///
    /// # Errors
    /// The first that cannot, with the reason.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Clause::Regex(pattern) => {
                regex_lite::Regex::new(pattern).map(|_| ()).map_err(|error| format!("`{pattern}`: {error}"))
            }
            Clause::Or(clauses) | Clause::And(clauses) => clauses.iter().try_for_each(Clause::check),
            Clause::Not(clause) => clause.check(),
            _ => Ok(()),
        }
    }
}

/// `name` with a date written `20YYMMDD` as `20YY-MM-DD`, by which some providers name the same
/// model; none when it has no such date.
#[must_use]
pub fn with_dashed_date(name: &str) -> Option<String> {
    let at = name.match_indices("-20").map(|(at, _)| at + 1).find(|at| is_date(name, *at))?;
    let (year, month, day) = (&name[at..at + 4], &name[at + 4..at + 6], &name[at + 6..at + 8]);
    Some(format!("{}{year}-{month}-{day}{}", &name[..at], &name[at + 8..]))
}

fn is_date(name: &str, at: usize) -> bool {
    let Some(date) = name.get(at..at + 8) else { return false };
    let ends = name.get(at + 8..).is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', ':']));
    ends && chrono::NaiveDate::parse_from_str(date, "%Y%m%d").is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clauses() {
        let clause: Clause = serde_json::from_str(
            r#"{"and":[{"starts_with":"GPT-4"},{"or":[{"contains":"mini"},{"regex":"-\\d+$"}]},{"not":{"ends_with":"audio"}}]}"#,
        )
        .expect("a clause");
        assert_eq!(clause.check(), Ok(()));
        for (name, expected) in [
            ("gpt-4o-mini", true),
            ("gpt-4-0613", true),
            ("gpt-4o", false),
            ("gpt-4o-mini-audio", false),
            ("o-gpt-4-mini", false),
        ] {
            assert_eq!(clause.holds(name), expected, "{name}");
        }
        assert!(Clause::Regex("(".to_owned()).check().is_err());
    }

    #[test]
    fn dates_in_names() {
        assert_eq!(with_dashed_date("m-20250514-v1").as_deref(), Some("m-2025-05-14-v1"));
        assert_eq!(with_dashed_date("m-20250514").as_deref(), Some("m-2025-05-14"));
        assert_eq!(with_dashed_date("m-20251399"), None);
        assert_eq!(with_dashed_date("m-202505141"), None);
        assert_eq!(with_dashed_date("ü-20"), None);
    }
}
