//! The signed envelope, version 1: how a command travels.
//!
//! **Shape.** [`Draft::sign`] makes the bytes that are published; [`Envelope::parse`] reads them
//! strictly and [`Envelope::preimage`] is what a signature covers.
//!
//! **Correctness.** Every field is in the preimage, each behind its length, so that no byte can
//! move from one field to its neighbour. The body is signed as the bytes it is carried in: it is
//! never parsed and written again on the way.

use std::borrow::Cow;

use holdfast_core::chain::{Hash, LengthPrefixed, fingerprint};
use holdfast_core::{CommandId, Issuer, Timestamp};
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::keys::ClientKeys;
use crate::subject::is_token;

/// The largest envelope of a single command, in bytes.
pub const ENVELOPE_MAX_BYTES: usize = 64 * 1024;
/// The largest envelope of a batch, in bytes: what fits the server's default maximum with headers.
pub const BATCH_MAX_BYTES: usize = 960 * 1024;
/// The most commands of a batch: more would fit only if they were no commands.
pub const BATCH_COMMANDS_MAX: usize = 4_000;
/// The verb of an envelope that carries many commands.
pub const BATCH: &str = "batch";
/// The most signatures: the current key, the next, and one to spare.
const SIGNATURES_MAX: usize = 3;
/// The longest reply token.
const REPLY_MAX: usize = 64;
const TAG: &[u8] = b"holdfast/command/v1";
/// Room for all of an envelope but its body, for most.
const BESIDES_BODY_BYTES: usize = 448;

/// An envelope as received: nothing in it is believed yet.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Envelope<'a> {
    v: u8,
    /// The command id, in its lower-case hyphenated form: one id, one spelling.
    #[serde(deserialize_with = "canonical_uuid")]
    pub id: CommandId,
    /// The publishing service.
    #[serde(borrow)]
    pub iss: Cow<'a, str>,
    /// The deployment it is meant for.
    #[serde(borrow)]
    pub aud: Cow<'a, str>,
    /// The verb.
    #[serde(borrow)]
    pub verb: Cow<'a, str>,
    /// The account id.
    #[serde(borrow)]
    pub account: Cow<'a, str>,
    /// The publisher's instance; empty when nobody waits.
    #[serde(borrow)]
    pub reply: Cow<'a, str>,
    /// When it was signed, in Unix milliseconds.
    pub iat: u64,
    /// When nobody waits any more, in Unix milliseconds.
    pub exp: u64,
    /// The signatures.
    #[serde(borrow)]
    pub sig: Signatures<'a>,
    /// The command, to the byte.
    #[serde(borrow)]
    body: &'a RawValue,
}

fn canonical_uuid<'de, D: Deserializer<'de>>(deserializer: D) -> Result<CommandId, D::Error> {
    let Text(text) = Text::deserialize(deserializer)?;
    let id = CommandId::try_parse(&text).map_err(D::Error::custom)?;
    if id.hyphenated().encode_lower(&mut CommandId::encode_buffer()) == text.as_ref() {
        return Ok(id);
    }
    Err(D::Error::custom("id: a UUID in lower case with hyphens"))
}

/// A member of a batch as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WrittenMember<'a> {
    #[serde(deserialize_with = "canonical_uuid")]
    pub(crate) id: CommandId,
    #[serde(borrow)]
    pub(crate) verb: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) account: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) body: &'a RawValue,
}

/// What an envelope says in one command.
#[derive(Debug)]
pub struct Said<'a> {
    /// The verb.
    pub verb: Cow<'a, str>,
    /// The account id.
    pub account: Cow<'a, str>,
    /// The command, to the byte.
    pub body: &'a [u8],
}

impl Said<'_> {
    /// What it says, without who says it and when.
    #[must_use]
    pub fn fingerprint(&self) -> Hash {
        fingerprint(&self.verb, &self.account, self.body)
    }
}

/// Why bytes are not an envelope.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    /// Not the JSON that is expected.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// Another JSON value.
    #[error("an envelope is a JSON object")]
    Form,
    /// A version that this ledger does not speak.
    #[error("v: version {0} is not known, send 1")]
    Version(u8),
    /// An instance token of other characters, or too long.
    #[error("reply: at most 64 of A-Z, a-z, 0-9, _ and -")]
    Reply,
}

impl<'a> Envelope<'a> {
    /// Reads an envelope strictly: unknown or duplicate members are refused.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, EnvelopeError> {
        // A reader of structs would also take an array of their members in order.
        if bytes.trim_ascii_start().first() != Some(&b'{') {
            return Err(EnvelopeError::Form);
        }
        let envelope: Envelope<'a> = serde_json::from_slice(bytes)?;
        if envelope.v != 1 {
            return Err(EnvelopeError::Version(envelope.v));
        }
        if envelope.reply.len() > REPLY_MAX || !is_token(&envelope.reply) {
            return Err(EnvelopeError::Reply);
        }
        Ok(envelope)
    }

    /// The body's bytes exactly as carried.
    #[must_use]
    pub fn body(&self) -> &'a [u8] {
        self.body_text().as_bytes()
    }

    pub(crate) fn body_text(&self) -> &'a str {
        self.body.get()
    }

    /// What it says under the id `id`, alone or as a member of a batch, with this fingerprint.
    #[must_use]
    pub fn said(&self, id: CommandId, wanted: &Hash) -> Option<Said<'_>> {
        if self.verb != BATCH {
            let (verb, account) = (Cow::Borrowed(self.verb.as_ref()), Cow::Borrowed(self.account.as_ref()));
            let said = Said { verb, account, body: self.body() };
            return Some(said).filter(|said| self.id == id && said.fingerprint() == *wanted);
        }
        let named = self.batch().into_iter().filter(|(member, _)| *member == id);
        named.map(|(_, said)| said).find(|said| said.fingerprint() == *wanted)
    }

    /// Whatever it says as a batch in members that are well formed, with their ids.
    #[must_use]
    pub fn batch(&self) -> Vec<(CommandId, Said<'a>)> {
        let members: Vec<&'a RawValue> = serde_json::from_str(self.body.get()).unwrap_or_default();
        let members = members.into_iter().filter_map(|member| serde_json::from_str(member.get()).ok());
        let said = |WrittenMember { id, verb, account, body }: WrittenMember<'a>| {
            (id, Said { verb, account, body: body.get().as_bytes() })
        };
        members.map(said).collect()
    }

    /// The SHA-256 of the body's bytes.
    #[must_use]
    pub fn body_digest(&self) -> Hash {
        Sha256::digest(self.body()).into()
    }

    /// What the signature of the key `kid` covers, given the [`Envelope::body_digest`].
    #[must_use]
    pub fn preimage(&self, kid: &str, body: &Hash) -> Vec<u8> {
        let fields = Signed {
            iss: &self.iss,
            aud: &self.aud,
            verb: &self.verb,
            account: &self.account,
            reply: &self.reply,
            id: self.id,
            iat: self.iat,
            exp: self.exp,
        };
        fields.preimage(kid, body)
    }
}

/// One to three signatures, by key id; the same id twice is refused.
#[derive(Debug)]
pub struct Signatures<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl Signatures<'_> {
    /// Each key id with its MAC.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(kid, mac)| (kid.as_ref(), mac.as_ref()))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Signatures<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Vec<(Cow<'de, str>, Cow<'de, str>)>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object of one to three signatures by key id")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut found = Vec::with_capacity(1);
                while let Some((Text(kid), Text(mac))) = map.next_entry::<Text<'de>, Text<'de>>()? {
                    if found.len() == SIGNATURES_MAX || found.iter().any(|(known, _)| *known == kid) {
                        return Err(A::Error::custom("sig: one to three signatures, each key once"));
                    }
                    found.push((kid, mac));
                }
                if found.is_empty() {
                    return Err(A::Error::custom("sig: one to three signatures, each key once"));
                }
                Ok(found)
            }
        }
        deserializer.deserialize_map(Members).map(Signatures)
    }
}

/// A string that is borrowed where JSON allows it.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// The signed fields besides the body.
struct Signed<'a> {
    iss: &'a str,
    aud: &'a str,
    verb: &'a str,
    account: &'a str,
    reply: &'a str,
    id: CommandId,
    iat: u64,
    exp: u64,
}

impl Signed<'_> {
    fn preimage(&self, kid: &str, body: &Hash) -> Vec<u8> {
        let mut preimage = Vec::with_capacity(256);
        preimage.length_prefixed(TAG);
        for text in [kid, self.iss, self.aud, self.verb, self.account, self.reply] {
            preimage.length_prefixed(text.as_bytes());
        }
        preimage.length_prefixed(self.id.as_bytes());
        preimage.length_prefixed(&self.iat.to_be_bytes());
        preimage.length_prefixed(&self.exp.to_be_bytes());
        preimage.length_prefixed(body);
        preimage
    }
}

/// A command about to be signed.
#[derive(Debug, Clone)]
pub struct Draft<'a> {
    /// The command id: a new one for a new attempt, the same for a retry.
    pub id: CommandId,
    /// The deployment.
    pub audience: &'a str,
    /// The verb, or [`BATCH`].
    pub verb: &'a str,
    /// The account; of a batch one of its members', which chooses the lane.
    pub account: &'a str,
    /// The instance that waits; empty when nobody does.
    pub reply: &'a str,
    /// Now.
    pub issued_at: Timestamp,
    /// When nobody waits any more.
    pub expires_at: Timestamp,
    /// The command's body: JSON.
    pub body: &'a RawValue,
}

/// The envelope as written; the order of members is that of the documentation.
#[derive(Serialize)]
struct Written<'a> {
    v: u8,
    id: CommandId,
    iss: &'a str,
    aud: &'a str,
    verb: &'a str,
    account: &'a str,
    reply: &'a str,
    iat: u64,
    exp: u64,
    sig: OneSignature<'a>,
    body: &'a RawValue,
}

/// What one key made of it.
struct OneSignature<'a> {
    kid: &'a str,
    mac: &'a str,
}

impl Serialize for OneSignature<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map([(self.kid, self.mac)])
    }
}

impl Draft<'_> {
    /// The bytes to publish, signed with `keys`.
    #[must_use]
    pub fn sign(&self, keys: &ClientKeys) -> Vec<u8> {
        let millis = |at: Timestamp| u64::try_from(at.millis()).unwrap_or(0);
        let fields = Signed {
            iss: keys.issuer.as_str(),
            aud: self.audience,
            verb: self.verb,
            account: self.account,
            reply: self.reply,
            id: self.id,
            iat: millis(self.issued_at),
            exp: millis(self.expires_at),
        };
        let kid = keys.command.id();
        let body = Sha256::digest(self.body.get()).into();
        let mac = keys.command.sign(&fields.preimage(kid, &body));
        let written = Written {
            v: 1,
            id: fields.id,
            iss: fields.iss,
            aud: fields.aud,
            verb: fields.verb,
            account: fields.account,
            reply: fields.reply,
            iat: fields.iat,
            exp: fields.exp,
            sig: OneSignature { kid, mac: &mac },
            body: self.body,
        };
        let mut envelope = Vec::with_capacity(BESIDES_BODY_BYTES + self.body.get().len());
        serde_json::to_writer(&mut envelope, &written).expect("an envelope is plain values");
        envelope
    }

    /// The subject to publish it on.
    #[must_use]
    pub fn subject(&self, issuer: &Issuer) -> String {
        crate::subject::command(issuer.as_str(), self.verb, self.account)
    }
}
