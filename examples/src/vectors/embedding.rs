//! Vectors without a model: hashed character trigrams.
//!
//! **Shape.** A text is taken in lower case, what is neither letter nor digit becomes one space, and
//! every three characters in a row are hashed (FNV-1a) to one of 256 dimensions and counted there.
//! The vector is scaled to length 1.
//!
//! So two texts are near when they share words, or parts of words; what they mean is not known. It
//! is the same on every machine and in every version, needs no model and no network, and is good
//! enough to find the page that a question is about among those of a wiki. A real deployment puts
//! its model's embeddings here.

/// The length of a vector.
pub const DIMENSIONS: usize = 256;
/// How many characters in a row count as one feature.
const GRAM: usize = 3;

/// The vector of a text, of length 1.
#[must_use]
pub fn embed(text: &str) -> Vec<f32> {
    let mut vector = vec![0.0_f32; DIMENSIONS];
    let characters: Vec<char> = format!(" {} ", normalized(text)).chars().collect();
    for gram in characters.windows(GRAM) {
        vector[usize::from(dimension(gram))] += 1.0;
    }
    scale(&mut vector);
    vector
}

/// The vector as SQLite's vector functions read it: its numbers in the machine's byte order.
pub(super) fn bytes(vector: &[f32]) -> Vec<u8> {
    vector.iter().flat_map(|number| number.to_ne_bytes()).collect()
}

fn normalized(text: &str) -> String {
    let lower = text.to_lowercase();
    let words = lower.split(|character: char| !character.is_alphanumeric()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(" ")
}

/// FNV-1a of the characters, folded to one byte: the standard library's hashes may change from one
/// release to the next, and vectors are kept.
fn dimension(gram: &[char]) -> u8 {
    let mut buffer = [0; 4];
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for character in gram {
        for byte in character.encode_utf8(&mut buffer).bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    hash.to_le_bytes().into_iter().fold(0, |folded, byte| folded ^ byte)
}

/// A text of punctuation has no grams; a vector of length 0 would be as near to all as to none.
fn scale(vector: &mut [f32]) {
    let length = vector.iter().map(|number| number * number).sum::<f32>().sqrt();
    if length == 0.0 {
        vector[0] = 1.0;
        return;
    }
    vector.iter_mut().for_each(|number| *number /= length);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cosine(a: &str, b: &str) -> f32 {
        embed(a).iter().zip(embed(b)).map(|(a, b)| a * b).sum()
    }

    #[test]
    fn a_vector_has_length_one() {
        for text in ["a", "Honey bees live in colonies.", "…!", "ß", "日本語のテキスト"] {
            assert_eq!(embed(text).len(), DIMENSIONS);
            assert!((cosine(text, text) - 1.0).abs() < 1e-4, "{text}");
        }
    }

    #[test]
    fn texts_that_share_words_are_near() {
        let question = "where do honey bees live?";
        assert!(
            cosine(question, "Honey bees live in hives.") > cosine(question, "Granite is an igneous rock.")
        );
        assert!((cosine("Honey, bees!", "honey bees") - 1.0).abs() < 1e-4);
    }

    #[test]
    fn vectors_stay_what_they_are() {
        let hottest = |text: &str| embed(text).iter().filter(|number| **number > 0.0).count();
        assert_eq!(hottest("a"), 1);
        assert_eq!(bytes(&embed("a")).len(), 4 * DIMENSIONS);
    }
}
