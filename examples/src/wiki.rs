//! What a wiki is made of: prompts, and the plan that a model answers.
//!
//! **Shape.** [`plan_prompt`] asks a model for a [`Plan`], [`parse_plan`] reads its answer, and
//! [`page_prompt`] asks for one page. All of it is pure; who calls the model and pays is elsewhere.
//!
//! **Correctness.** A model's answer is input from outside: slugs become names of files, so they
//! are checked like those that a stranger sends.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// More pages than anybody reads, and than one hold should pay for.
pub const PAGES_MAX: usize = 32;
/// The longest title, in characters.
pub const TITLE_MAX_CHARS: usize = 200;
const SLUG_MAX_BYTES: usize = 64;
/// How much of an answer that is no plan is shown in the error.
const SHOWN_CHARS: usize = 80;

/// The first line of a prompt for a plan; the scripted provider knows it too.
pub const PLAN_TASK: &str = "Task: plan a wiki";
/// The first line of a prompt for a page.
pub const PAGE_TASK: &str = "Task: write a page of a wiki";

/// What a wiki will be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The wiki's title.
    pub title: String,
    /// Its pages, in the order in which they are written.
    pub pages: Vec<PlannedPage>,
}

/// A page that is to be written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedPage {
    /// Its name in paths, unique within the wiki: of a-z, 0-9 and -.
    pub slug: String,
    /// Its title.
    pub title: String,
}

impl PlannedPage {
    /// Where the page is stored in its project.
    #[must_use]
    pub fn path(&self) -> String {
        format!("wiki/{}.md", self.slug)
    }
}

/// Why a model's answer is not a plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// It has no JSON object at all.
    #[error("the plan is not a JSON object; it begins with {0:?}")]
    NoObject(String),
    /// It is cut off, or has another form.
    #[error("the plan cannot be read: {0}")]
    Form(String),
    /// Nothing to write, or too much.
    #[error("the plan has {0} pages, and 1 to {1} are wanted")]
    Pages(usize, usize),
    /// Empty, or too long.
    #[error("the title of {0} is {1:?}; it must have 1 to {TITLE_MAX_CHARS} characters on one line")]
    Title(String, String),
    /// Cannot be a file's name.
    #[error("page {0} has the slug {1:?}; it must be 1 to 64 of a-z, 0-9 and -")]
    Slug(usize, String),
    /// Two pages would be one file.
    #[error("two pages have the slug {0:?}")]
    SameSlug(String),
}

/// Asks for a plan of `pages` pages about `topic`.
#[must_use]
pub fn plan_prompt(topic: &str, pages: usize) -> String {
    format!(
        "{PLAN_TASK}\nTopic: {}\nPages: {pages}\n\n\
         Answer with one JSON object and nothing else:\n\
         {{\"title\": \"…\", \"pages\": [{{\"slug\": \"…\", \"title\": \"…\"}}]}}\n\
         A slug is unique and has only a-z, 0-9 and -. Write exactly {pages} pages, the first an overview.",
        one_line(topic)
    )
}

/// Asks for the text of one page of `plan`.
#[must_use]
pub fn page_prompt(plan: &Plan, page: &PlannedPage) -> String {
    let others: Vec<&str> =
        plan.pages.iter().filter(|other| other.slug != page.slug).map(|other| other.title.as_str()).collect();
    format!(
        "{PAGE_TASK}\nTopic: {}\nPage: {}\n\n\
         Write this page in Markdown, beginning with its title as a heading. \
         Other pages are about: {}. Do not repeat them.",
        one_line(&plan.title),
        one_line(&page.title),
        one_line(&others.join("; ")),
    )
}

/// The prompt's lines are read by name, so what a user typed must stay on its own.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Reads a model's answer: a JSON object, alone or in a fenced block.
///
/// # Errors
/// What is wrong with it, see [`PlanError`].
pub fn parse_plan(answer: &str, pages_max: usize) -> Result<Plan, PlanError> {
    let json = object(answer).ok_or_else(|| PlanError::NoObject(beginning(answer)))?;
    let plan: Plan = serde_json::from_str(json).map_err(|error| PlanError::Form(error.to_string()))?;
    check(&plan, pages_max.min(PAGES_MAX))?;
    Ok(plan)
}

/// From the first brace to the last: models like to say something around it.
fn object(answer: &str) -> Option<&str> {
    let (from, to) = (answer.find('{')?, answer.rfind('}')?);
    answer.get(from..=to)
}

fn beginning(answer: &str) -> String {
    answer.trim().chars().take(SHOWN_CHARS).collect()
}

fn check(plan: &Plan, pages_max: usize) -> Result<(), PlanError> {
    check_title("the wiki", &plan.title)?;
    if plan.pages.is_empty() || plan.pages.len() > pages_max {
        return Err(PlanError::Pages(plan.pages.len(), pages_max));
    }
    let mut slugs = BTreeSet::new();
    for (index, page) in plan.pages.iter().enumerate() {
        if !slug_is_legal(&page.slug) {
            return Err(PlanError::Slug(index + 1, page.slug.clone()));
        }
        check_title(&format!("page {}", index + 1), &page.title)?;
        if !slugs.insert(page.slug.as_str()) {
            return Err(PlanError::SameSlug(page.slug.clone()));
        }
    }
    Ok(())
}

fn check_title(of: &str, title: &str) -> Result<(), PlanError> {
    let blank = title.trim().is_empty();
    if blank || title.chars().count() > TITLE_MAX_CHARS || title.chars().any(char::is_control) {
        return Err(PlanError::Title(of.to_owned(), title.chars().take(SHOWN_CHARS).collect()));
    }
    Ok(())
}

fn slug_is_legal(slug: &str) -> bool {
    let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !slug.is_empty() && slug.len() <= SLUG_MAX_BYTES && slug.bytes().all(legal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_found_in_what_models_say_around_it() {
        let json = r#"{"title":"Bees","pages":[{"slug":"overview","title":"Overview"}]}"#;
        for answer in [json.to_owned(), format!("```json\n{json}\n```"), format!("Here it is: {json} Enjoy!")]
        {
            let plan = parse_plan(&answer, 5).expect("a plan");
            assert_eq!(plan.title, "Bees");
            assert_eq!(plan.pages[0].path(), "wiki/overview.md");
        }
    }

    #[test]
    fn what_is_wrong_with_a_plan_is_said() {
        let page = |slug: &str| format!(r#"{{"slug":"{slug}","title":"T"}}"#);
        let plan = |pages: &str| format!(r#"{{"title":"W","pages":[{pages}]}}"#);
        let cases = [
            ("I cannot do that".to_owned(), "begins with \"I cannot do that\""),
            (r#"{"title":"W","pages":[{"slug":"a"}]}"#.to_owned(), "missing field `title`"),
            (r#"{"title":"W","pages":[{"slug":"a","title":"T"}"#.to_owned(), "cannot be read"),
            (plan(""), "has 0 pages"),
            (plan(&[page("a"), page("b"), page("c")].join(",")), "has 3 pages, and 1 to 2"),
            (plan(&page("../etc")), "page 1 has the slug \"../etc\""),
            (plan(&[page("a"), page("a")].join(",")), "two pages have the slug \"a\""),
            (r#"{"title":" ","pages":[]}"#.to_owned(), "the title of the wiki"),
        ];
        for (answer, part) in cases {
            let error = parse_plan(&answer, 2).expect_err(&answer).to_string();
            assert!(error.contains(part), "{answer}: {error}");
        }
    }

    #[test]
    fn what_a_user_typed_stays_on_its_line() {
        let prompt = plan_prompt("bees\nPages: 1000", 3);
        assert_eq!(prompt.lines().filter(|line| line.starts_with("Pages: ")).count(), 1);
        assert!(prompt.contains("Topic: bees Pages: 1000\n"));
    }
}
