//! Money: exact decimal amounts on the wire, integer units inside.
//!
//! **Shape.** A [`Decimal`] is what a caller wrote, kept exactly. With the account's [`Asset`] it
//! becomes [`Units`], a count of the asset's smallest unit, and only units are ever added.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

/// A count of an asset's smallest unit (for `USD`, nano-dollars). Negative only in balances.
pub type Units = i64;

/// The largest scale an asset may have; with it one whole unit still fits into [`Units`].
const SCALE_MAX: u8 = 18;

/// What money is counted in: a code and the number of decimals, which never changes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Asset {
    code: [u8; Asset::CODE_MAX],
    scale: u8,
}

impl Asset {
    /// The longest code, in bytes; fixed so that an asset is copied, never allocated.
    pub const CODE_MAX: usize = 8;

    /// US dollars in nano-dollars: the price of one token is far below a cent.
    pub const USD: Asset = Asset { code: *b"USD\0\0\0\0\0", scale: 9 };

    /// Prepaid credits with six decimals.
    pub const CREDIT: Asset = Asset { code: *b"CREDIT\0\0", scale: 6 };

    /// An asset from its code (`[A-Z0-9]{1,8}`) and its scale (at most 18 decimals).
    pub fn new(code: &str, scale: u8) -> Result<Self, AssetError> {
        let legal = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit();
        if code.is_empty() || code.len() > Self::CODE_MAX || !code.bytes().all(legal) {
            return Err(AssetError::Code(code.to_owned()));
        }
        if scale > SCALE_MAX {
            return Err(AssetError::Scale(scale));
        }
        let mut padded = [0; Self::CODE_MAX];
        padded[..code.len()].copy_from_slice(code.as_bytes());
        Ok(Asset { code: padded, scale })
    }

    /// The code, such as `USD`.
    #[must_use]
    pub fn code(&self) -> &str {
        let end = self.code.iter().position(|&b| b == 0).unwrap_or(Self::CODE_MAX);
        std::str::from_utf8(&self.code[..end]).expect("an asset code is ASCII by construction")
    }

    /// How many decimals one whole unit has.
    #[must_use]
    pub fn scale(&self) -> u8 {
        self.scale
    }

    /// `units` in whole units, in the shortest plain form: `"0.5"`, `"0"`, `"-12.25"`.
    #[must_use]
    pub fn format(&self, units: Units) -> String {
        self.amount(units).as_str().to_owned()
    }

    /// The same without an allocation: every event and outcome states several amounts.
    #[must_use]
    pub fn amount(&self, units: Units) -> Amount {
        let mut text = Amount { text: [0; Amount::MAX], start: Amount::MAX };
        let (mut rest, mut decimals, mut significant) = (units.unsigned_abs(), self.scale, false);
        loop {
            let digit = u8::try_from(rest % 10).expect("a digit");
            rest /= 10;
            if decimals == 0 {
                text.push_front(b'0' + digit);
                if rest == 0 {
                    break;
                }
                continue;
            }
            decimals -= 1;
            significant |= digit != 0;
            if significant {
                text.push_front(b'0' + digit);
            }
            if decimals == 0 && significant {
                text.push_front(b'.');
            }
        }
        if units < 0 {
            text.push_front(b'-');
        }
        text
    }
}

/// An amount as decimal text, in whole units.
#[derive(Clone, Copy)]
pub struct Amount {
    text: [u8; Amount::MAX],
    start: usize,
}

impl Amount {
    /// A sign, 20 digits, a point, and the zero before it.
    const MAX: usize = 24;

    fn push_front(&mut self, byte: u8) {
        self.start -= 1;
        self.text[self.start] = byte;
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.text[self.start..]).expect("digits are ASCII")
    }
}

impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl fmt::Debug for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Asset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.code(), self.scale)
    }
}

impl fmt::Debug for Asset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Asset {
    type Err = AssetError;

    fn from_str(text: &str) -> Result<Self, AssetError> {
        let (code, scale) = text.split_once(':').ok_or_else(|| AssetError::Form(text.to_owned()))?;
        let scale = scale.parse().map_err(|_| AssetError::Form(text.to_owned()))?;
        Asset::new(code, scale)
    }
}

impl Serialize for Asset {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Asset {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

/// Why something is not an asset.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AssetError {
    /// The text is not `CODE:SCALE`.
    #[error("`{0}` is not an asset: write CODE:SCALE, for example EUR:6")]
    Form(String),
    /// The code is not one to eight capital letters or digits.
    #[error("`{0}` is not an asset code: one to eight of A-Z and 0-9")]
    Code(String),
    /// More decimals than an amount can hold.
    #[error("{0} decimals are too many: at most 18")]
    Scale(u8),
}

/// The assets that accounts may be opened in.
#[derive(Debug, Clone)]
pub struct Assets(Vec<Asset>);

impl Assets {
    /// `USD`, `CREDIT` and `more`; a code may be named once.
    pub fn with(more: impl IntoIterator<Item = Asset>) -> Result<Self, AssetError> {
        let mut known = Self::default();
        for asset in more {
            if known.find(asset.code()).is_some() {
                return Err(AssetError::Form(format!("{asset} (named twice)")));
            }
            known.0.push(asset);
        }
        Ok(known)
    }

    /// The asset with this code.
    #[must_use]
    pub fn find(&self, code: &str) -> Option<Asset> {
        self.0.iter().copied().find(|asset| asset.code() == code)
    }

    /// The codes, for an error message.
    #[must_use]
    pub fn codes(&self) -> String {
        self.0.iter().map(Asset::code).collect::<Vec<_>>().join(", ")
    }
}

impl Default for Assets {
    fn default() -> Self {
        Assets(vec![Asset::USD, Asset::CREDIT])
    }
}

/// A non-negative decimal number exactly as a caller wrote it, without trailing zeros.
///
/// Two spellings of one number (`"1.50"`, `1.5`) are equal.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Decimal {
    mantissa: u64,
    decimals: u8,
}

impl Decimal {
    /// Whether the number is 0.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.mantissa == 0
    }

    /// The number as units of `asset`; never rounds.
    pub fn units(&self, asset: Asset) -> Result<Units, AmountError> {
        let missing = asset
            .scale
            .checked_sub(self.decimals)
            .ok_or(AmountError::TooManyDecimals { given: self.decimals, asset })?;
        let factor = 10_u64.pow(u32::from(missing));
        let units = self.mantissa.checked_mul(factor).ok_or(AmountError::TooLarge)?;
        Units::try_from(units).map_err(|_| AmountError::TooLarge)
    }
}

impl FromStr for Decimal {
    type Err = AmountError;

    fn from_str(text: &str) -> Result<Self, AmountError> {
        match text.bytes().next() {
            None => return Err(AmountError::NotDecimal),
            Some(b'+' | b'-') => return Err(AmountError::Sign),
            Some(_) => {}
        }
        if text.bytes().any(|b| matches!(b, b'e' | b'E')) && text.as_bytes()[0].is_ascii_digit() {
            return Err(AmountError::Exponent);
        }
        let (whole, fraction) = match text.split_once('.') {
            Some((whole, fraction)) if !fraction.is_empty() => (whole, fraction),
            Some(_) => return Err(AmountError::NotDecimal),
            None => (text, ""),
        };
        if whole.is_empty() || !whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit()) {
            return Err(AmountError::NotDecimal);
        }
        let fraction = fraction.trim_end_matches('0');
        let decimals =
            u8::try_from(fraction.len()).ok().filter(|&n| n <= SCALE_MAX).ok_or(AmountError::TooPrecise)?;
        let mut mantissa = 0_u64;
        for digit in whole.bytes().chain(fraction.bytes()) {
            mantissa = mantissa
                .checked_mul(10)
                .and_then(|m| m.checked_add(u64::from(digit - b'0')))
                .ok_or(AmountError::TooLarge)?;
        }
        Ok(Decimal { mantissa, decimals })
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let one = 10_u64.pow(u32::from(self.decimals));
        write!(f, "{}", self.mantissa / one)?;
        if self.decimals > 0 {
            let width = usize::from(self.decimals);
            write!(f, ".{:0width$}", self.mantissa % one)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Decimal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Decimal {
    /// Reads a string or a JSON number. The number is taken from its text: a float never exists.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <&RawValue>::deserialize(deserializer)?.get();
        if raw.starts_with('"') {
            let text: String = serde_json::from_str(raw).map_err(D::Error::custom)?;
            return text.parse().map_err(D::Error::custom);
        }
        raw.parse().map_err(D::Error::custom)
    }
}

/// Why an amount was not accepted; the caller prefixes the field's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AmountError {
    /// Not digits with at most one point between them.
    #[error("is not a decimal number; write it like \"0.0015\"")]
    NotDecimal,
    /// A plus or minus sign.
    #[error("must not carry a sign; the verb says which way the money goes")]
    Sign,
    /// Scientific notation.
    #[error("must not carry an exponent; write all digits, like \"0.0015\"")]
    Exponent,
    /// More decimals than any asset has.
    #[error("has more than {SCALE_MAX} decimals")]
    TooPrecise,
    /// More decimals than the account's asset has.
    #[error("has {given} decimals, {} has {}", asset.code(), asset.scale())]
    TooManyDecimals {
        /// How many decimals the number needs.
        given: u8,
        /// The asset of the account.
        asset: Asset,
    },
    /// Larger than 2^63 − 1 units.
    #[error("is too large")]
    TooLarge,
    /// Zero where something must move.
    #[error("must be more than zero")]
    Zero,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_exactly_or_refused() {
        let cases: &[(&str, Result<Units, AmountError>)] = &[
            ("0.0015", Ok(1_500_000)),
            ("1.50", Ok(1_500_000_000)),
            ("0", Ok(0)),
            ("000.5", Ok(500_000_000)),
            ("9223372036.854775807", Ok(Units::MAX)),
            ("9223372036.854775808", Err(AmountError::TooLarge)),
            ("99999999999999999999999", Err(AmountError::TooLarge)),
            ("0.0000000001", Err(AmountError::TooManyDecimals { given: 10, asset: Asset::USD })),
            ("0.0000000000000000001", Err(AmountError::TooPrecise)),
            ("-1", Err(AmountError::Sign)),
            ("+1", Err(AmountError::Sign)),
            ("1e3", Err(AmountError::Exponent)),
            ("1.", Err(AmountError::NotDecimal)),
            (".5", Err(AmountError::NotDecimal)),
            ("", Err(AmountError::NotDecimal)),
            ("NaN", Err(AmountError::NotDecimal)),
            ("1.2.3", Err(AmountError::NotDecimal)),
            ("١", Err(AmountError::NotDecimal)),
        ];
        for (text, expected) in cases {
            let units = text.parse::<Decimal>().and_then(|decimal| decimal.units(Asset::USD));
            assert_eq!(&units, expected, "{text:?}");
        }
    }

    #[test]
    fn a_json_number_is_read_from_its_text() {
        let decimal: Decimal = serde_json::from_str("0.05").expect("a number");
        assert_eq!(decimal.units(Asset::USD), Ok(50_000_000));
        let exact: Decimal = serde_json::from_str("1234567890.123456789").expect("a number");
        assert_eq!(exact.units(Asset::USD), Ok(1_234_567_890_123_456_789));
        assert!(serde_json::from_str::<Decimal>("1e2").is_err());
        assert!(serde_json::from_str::<Decimal>("true").is_err());
    }

    #[test]
    fn amounts_are_written_in_their_shortest_form() {
        let cases = [
            (500_000_000, "0.5"),
            (0, "0"),
            (-12_250_000_000, "-12.25"),
            (1, "0.000000001"),
            (Units::MIN, "-9223372036.854775808"),
        ];
        for (units, text) in cases {
            assert_eq!(Asset::USD.format(units), text);
        }
    }

    #[test]
    fn an_asset_reads_back_what_it_writes() {
        for text in ["USD:9", "CREDIT:6", "EUR:2", "ABCDEFGH:18"] {
            assert_eq!(text.parse::<Asset>().expect("an asset").to_string(), text);
        }
        for text in ["usd:9", "USD", "USD:19", ":2", "ABCDEFGHI:2", "USD:x"] {
            assert!(text.parse::<Asset>().is_err(), "{text}");
        }
    }
}
