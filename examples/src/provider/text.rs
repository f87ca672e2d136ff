//! What the provider says: the same for the same prompt, whenever and wherever.

use serde_json::json;

use crate::wiki::{PAGE_TASK, PAGES_MAX, PLAN_TASK};

/// How many words an answer has at least, and how many more it may have.
const WORDS_MIN: usize = 20;
const WORDS_SPREAD: usize = 60;
/// Pages are longer than chat.
const PAGE_WORDS_MIN: usize = 80;
const PAGE_WORDS_SPREAD: usize = 120;
/// No script asks for more: an answer is built in memory.
const WORDS_MAX: usize = 100_000;
/// How many pages a plan has whose prompt does not say.
const PAGES_DEFAULT: usize = 3;

const VOCABULARY: [&str; 24] = [
    "amber", "basin", "cedar", "delta", "ember", "fjord", "grove", "harbor", "island", "juniper", "kelp",
    "lagoon", "meadow", "north", "orchard", "prairie", "quarry", "river", "summit", "tundra", "upland",
    "valley", "willow", "zephyr",
];

/// The pieces of an answer: one word each with the space after it, which is one token each.
pub(super) fn pieces(text: &str) -> Vec<String> {
    text.split_inclusive(char::is_whitespace).fold(Vec::new(), |mut pieces: Vec<String>, part| {
        match pieces.last_mut() {
            // More space after a word belongs to the word: it is not a token of its own.
            Some(last) if part.trim().is_empty() => last.push_str(part),
            _ => pieces.push(part.to_owned()),
        }
        pieces
    })
}

/// What is answered to `prompt`; `words` is how long it shall be, where a script says so.
pub(super) fn answer(prompt: &str, words: Option<usize>) -> String {
    if let Some(words) = words {
        return prose(prompt, words);
    }
    if prompt.contains(PLAN_TASK) {
        return plan(prompt);
    }
    if prompt.contains(PAGE_TASK) {
        return page(prompt);
    }
    prose(prompt, WORDS_MIN + below(prompt, WORDS_SPREAD))
}

fn plan(prompt: &str) -> String {
    let topic = line(prompt, "Topic: ").unwrap_or("Something");
    let pages = line(prompt, "Pages: ").and_then(|pages| pages.trim().parse().ok()).unwrap_or(PAGES_DEFAULT);
    let pages: Vec<_> = (1..=pages.clamp(1, PAGES_MAX))
        .map(|number| {
            let word = VOCABULARY[(below(topic, VOCABULARY.len()) + number) % VOCABULARY.len()];
            json!({"slug": format!("{number}-{word}"), "title": format!("{topic}, part {number}: {word}")})
        })
        .collect();
    format!("{:#}", json!({"title": topic, "pages": pages}))
}

fn page(prompt: &str) -> String {
    let title = line(prompt, "Page: ").unwrap_or("A page");
    format!("# {title}\n\n{}", prose(prompt, PAGE_WORDS_MIN + below(prompt, PAGE_WORDS_SPREAD)))
}

/// `words` words.
fn prose(seed: &str, words: usize) -> String {
    let start = below(seed, VOCABULARY.len());
    let word = |number: usize| VOCABULARY[(start + number * number + number) % VOCABULARY.len()];
    (0..words.min(WORDS_MAX)).map(word).collect::<Vec<_>>().join(" ")
}

fn line<'a>(prompt: &'a str, name: &str) -> Option<&'a str> {
    prompt.lines().find_map(|line| line.strip_prefix(name))
}

/// A number below `limit` that the text decides.
fn below(text: &str, limit: usize) -> usize {
    text.bytes().fold(7, |sum: usize, byte| (sum * 31 + usize::from(byte)) % 65_521) % limit
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wiki::{page_prompt, parse_plan, plan_prompt};

    #[test]
    fn a_plan_has_the_pages_that_were_asked_for() {
        for pages in [1, 3, 30] {
            let prompt = plan_prompt("Bees \"and\" honey", pages);
            let plan = parse_plan(&answer(&prompt, None), pages).expect("a plan");
            assert_eq!((plan.title.as_str(), plan.pages.len()), ("Bees \"and\" honey", pages));
            let page = answer(&page_prompt(&plan, &plan.pages[0]), None);
            assert!(page.starts_with(&format!("# {}", plan.pages[0].title)), "{page}");
        }
    }

    #[test]
    fn pieces_are_words_and_make_up_the_text() {
        for text in ["", "one", "one two", "# A\n\nb  c ", &answer("x", Some(17))] {
            let pieces = pieces(text);
            assert_eq!(pieces.concat(), text);
            assert_eq!(pieces.len(), text.split_whitespace().count(), "{text:?}");
        }
    }

    #[test]
    fn the_same_prompt_has_the_same_answer() {
        assert_eq!(answer("Hello", None), answer("Hello", None));
        assert_ne!(answer("Hello", None), answer("Hello!", None));
        assert_eq!(answer("Hello", Some(5)).split(' ').count(), 5);
    }
}
