//! The published signature vectors, which bind every implementation of the envelope.

use holdfast_core::chain::fingerprint;
use holdfast_core::{Issuer, Timestamp};
use holdfast_protocol::keys::ClientKeys;
use holdfast_protocol::token::{Purpose, hex};
use holdfast_protocol::verify::{Received, Rules, Silent, verify};
use holdfast_protocol::{Draft, Envelope, Issuers, Keyring, RootToken, outcome, subject};
use secrecy::SecretString;
use serde_json::Value;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

fn vectors() -> Vec<Value> {
    let file: Value = serde_json::from_str(include_str!("../vectors/envelope-v1.json")).expect("JSON");
    file["vectors"].as_array().expect("a list").clone()
}

fn text<'a>(vector: &'a Value, path: &str) -> &'a str {
    vector.pointer(path).and_then(Value::as_str).unwrap_or_else(|| panic!("{path} in {vector}"))
}

fn root(vector: &Value) -> RootToken {
    RootToken::new(&SecretString::from(text(vector, "/token"))).expect("a strong token")
}

fn rules(vector: &Value, extra: &str) -> Rules {
    let names = ["chat-api", "ab", "a"];
    let verbs = r#"["reserve", "capture", "release", "top_up"]"#;
    let file: String = names
        .iter()
        .map(|name| format!("[issuer.{name}]\nverbs = {verbs}\ngenerations = [1, 2]\n{extra}\n"))
        .collect();
    let issuers = Issuers::parse(&file).expect("valid");
    let root = root(vector);
    Rules { keyring: Keyring::new(&[&root], &issuers), issuers, audience: "ledger.test".to_owned() }
}

fn received<'a>(vector: &'a Value) -> Received<'a> {
    Received {
        subject: text(vector, "/subject"),
        stored_at: Timestamp::from_millis(vector["fields"]["iat"].as_u64().expect("a number")),
        payload: text(vector, "/envelope").as_bytes(),
    }
}

#[test]
fn every_command_vector_is_derived_signed_and_verified() {
    let mut checked = 0;
    for vector in vectors().iter().filter(|vector| vector.get("mac").is_some()) {
        let root = root(vector);
        let generation = u32::try_from(vector["generation"].as_u64().expect("a number")).expect("small");
        let issuer = text(vector, "/fields/iss");
        let kid = root.key_id(Purpose::CommandMac, issuer, generation);
        assert_eq!(kid, text(vector, "/kid"));
        assert_eq!(hex(&root.key(Purpose::CommandMac, issuer, generation)), text(vector, "/key"));

        let envelope = Envelope::parse(text(vector, "/envelope").as_bytes()).expect("strict JSON");
        assert_eq!(envelope.body(), text(vector, "/body").as_bytes());
        let preimage = envelope.preimage(&kid, &envelope.body_digest());
        assert_eq!(preimage.len() as u64, vector["preimage_len"].as_u64().expect("a number"));
        assert_eq!(hex(&Sha256::digest(&preimage)), text(vector, "/preimage_sha256"));
        let keys = ClientKeys::derive(&root, &Issuer::new(issuer).expect("legal"), generation);
        assert_eq!(keys.command.sign(&preimage), text(vector, "/mac"));
        let print = fingerprint(&envelope.verb, &envelope.account, envelope.body());
        assert_eq!(hex(&print), text(vector, "/fingerprint"));
        assert_eq!(subject::command(issuer, &envelope.verb, &envelope.account), text(vector, "/subject"));
        checked += 1;
    }
    assert_eq!(checked, 8);
}

#[test]
fn a_signed_draft_is_the_vector_to_the_byte() {
    for vector in vectors().iter().filter(|vector| vector.get("mac").is_some()) {
        let root = root(vector);
        let issuer = Issuer::new(text(vector, "/fields/iss")).expect("legal");
        let generation = u32::try_from(vector["generation"].as_u64().expect("a number")).expect("small");
        let body = RawValue::from_string(text(vector, "/body").to_owned()).expect("JSON");
        let millis = |name: &str| Timestamp::from_millis(vector["fields"][name].as_u64().expect("a number"));
        let draft = Draft {
            id: text(vector, "/fields/id").parse().expect("a UUID"),
            audience: text(vector, "/fields/aud"),
            verb: text(vector, "/fields/verb"),
            account: text(vector, "/fields/account"),
            reply: text(vector, "/fields/reply"),
            issued_at: millis("iat"),
            expires_at: millis("exp"),
            body: &body,
        };
        let signed = draft.sign(&ClientKeys::derive(&root, &issuer, generation));
        assert_eq!(String::from_utf8(signed).expect("UTF-8"), text(vector, "/envelope"));
        assert_eq!(draft.subject(&issuer), text(vector, "/subject"));
    }
}

#[test]
fn the_ledger_believes_each_vector_but_the_one_that_is_no_verb() {
    for vector in vectors().iter().filter(|vector| vector.get("envelope").is_some()) {
        let rules = rules(vector, "");
        let result = verify(&rules, received(vector)).map(|authentic| authentic.issuer().to_string());
        let expected = match text(vector, "/name") {
            "shift-b" => Err(Silent::VerbNotAllowed),
            _ => Ok(text(vector, "/fields/iss").to_owned()),
        };
        assert_eq!(result, expected, "{}", text(vector, "/name"));
    }
}

#[test]
fn every_flipped_bit_is_noticed() {
    let vector = &vectors()[0];
    let rules = rules(vector, "");
    let honest = received(vector);
    let mut forged = honest.payload.to_vec();
    let mut tried = 0;
    for byte in 0..forged.len() {
        for bit in 0..8 {
            forged[byte] ^= 1 << bit;
            let result = verify(&rules, Received { payload: &forged, ..honest });
            assert!(result.is_err(), "bit {bit} of byte {byte}: {}", String::from_utf8_lossy(&forged));
            forged[byte] ^= 1 << bit;
            tried += 1;
        }
    }
    assert_eq!(tried, honest.payload.len() * 8);
}

#[test]
fn what_is_not_exactly_right_is_passed_over_in_silence() {
    let vector = &vectors()[0];
    let honest = text(vector, "/envelope");
    let iat = vector["fields"]["iat"].as_u64().expect("a number");
    let at = Timestamp::from_millis;
    let fixed = |subject: &'static str, stored_at, payload: String| (subject, stored_at, payload);
    const RIGHT: &str = "ledger.cmd.chat-api.reserve.user-1";
    let padded = format!("{}{}", honest, " ".repeat(64 * 1024));
    let cases = [
        (fixed("ledger.cmd.chat-api.reserve.user-2", at(iat), honest.to_owned()), Silent::WrongSubject),
        (fixed("ledger.cmd.chat-api.deduct.user-1", at(iat), honest.to_owned()), Silent::WrongSubject),
        (fixed(RIGHT, at(iat + 300_001), honest.to_owned()), Silent::StaleIat),
        (fixed(RIGHT, at(iat - 300_001), honest.to_owned()), Silent::StaleIat),
        (fixed(RIGHT, at(iat), padded), Silent::TooLarge),
        (fixed(RIGHT, at(iat), honest.replace(r#""v":1,"#, r#""v":1,"v":1,"#)), Silent::Malformed),
        (fixed(RIGHT, at(iat), honest.replace(r#""v":1,"#, r#""v":1,"x":1,"#)), Silent::Malformed),
        (fixed(RIGHT, at(iat), honest.replace(r#""v":1"#, r#""v":2"#)), Silent::Malformed),
        (fixed(RIGHT, at(iat), honest.replace(r#""reply":"i1""#, r#""reply":"a.b""#)), Silent::Malformed),
        (fixed(RIGHT, at(iat), honest.replace("b938071478370113", "0000000000000000")), Silent::UnknownKey),
        (fixed(RIGHT, at(iat), "[".repeat(60_000)), Silent::Malformed),
    ];
    for ((subject, stored_at, payload), expected) in cases {
        let received = Received { subject, stored_at, payload: payload.as_bytes() };
        assert_eq!(verify(&rules(vector, ""), received).map(|_| ()), Err(expected));
    }
    let revoked = rules(vector, r#"revoked = ["b938071478370113"]"#);
    assert_eq!(verify(&revoked, received(vector)).map(|_| ()), Err(Silent::RevokedKey));
    let elsewhere = Rules { audience: "ledger.prod".to_owned(), ..rules(vector, "") };
    assert_eq!(verify(&elsewhere, received(vector)).map(|_| ()), Err(Silent::WrongAudience));
}

#[test]
fn an_envelope_is_believed_in_a_bundle_of_its_issuer_and_a_batch_in_none() {
    let vector = &vectors()[0];
    let rules = rules(vector, "");
    let believed = |subject: &str, payload: &[u8]| {
        verify(&rules, Received { subject, payload, ..received(vector) }).map(|_| ())
    };
    let honest = text(vector, "/envelope").as_bytes();
    let padded = [honest, " ".repeat(64 * 1024).as_bytes()].concat();
    let keys = ClientKeys::derive(&root(vector), &Issuer::new("chat-api").expect("legal"), 1);
    let issued_at = Timestamp::from_millis(vector["fields"]["iat"].as_u64().expect("a number"));
    let batch = Draft {
        id: holdfast_core::CommandId::nil(),
        audience: text(vector, "/fields/aud"),
        verb: "batch",
        account: "user-1",
        reply: "",
        issued_at,
        expires_at: issued_at,
        body: &RawValue::from_string("[]".to_owned()).expect("JSON"),
    };
    let batch = batch.sign(&keys);
    let cases = [
        ("ledger.cmd.chat-api.bundle.user-1", honest, Ok(())),
        ("ledger.cmd.chat-api.bundle.user-2", honest, Ok(())),
        ("ledger.cmd.chat-api.bundle.user-2.0", honest, Ok(())),
        ("ledger.cmd.chat-ap.bundle.user-1", honest, Err(Silent::WrongSubject)),
        ("ledger.cmd.other.bundle.user-1", honest, Err(Silent::WrongSubject)),
        ("ledger.cmd.chat-api.bundles.user-1", honest, Err(Silent::WrongSubject)),
        ("ledger.cmd.chat-api.bundle", honest, Err(Silent::WrongSubject)),
        ("ledger.cmd.chat-api.bundle.user-1", &padded, Err(Silent::TooLarge)),
        ("ledger.cmd.chat-api.bundle.user-1", &batch, Err(Silent::WrongSubject)),
        ("ledger.cmd.chat-api.batch.user-1", &batch, Ok(())),
    ];
    for (subject, payload, expected) in cases {
        assert_eq!(believed(subject, payload), expected, "{subject}");
    }
}

#[test]
fn one_service_cannot_sign_for_another() {
    let vector = &vectors()[0];
    let rules = rules(vector, "");
    let other = ClientKeys::derive(&root(vector), &Issuer::new("ab").expect("legal"), 1);
    let honest = Envelope::parse(text(vector, "/envelope").as_bytes()).expect("strict JSON");
    let mac = other.command.sign(&honest.preimage(other.command.id(), &honest.body_digest()));
    let forged = text(vector, "/envelope")
        .replace(text(vector, "/kid"), other.command.id())
        .replace(text(vector, "/mac"), &mac);
    let result = verify(&rules, Received { payload: forged.as_bytes(), ..received(vector) });
    assert_eq!(result.map(|_| ()), Err(Silent::UnknownKey));
}

#[test]
fn the_outcome_vector_holds_and_nothing_near_it() {
    let vectors = vectors();
    let vector = vectors.iter().find(|vector| text(vector, "/name") == "outcome").expect("listed");
    let keys = ClientKeys::derive(&root(vector), &Issuer::new("chat-api").expect("legal"), 1);
    let (subject, payload) = (text(vector, "/subject"), text(vector, "/payload").as_bytes());
    let header = outcome::signature(&keys.outcome, subject, payload);
    assert_eq!(format!("Holdfast-Signature: {header}"), text(vector, "/header"));
    assert!(outcome::signature_holds(&keys.outcome, subject, payload, &header));
    assert!(!outcome::signature_holds(&keys.outcome, "ledger.rsp.chat-api.i2.x", payload, &header));
    assert!(!outcome::signature_holds(&keys.outcome, subject, b"{}", &header));
    assert!(!outcome::signature_holds(&keys.command, subject, payload, &header));
}

#[test]
fn exported_keys_sign_as_the_root_does() {
    let vector = &vectors()[0];
    let issuer = Issuer::new("chat-api").expect("legal");
    let line = ClientKeys::export(&root(vector), &issuer, 1);
    let keys: ClientKeys = line.parse().expect("what was exported");
    let envelope = Envelope::parse(text(vector, "/envelope").as_bytes()).expect("strict JSON");
    assert_eq!(
        keys.command.sign(&envelope.preimage(keys.command.id(), &envelope.body_digest())),
        text(vector, "/mac")
    );
    assert!("hfk1.chat-api.x.y".parse::<ClientKeys>().is_err());
}
