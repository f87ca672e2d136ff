//! Sums of decimal amounts, for what an outcome tells. The ledger's own sums are what counts.

use std::fmt;

/// More decimals than this no asset has.
const SCALE: usize = 18;
const ONE: u128 = 10_u128.pow(18);

/// A sum of amounts in units of 10⁻¹⁸; far more amounts fit than a saga has steps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Sum(u128);

impl Sum {
    /// An amount as the ledger writes it. What cannot be read counts as nothing.
    pub(crate) fn of(text: &str) -> Self {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let digits = format!("{whole}{fraction:0<SCALE$}");
        let legal = fraction.len() <= SCALE && digits.bytes().all(|b| b.is_ascii_digit());
        Sum(if legal { digits.parse().unwrap_or(0) } else { 0 })
    }

    pub(crate) fn is_zero(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn minus(self, other: Sum) -> Sum {
        Sum(self.0.saturating_sub(other.0))
    }
}

impl std::iter::Sum for Sum {
    fn sum<I: Iterator<Item = Sum>>(amounts: I) -> Sum {
        amounts.fold(Sum::default(), |total, amount| Sum(total.0.saturating_add(amount.0)))
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fraction = format!("{:0SCALE$}", self.0 % ONE);
        match fraction.trim_end_matches('0') {
            "" => write!(f, "{}", self.0 / ONE),
            fraction => write!(f, "{}.{fraction}", self.0 / ONE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_add_up_exactly() {
        let total: Sum = ["0.1", "0.2", "12", "0.000000000000000001"].map(Sum::of).into_iter().sum();
        assert_eq!(total.to_string(), "12.300000000000000001");
        assert_eq!(total.minus(Sum::of("12.3")).to_string(), "0.000000000000000001");
        assert_eq!(Sum::of("1.50").to_string(), "1.5");
        assert!(Sum::of("0.000").is_zero() && Sum::of("?").is_zero());
    }
}
