//! What changes between two books.

use std::collections::BTreeMap;

use crate::book::{Book, Model};

/// The differences from `old` to `new`, a line each: `+` a model that is new, `-` one that is gone, `~`
/// one whose price lists changed.
#[must_use]
pub fn diff(old: &Book, new: &Book) -> Vec<String> {
    let (old, new) = (by_id(old), by_id(new));
    let mut lines = Vec::new();
    for (id, model) in &old {
        match new.get(id) {
            None => lines.push(format!("- {id}")),
            Some(changed) if changed.prices != model.prices => {
                lines.push(format!("~ {id}: {} is now {}", prices(model), prices(changed)));
            }
            Some(changed) if changed.names != model.names => lines.push(format!("~ {id}: has other names")),
            Some(_) => {}
        }
    }
    lines.extend(
        new.iter().filter(|(id, _)| !old.contains_key(*id)).map(|(id, m)| format!("+ {id}: {}", prices(m))),
    );
    lines
}

fn by_id(book: &Book) -> BTreeMap<String, &Model> {
    book.models.iter().map(|model| (format!("{}/{}", model.provider, model.model), model)).collect()
}

fn prices(model: &Model) -> String {
    serde_json::to_string(&model.prices).expect("price lists are plain values")
}
