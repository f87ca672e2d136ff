//! What the scripted provider's tokens cost, in nano-dollars a token.

/// 0.30 dollars per million input tokens.
pub(super) const INPUT_NANO: i64 = 300;
/// 2.50 dollars per million output tokens.
pub(super) const OUTPUT_NANO: i64 = 2_500;

/// The price of a call in units of `USD`.
pub(super) fn price(input_tokens: i64, output_tokens: i64) -> i64 {
    input_tokens * INPUT_NANO + output_tokens * OUTPUT_NANO
}
